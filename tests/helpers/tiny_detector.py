"""A classifier that has learned a few scenes by heart, and the small parts that a detector needs."""

import functools
from pathlib import Path

import torch
from torch.nn import functional as F

from helpers.normalizations import CENTRED
from verisal.attacks import FGSM, PGD, SignNoise
from verisal.data import EmojiScenes
from verisal.detection import DetectorData
from verisal.detectors import CNNDetector, DetectorFeatures, MaxSoftmax, Pixels
from verisal.models import Classifier, SmallResNet, export_classifier
from verisal.saliency import HierarchicalMasks

SIZE = 32
# A threshold for FPR 5 % asks for 200 clean validation images that are classified correctly.
COUNTS = {"det_fit": 40, "det_val": 236, "det_test": 33}


@functools.cache
def memorised(seed=0):
    """Right on nearly all scenes of the three splits, and deliberately wrong on every twentieth."""
    parts = []
    for split, count in COUNTS.items():
        batch = EmojiScenes(split, count, size=SIZE).stack(range(count))
        labels = batch.labels.clone()
        labels[::20] = (labels[::20] + 1) % 24
        parts.append((batch.images, labels))
    images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallResNet(24, widths=(8, 8, 16, 32))
        classifier = Classifier(
            network,
            network.stage_names,
            class_names=EmojiScenes("det_fit", 1).class_names,
            image_size=SIZE,
            normalization=CENTRED,
        )
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
        for _ in range(16):
            for rows in torch.randperm(len(images)).split(32):
                optimiser.zero_grad()
                F.cross_entropy(classifier(images[rows]), labels[rows]).backward()
                optimiser.step()
    return classifier.eval().requires_grad_(False)


def exported(folder, seed=0):
    """Path of the memorised classifier as an export."""
    path = Path(folder) / f"tiny-{seed}.safetensors"
    if not path.exists():
        export_classifier(path, memorised(seed), origin={"made for": "tests"})
    return path


def masks(**settings):
    return HierarchicalMasks(
        **{"objective": "class", "reg_weight": 0.5, "steps": 4, "learning_rate": 0.25} | settings
    )


def features(**settings):
    return DetectorFeatures(**{"saliency": masks()} | settings)


def attacks():
    """The first one mostly succeeds, the last one hardly ever."""
    return {"pgd": PGD(8 / 255, steps=4), "fgsm": FGSM(4 / 255), "weak": FGSM(1 / 255)}


FAMILIES = {"iterated": ["pgd"], "one_step": ["fgsm", "weak"]}


def rows(*names, source=None, **settings):
    """Detectors by the names of their rows, small; all read the same unless they read the image."""
    source = source or features()
    network = {"source": source, "grid": 4, "width": 4, "members": 2} | settings
    every = {
        "masks_activations": lambda: CNNDetector(reads=("masks/*", "activations/*"), **network),
        "masks": lambda: CNNDetector(reads=("masks/*",), **network),
        "activations": lambda: CNNDetector(reads=("activations/*",), **network),
        "gradient": lambda: CNNDetector(reads=("gradient",), **network),
        "raw_image": lambda: CNNDetector(reads=("image",), **network | {"source": Pixels()}),
        "max_softmax": lambda: MaxSoftmax(source=source),
    }
    return {name: every[name]() for name in names or every}


def data(folder, **settings):
    """The data module over the memorised scenes, with its stores under ``folder``."""
    known = {
        "attacks": attacks(),
        "families": FAMILIES,
        "fits": {"default": ["pgd"]},
        "noise": {"noise_linf": SignNoise(8 / 255)},
        "noise_like": "pgd",
        "classifier": str(exported(folder)),
        "fit_count": COUNTS["det_fit"],
        "val_count": COUNTS["det_val"],
        "val_attacked_count": 20,
        "test_count": COUNTS["det_test"],
        "store": str(Path(folder) / "store"),
        "batch_size": 32,
    }
    return DetectorData(**known | settings)


CONFIG = """
seed_everything: 0
model:
  class_path: DetectorTask
  init_args:
    detectors:
      masks_activations:
        class_path: CNNDetector
        init_args:
          source: &features
            class_path: DetectorFeatures
            init_args:
              saliency:
                class_path: verisal.saliency.HierarchicalMasks
                init_args: {{objective: class, reg_weight: 0.5, steps: 4, learning_rate: 0.25}}
              queries: [prediction, runner_up]
          reads: [masks/*, activations/*]
          members: 2
          grid: 8
          width: 4
      masks:
        class_path: CNNDetector
        init_args: {{source: *features, reads: [masks/*], members: 2, grid: 8, width: 4}}
      activations:
        class_path: CNNDetector
        init_args: {{source: *features, reads: [activations/*], members: 2, grid: 8, width: 4}}
      gradient:
        class_path: CNNDetector
        init_args: {{source: *features, reads: [gradient], members: 2, grid: 8, width: 4}}
      raw_image:
        class_path: CNNDetector
        init_args:
          source: {{class_path: verisal.detectors.Pixels}}
          reads: [image]
          members: 2
          grid: 8
          width: 4
      max_softmax: {{class_path: MaxSoftmax, init_args: {{source: *features}}}}
    head: masks_activations
    resamples: 40
data:
  class_path: DetectorData
  init_args:
    classifier: {classifier}
    attacks:
      pgd: {{class_path: PGD, init_args: {{eps: 0.0314, steps: 4}}}}
      fgsm: {{class_path: FGSM, init_args: {{eps: 0.0157}}}}
    families: {{iterated: [pgd], one_step: [fgsm]}}
    fits: {{default: [pgd]}}
    noise:
      noise_linf: {{class_path: SignNoise, init_args: {{eps: 0.0314}}}}
    noise_like: pgd
    fit_count: 40
    val_count: 236
    val_attacked_count: 20
    test_count: 33
    store: {store}
    batch_size: 32
trainer:
  max_epochs: 2
  accelerator: cpu
wandb:
  mode: disabled
"""


def config(folder, *, store="store", classifier=None):
    """Path of a configuration file for the command line."""
    path = Path(folder) / f"detector-{Path(store).name}.yaml"
    path.write_text(CONFIG.format(classifier=classifier or exported(folder), store=Path(folder) / store))
    return str(path)
