"""Masks on classifiers of several kinds: python scripts/masks_on_networks.py --photographs FOLDER.

Each classifier is asked for every class at a known place in pictures of its own kind: mosaics of four
photographs (FOLDER holds one folder for each class) for imagenet_efficientnet_lite0 and _lite1; scenes with
two or three objects for emoji_scenes_64, and for a convnext and a vit that are trained here on scenes, whose
accuracy on others is printed; and with --small NAME WEIGHTS IMAGES mosaics of images of 32 px for a user's
own network, given as package.module:function with its file of weights and a folder of images. A class counts
if it is among the classifier's first ten logits, of ten classes among the first three.

Per method: passes, energy in the cell or on the object, pointing, box accuracy (at thresholds chosen on the
other half of the maps, and in brackets the highest), maps that are empty and left out of these, and the
response of the most likely and of a random class that are not there, as a share of that of the most likely
class that is. Intervals are over pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.data import AnnotatedImages, EmojiScenes, ImageFolder, ImageSplits, Mosaics
from verisal.functional.per_image import joined_results
from verisal.functional.regions.disturbed import absent_queries, present_queries
from verisal.functional.scopes import differentiated
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics import ClassRankScores, EnergyInside, MaxBoxAcc, PointingGame
from verisal.models import Classifier, load_classifier
from verisal.models.sources.libraries import Architecture
from verisal.models.sources.shipped import IMAGENET_CLASSIFIERS
from verisal.saliency import (
    EvidenceMasks,
    GradCAM,
    HierarchicalMasks,
    OneLayer,
    UngatedContributions,
)
from verisal.saliency.gates.masks import fused_maps, resize_maps
from verisal.types import Batch, Explained, SaliencyResult

Method = Callable[[Classifier, Tensor, Tensor], SaliencyResult]

_SHIPPED = "emoji_scenes_64"
_SIZE, _CLASSES = 64, 24
# Small enough to learn scenes in a few minutes of one core.
_TRAINED = {
    "convnext": Architecture(
        "timm",
        "convnext_atto",
        {"depths": [1, 1, 2, 1], "dims": [24, 48, 96, 192], "patch_size": 2, "num_classes": _CLASSES},
    ),
    "vit": Architecture(
        "timm",
        "vit_tiny_patch16_224",
        {
            "img_size": _SIZE,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 3,
            "num_classes": _CLASSES,
        },
    ),
}
_COLUMNS = ("map", "passes", "energy", "pointing", "box", "no map", "response, likely", "response, random")
_AT_ONCE = 16
# So few classes that the first ten logits are all of them.
_FEW_CLASSES = 10
_NORMALIZATION = ((0.5,) * 3, (0.25,) * 3)


def layer_cam(classifier: Classifier, images: Tensor, query: Tensor) -> SaliencyResult:
    """Activations of the last stage, weighted place by place by the positive part of their gradients."""
    return _layer_cam(classifier, images, query)[-1]


def layer_cam_of_all(classifier: Classifier, images: Tensor, query: Tensor) -> SaliencyResult:
    """The same of every stage, joined as the maps of gates are."""
    layers = [result.saliency for result in _layer_cam(classifier, images, query)]
    joined = fused_maps(layers, "geometric", smoothing=5.0)
    return SaliencyResult(joined, torch.stack(layers).mean(dim=0), n_forward=2, n_backward=1)


def _layer_cam(classifier: Classifier, images: Tensor, query: Tensor) -> list[SaliencyResult]:
    size = (images.shape[-2], images.shape[-1])
    with differentiated(classifier, device=images.device):
        with torch.no_grad():
            activations = classifier.stage_outputs(images).activations
        gates = [torch.ones_like(part).requires_grad_() for part in activations]
        asked = classifier.gated(activations[0], gates).gather(1, query[:, None]).sum()
        slopes = torch.autograd.grad(asked, gates)
    results = []
    for activation, slope in zip(activations, slopes, strict=True):
        # A gate's slope is activation times gradient: the gradient is positive where both have one sign.
        kept = slope.where(slope * activation > 0, 0.0).sum(dim=1, keepdim=True).clamp_min(0)
        maps = resize_maps(kept, size)
        results.append(SaliencyResult(maps, maps, n_forward=2, n_backward=1))
    return results


def methods(steps: int) -> dict[str, Method]:
    """Rows of a classifier's table."""
    whole = UngatedContributions()
    descent = HierarchicalMasks(steps=steps, shown="contribution")
    return {
        "EvidenceMasks": EvidenceMasks(),
        f"HierarchicalMasks, {steps} steps": descent,
        "with least_kept 0.3": replace(descent, least_kept=0.3),
        "UngatedContributions": whole,
        "HiResCAM": OneLayer(base=whole, layer=-1),
        "GradCAM": GradCAM(),
        "LayerCAM": layer_cam,
        "LayerCAM, all stages": layer_cam_of_all,
    }


def trained(kind: str, *, seed: int, scenes: int, epochs: int) -> Classifier:
    """A network of a kind, trained on scenes, and its accuracy on others in print."""
    start = time.process_time()
    fit = EmojiScenes("cls_train", scenes).stack(range(scenes))
    torch.manual_seed(seed)
    network = _TRAINED[kind].build().train().to(memory_format=torch.channels_last)
    classifier = Classifier(network, normalization=_NORMALIZATION, image_size=_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    per_epoch = scenes // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * per_epoch)
    for _ in range(epochs):
        for rows in torch.randperm(scenes)[: per_epoch * 64].view(per_epoch, 64):
            images = fit.images[rows]
            images = images.flip(3) if torch.rand(()) < 0.5 else images
            moved = torch.randint(-4, 5, (2,)).tolist()
            images = images.roll(moved, dims=(2, 3))
            loss = F.cross_entropy(classifier(images), fit.labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    others = EmojiScenes("cls_val", 1000).stack(range(1000))
    frozen = classifier.eval().requires_grad_(False)
    with torch.no_grad():
        found = torch.cat([frozen(part).argmax(dim=1) for part in torch.split(others.images, 100)])
    right = float((found == others.labels).double().mean())
    seconds = time.process_time() - start
    print(f"\n{kind}: accuracy {right:.3f} on 1000 scenes with one object, {seconds:.0f} s of CPU time")
    return frozen


def mosaics(classifier: Classifier, folder: Path, count: int) -> Batch:
    """Mosaics of a folder's photographs."""
    splits = ImageSplits(images=ImageFolder(root=str(folder)), ratios=(0, 3, 1))
    scenes = Mosaics().of(AnnotatedImages(splits, "val", classifier=classifier), count=count)
    return Batch.collate(list(scenes))


@dataclass(frozen=True)
class Row:
    """What a method's maps are worth; passes, forward and back, of one map."""

    passes: tuple[float, float]
    energy: Resampled
    pointing: Resampled
    box: Resampled
    highest: Resampled
    likely: Resampled
    random: Resampled

    def line(self, name: str) -> str:
        """The row of a table."""
        cells = [f"{self.passes[0]:g}, {self.passes[1]:g}"]
        for value in (self.energy, self.pointing, self.box, self.likely, self.random):
            score = value.score()
            cells.append(f"{score.value:.3f} [{score.low:.2f}, {score.high:.2f}]")
        cells[3] += f" ({self.highest.value:.3f})"
        cells.insert(4, f"{self.energy.undefined}")
        return f"| {name} | {' | '.join(cells)} |"


@dataclass(frozen=True)
class Question:
    """Pictures, the classes that are asked for in each, and those of the responses.

    Attributes:
        position: ``(N,)`` picture of every query, among those with one.
        query: ``(N,)`` its class.
        pictures: those with a query.
        first: ``(P,)`` the query of the most likely class that is there.
        absent: ``(2, P)`` the most likely class and a random one that are not there.
        there: ``(2, P)`` bool, whether there are such absent classes.
    """

    position: Tensor
    query: Tensor
    pictures: Batch
    first: Tensor
    absent: Tensor
    there: Tensor

    @classmethod
    def about(cls, classifier: Classifier, batch: Batch, *, among: int) -> Question:
        """Every class that is there and among so many first logits is asked for."""
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in torch.split(batch.images, _AT_ONCE)])
        position, query = present_queries(batch.asked_labels())
        rank = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept = rank[position, query] < among
        position, query = position[kept], query[kept]
        sets = torch.zeros_like(logits, dtype=torch.int64)
        for row, labels in zip(sets, batch.object_labels, strict=True):
            row[labels] = -1
        sets[position, query] = 1
        shown, place = torch.unique(position, return_inverse=True)
        pictures = batch.rows(shown.tolist())
        best, absent, there = absent_queries(logits[shown], sets[shown], image_ids=pictures.image_ids)
        first = (query == best[place]).nonzero()[:, 0]
        return cls(place, query, pictures, first, absent[:2], there[:2])


def judged(classifier: Classifier, method: Method, question: Question) -> Row:
    """Maps of all that is asked, and their scores."""
    asked = question.pictures.rows(question.position.tolist())
    explain = partial(explained, method, classifier)
    result = explain(asked.images, question.query)
    masks, boxes = asked.object_mask_of(question.query), asked.boxes_of(question.query)
    maps = Explained(classifier, asked.images, question.query, result, asked.image_ids, explain, masks, boxes)
    of_queries, of_pictures = Bootstrap(groups=question.position), Bootstrap()
    energy, pointing, box = (
        metric.reduce(metric.rows_of(maps), of_queries)
        for metric in (EnergyInside(), PointingGame(), MaxBoxAcc())
    )
    absent = [explain(question.pictures.images, query) for query in question.absent]
    own = replace(result, saliency=result.saliency[question.first], raw=result.raw[question.first])
    ranks = ClassRankScores(("likely", "random"))
    nowhere = tuple(part[:0] for part in question.pictures.boxes)
    rows = ranks.rows_of([own, *absent], nowhere, valid=question.there)
    likely, random = (
        of_pictures.mean(rows[:, ranks.table.columns.index(f"response[{kind}]")]) for kind in ranks.queries
    )
    passes = (result.n_forward, result.n_backward)
    accuracy, highest = box["accuracy"], box["maximum"]
    return Row(passes, energy["energy"], pointing["image_accuracy"], accuracy, highest, likely, random)


def explained(method: Method, classifier: Classifier, images: Tensor, query: Tensor) -> SaliencyResult:
    """Maps of a few images at a time."""
    parts = zip(torch.split(images, _AT_ONCE), torch.split(query, _AT_ONCE), strict=True)
    return joined_results([method(classifier, *part) for part in parts])


def table(title: str, classifier: Classifier, batch: Batch, *, steps: int) -> None:
    """Print the table of one classifier."""
    start = time.process_time()
    question = Question.about(classifier, batch, among=3 if classifier.num_classes <= _FEW_CLASSES else 10)
    print(f"\n{title}: {len(question.query)} queries on {len(question.pictures)} of {len(batch)} pictures")
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
    for name, method in methods(steps).items():
        print(judged(classifier, method, question).line(name), flush=True)
    print(f"{time.process_time() - start:.0f} s of CPU time")


def own_network(factory: str, weights: str, folder: Path) -> Classifier:
    """A user's network for images of 32 px, its classes named as the folders are, in their order."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return load_classifier(factory, weights=weights, class_names=names, image_size=32, mean=mean, std=std)


def main() -> None:
    """Print a table for each classifier."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help="some of those that are named above; all by default")
    parser.add_argument("--photographs", type=Path, default=None, help="folder with one for each class")
    parser.add_argument("--small", nargs=3, metavar=("NAME", "WEIGHTS", "IMAGES"), default=None)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=8000, help="that networks are trained on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, folder = arguments.pictures, arguments.photographs
    possible = [_SHIPPED, *_TRAINED]
    possible += [] if arguments.small is None else [arguments.small[0]]
    possible += [] if folder is None else IMAGENET_CLASSIFIERS
    if unknown := sorted(set(arguments.networks) - set(possible)):
        parser.error(f"there are no pictures for {unknown}; known: {possible}, see --small and --photographs")
    for name in arguments.networks or possible:
        if name in (_SHIPPED, *_TRAINED):
            classifier = (
                load_classifier(name)
                if name == _SHIPPED
                else trained(name, seed=arguments.seed, scenes=arguments.scenes, epochs=arguments.epochs)
            )
            scenes = EmojiScenes("det_test", count, objects="several").stack(range(count))
            table(f"{name}, scenes", classifier, scenes, steps=30)
        elif name in IMAGENET_CLASSIFIERS:
            large = load_classifier(name).to(memory_format=torch.channels_last)
            table(f"{name}, mosaics", large, mosaics(large, folder, count), steps=20)
        else:
            _, weights, images = arguments.small
            small = own_network(name, weights, Path(images))
            table(f"{name}, mosaics", small, mosaics(small, Path(images), count), steps=20)


if __name__ == "__main__":
    main()
