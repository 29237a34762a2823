"""A timm network with weights in a file, and a folder of photographs: explained, judged, guarded."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from verisal.cli import main
from verisal.data import AnnotatedImages, ImageFolder, ImageSplits, check_data
from verisal.models import load_classifier
from verisal.types import Batch

# Commands are run for their numbers here.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]

ROOT = Path(__file__).parents[2]
SIZE = 32
NAMES = ["Egyptian cat", "space shuttle", "tripod", "espresso", "missile", "military uniform", "moped"]
QUIET = ["--wandb.mode=disabled", "--trainer.accelerator=cpu"]
PARTS = {"fit": 12, "val": 12, "test": 12, "test_pasted": 6}


def folder_of(part):
    root = Path("data/photographs", part)
    return ImageFolder(root=str(root), annotations=str(root / "boxes.csv"), format="csv")


def batch_of(part, classifier):
    splits = ImageSplits(images=folder_of(part), ratios=(0, 1, 0))
    images = AnnotatedImages(splits, "val", classifier=classifier)
    return Batch.collate([images[index] for index in range(len(images))])


def learned_by_heart(settings):
    """Weights of the network after some steps on all of the photographs."""
    batches = [batch_of(part, load_classifier(**settings | {"weights": None})) for part in PARTS]
    images, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=len(NAMES))
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.003)
        for _ in range(40):
            optimiser.zero_grad()
            F.cross_entropy(network((images - 0.5) / 0.5), labels).backward()
            optimiser.step()
    return network.state_dict()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photographs, the weights ``network.pt`` and the settings of the classifier."""
    folder = tmp_path_factory.mktemp("photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT / "scripts"))
        script = importlib.import_module("make_photographs")
        counts = [f"--{name}_count=12" for name in ("fit", "val", "test")]
        script.main([*counts, "--pasted_count=6", "--size=48", "--classifier=null"])
        settings = {
            "name": "timm:test_resnet",
            "weights": "network.pt",
            "class_names": NAMES,
            "image_size": SIZE,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        }
        torch.save(learned_by_heart(settings), "network.pt")
        Path("classifier.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.chdir(home)
    return json.loads(Path("classifier.json").read_text())


def as_options(settings, prefix):
    """A classifier as ``verisal explain`` and, below a prefix, the other commands take it."""
    return [
        f"{prefix}{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in settings.items()
    ]


@pytest.mark.parametrize("part", PARTS)
def test_the_photographs_are_a_data_set_without_problems(settings, part):
    assert check_data(folder_of(part)).problems == ()
    batch = batch_of(part, load_classifier(**settings))
    assert len(batch) == PARTS[part]
    assert all(len(boxes) for boxes in batch.boxes)


def test_no_photograph_stands_in_two_parts(settings):
    sources = {
        part: {path.name.partition("_")[0] for path in Path("data/photographs", part).rglob("*.jpg")}
        for part in ("fit", "val", "test")
    }
    assert sources == {
        "fit": {"cat", "shuttle"},
        "val": {"camera", "coffee"},
        "test": {"rocket", "hopper", "motorcycle"},
    }


def test_pasted_pictures_have_two_classes(settings):
    batch = batch_of("test_pasted", load_classifier(**settings))
    assert [len(set(labels.tolist())) for labels in batch.object_labels] == [2] * 6


def test_explain(settings, capsys):
    words = [word.replace("--name", "--classifier") for word in as_options(settings, "--")]
    photographs = sorted(str(path) for path in Path("data/photographs/test").rglob("*_00[01].jpg"))
    method = ["--saliency=EvidenceMasks", "--saliency.fall=3", "--saliency.settle=1"]
    assert main(["explain", *photographs, *words, *method, "--output=explained"]) == 0
    first = Path(photographs[0]).name
    with Image.open(f"explained/{first}.explained.png") as figure:
        assert figure.width > 3 * SIZE
    maps = np.load(f"explained/{first}.npz")
    assert maps["saliency"].shape == (2, 1, SIZE, SIZE)
    assert maps["raw_layers"].shape == (2, 4, SIZE, SIZE)
    assert capsys.readouterr().out.count(" -> ") == len(photographs) == 2


def test_validate(settings):
    text = (ROOT / "configs" / "data" / "photographs.yaml").read_text()
    assert text.count("&classifier imagenet_efficientnet_lite0") == 1
    path = Path("photographs.yaml")
    path.write_text(
        text.replace("&classifier imagenet_efficientnet_lite0", f"&classifier {json.dumps(settings)}")
    )
    assert main(["validate", "--config", str(path), "--run_dir", "judged", *QUIET, "--data.val_count=4"]) == 0
    metrics = json.loads(Path("judged/report.val.json").read_text())["metrics"]
    wanted = ("max_box_acc[iou0.5]/accuracy", "road_morf[linear]/probability")
    found = [metrics[f"val/evidence_masks/{name}"]["n"] for name in wanted]
    assert min(found) > 0
    assert metrics["val/evidence_masks/D-WSOL (our protocol)/margin_rel_c3"]["n"] > 0
    assert metrics["val/evidence_masks/D-WSOL (our protocol), present classes/hit"]["n"] > 0
    assert metrics["val/classifier/accuracy"]["n"] == 4


# Weights that know 48 pictures by heart need more noise than a real network.
SMALL = """
model:
  init_args:
    head: masks_activations
    detectors:
      masks_activations:
        class_path: CNNDetector
        init_args:
          source: &features
            class_path: DetectorFeatures
            init_args:
              saliency:
                {class_path: verisal.saliency.HierarchicalMasks, init_args: {steps: 10, learning_rate: 0.1}}
          reads: ["masks/*", "activations/*"]
          members: 1
          grid: 4
          width: 4
      max_softmax: {class_path: MaxSoftmax, init_args: {source: *features}}
data:
  init_args:
    families: {linf: [pgd_linf_2]}
    fits: {default: [pgd_linf_2]}
    attacks: {pgd_linf_2: {class_path: PGD, init_args: {eps: 0.1}}}
    merged: []
    test_noise_like: pgd_linf_2
"""


def test_fit(settings):
    Path("small.yaml").write_text(SMALL)
    configs = [
        ROOT / "configs" / "detector.yaml",
        ROOT / "configs" / "data" / "detector_photographs.yaml",
        "small.yaml",
    ]
    words = [word for config in configs for word in ("--config", str(config))]
    counts = ["fit_count=12", "val_count=12", "val_attacked_count=6", "test_count=12"]
    words += [f"--data.{count}" for count in counts] + as_options(settings, "--data.classifier.")
    words += ["--trainer.max_epochs=1"]
    assert main(["fit", *words, *QUIET, "--run_dir", "fitted"]) == 0
    metrics = json.loads(Path("fitted/report.json").read_text())["metrics"]
    assert metrics["test/masks_activations/auroc/pgd_linf_2"]["n"] > 0
    # The export is tested from its folder, on the same data.
    assert main(["export", "fitted", "--output", "shared"]) == 0
    assert (
        main(["test", "--model", "shared", "--config", "fitted/config.yaml", *QUIET, "--run_dir", "again"])
        == 0
    )
    assert json.loads(Path("again/report.json").read_text())["metrics"] == metrics
