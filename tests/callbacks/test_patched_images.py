"""Localisation of patches in a run, on a classifier that looks at one corner of the patch's place."""

import math
from dataclasses import dataclass
from typing import final

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from helpers.explaining_toys import trainer
from verisal.attacks import PGD, AdversarialPatch
from verisal.callbacks import PatchedImages
from verisal.errors import ConfigError
from verisal.saliency import Saliency
from verisal.types import SaliencyResult

SIDE, COUNT = 16, 6
PATCH = AdversarialPatch(0.14, steps=20, loss="margin", confidence=0.0)  # 6 x 6 px


class Brightest(torch.nn.Module):
    """Class 1 where any 2 x 2 px are bright, class 2 where any are dark; else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        pooled = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 2, 1).flatten(1)
        # Smooth extremes, so that a patch has a gradient before it holds them.
        bright, dark = ((sign * 60 * pooled).logsumexp(dim=1) / 60 for sign in (1, -1))
        bright, dark = 20 * (bright - 0.75), 20 * (dark + 0.25)
        return torch.stack([torch.zeros_like(bright), bright, dark], dim=1)


class Task(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Brightest()
        self.classifier.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def validation_step(self, batch, batch_idx):
        self.classifier(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@final
@dataclass(frozen=True, kw_only=True)
class Change(Saliency):
    """What is not the grey of the clean images, in the patch or, mirrored, elsewhere."""

    mirrored: bool = False

    def explain(self, classifier, images, query_class) -> SaliencyResult:
        change = (images - 0.5).abs().amax(dim=1, keepdim=True) > 0.03
        change = change.float().flip(-1, -2) if self.mirrored else change.float()
        return SaliencyResult(change, change)


def evaluated(labels=None, **settings):
    generator = torch.Generator().manual_seed(0)
    images = (0.5 + 0.02 * (torch.rand(COUNT, 3, SIDE, SIDE, generator=generator) - 0.5)).clamp(0, 1)
    images = (images * 255).round() / 255
    labels = torch.zeros(COUNT, dtype=torch.int64) if labels is None else labels
    callback = PatchedImages(
        {"finds": Change(), "misses": Change(mirrored=True)},
        **{"attacks": {"any": PATCH}, "resamples": 100, "normalization": "none", "seed": 1} | settings,
    )
    loader = DataLoader(list(zip(images, labels, strict=True)), batch_size=4)
    trainer(callback).validate(Task(), loader, verbose=False)
    return callback.evaluation


def score(evaluation, name):
    return evaluation.scores[f"val/{name}"]


def test_a_map_of_the_patch_is_right_in_everything_and_heals() -> None:
    found = evaluated(attacks={"down": AdversarialPatch(0.14, steps=20, down=0.1, across=0.2, loss="margin")})
    for name in ("energy", "pointing", "box", "healed"):
        assert score(found, f"finds/patches/{name}").value == 1.0
        assert score(found, f"finds/patches[down]/{name}").value == 1.0
    # Rows 1 to 7, columns 2 to 8 mirrored are rows 9 to 15 and columns 8 to 14.
    for name in ("energy", "pointing", "box", "healed"):
        assert score(found, f"misses/patches/{name}").value == 0.0
    assert score(found, "true_place/patches/healed").value == 1.0
    assert score(found, "attack_down/patches/fooled").value == 1.0
    assert found.counts["patches that fool"] == COUNT


def test_images_that_are_wrong_from_the_start_are_not_attacked() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    found = evaluated(labels)
    assert found.counts["images under a patch"] == 3
    assert score(found, "finds/patches/energy").n == 3


def test_targeted_patches_reach_their_goal_and_images_have_a_mean_over_their_patches() -> None:
    aimed = AdversarialPatch(0.14, steps=20, loss="margin", targeted=True)
    blind = AdversarialPatch(0.14, steps=1, step=1e-3)
    found = evaluated(attacks={"any": PATCH, "aimed": aimed, "none": blind})
    assert score(found, "attack_aimed/patches/fooled").value == 1.0
    assert score(found, "attack_none/patches/fooled").value == 0.0
    # Both goals stand apart, and their patches add up to all.
    goals = [found.counts[f"{goal} patches that fool"] for goal in ("targeted", "untargeted")]
    assert sum(goals) == found.counts["patches that fool"]
    energies = [score(found, f"finds/patches_{goal}/energy") for goal in ("targeted", "untargeted")]
    assert all(energy.value == 1.0 for energy in energies)
    assert goals[1] >= energies[1].n > 0
    assert found.counts["patches that fool"] == 2 * COUNT
    assert math.isnan(score(found, "finds/patches[none]/energy").value)
    assert score(found, "finds/patches/energy").n == COUNT


def test_a_random_place_is_of_the_same_size_and_seldom_the_right_one() -> None:
    found = evaluated()
    assert score(found, "true_place/patches/healed").value == 1.0
    assert score(found, "random_place/patches/healed").value < 1.0


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="attacks must be at least one"):
        PatchedImages([Change()], {})
    with pytest.raises(ConfigError, match="iou must lie"):
        PatchedImages([Change()], [PATCH], iou=0.0)
    with pytest.raises(ConfigError, match="PGD changes the whole image"):
        evaluated(attacks=[PGD(0.5)])
