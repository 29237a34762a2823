"""Validations of a stranger's module whose loaders give other formats than ours: the same scores."""

import math
from collections import UserDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from helpers.strangers import Pictures, Stranger, trainer
from verisal.callbacks import DisturbedLocalization, SaliencyMetrics
from verisal.errors import ConfigError, DataError
from verisal.metrics import EnergyInside, PerturbationCurve
from verisal.saliency import Gradient
from verisal.types import Batch, Sample


class Squares(Dataset):
    """Samples of ours: the bright square of :class:`Pictures` with its mask and box, in 8 bits."""

    def __init__(self, count: int = 7, *, seed: int = 3) -> None:
        self.pictures, self.seed = Pictures(count, seed=seed), seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.pictures[index]
        top, left = (8 * place for place in divmod(label, 2))
        mask = torch.zeros(1, 16, 16, dtype=torch.bool)
        mask[0, top : top + 8, left : left + 8] = True
        box = torch.tensor([[left, top, left + 8, top + 8]], dtype=torch.float32)
        image = (image * 255).round() / 255
        return Sample(image, label, f"{self.seed} {index}", torch.tensor([label]), mask, box)


class Quarters(Stranger):
    """Finds the bright quarter, and takes the images out of its loader's batches."""

    def __init__(self, images_of: Callable[[Any], torch.Tensor]) -> None:
        net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 4))
        with torch.no_grad():
            net[0].weight.fill_(0.5)
            net[0].bias.fill_(-0.3)
            net[4].bias.zero_()
            net[4].weight.copy_(4 * torch.eye(4) + torch.arange(16).view(4, 4) / 50)
        super().__init__(net)
        self.images_of = images_of

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(self.images_of(batch))


def _targets(own: Batch) -> list[dict[str, torch.Tensor]]:
    columns = zip(own.boxes, own.object_labels, own.object_masks, strict=True)
    return [{"boxes": boxes, "labels": labels, "masks": masks} for boxes, labels, masks in columns]


def _class_maps(own: Batch) -> torch.Tensor:
    return torch.where(torch.cat(own.object_masks), own.labels[:, None, None], 255)


FORMATS = {
    "detection": (lambda own: (own.images, _targets(own)), lambda batch: batch[0]),
    "zipped": (lambda own: (tuple(own.images), tuple(_targets(own))), lambda batch: torch.stack(batch[0])),
    "dict": (
        lambda own: {"img": own.images, "y": own.labels, "mask": torch.cat(own.object_masks)},
        lambda batch: batch["img"],
    ),
    "8 bits": (
        lambda own: ((own.images * 255).to(torch.uint8), own.labels, torch.cat(own.object_masks)),
        lambda batch: batch[0].float() / 255,
    ),
    "class maps": (lambda own: (own.images, [own.labels, _class_maps(own)]), lambda batch: batch[0]),
}


def _zipped(samples):
    return tuple(zip(*samples, strict=True))


def _collate(made, samples):
    return made(Batch.collate(samples))


def metrics_of(made, images_of, **settings):
    """Scores of seven images in batches of three."""
    loader = DataLoader(Squares(), batch_size=3, collate_fn=partial(_collate, made))
    metrics = [EnergyInside(), PerturbationCurve("deletion", steps=2)]
    callback = SaliencyMetrics({"gradient": Gradient()}, metrics, resamples=10, **settings)
    trainer(callback).validate(Quarters(images_of), loader, verbose=False)
    return callback.evaluation


@pytest.mark.parametrize("name", FORMATS)
def test_scores_are_those_of_our_own_batches(name):
    own = metrics_of(lambda own: own, lambda batch: batch.images)
    found = metrics_of(*FORMATS[name])
    assert own.scores.keys() == found.scores.keys()
    energy = next(score for key, score in own.scores.items() if "gradient/energy" in str(key))
    assert energy.n == 7
    for key, score in own.scores.items():
        assert found.scores[key].value == pytest.approx(score.value, abs=1e-6, nan_ok=True)
        assert found.scores[key].n == score.n


def test_without_annotation_metrics_that_need_none_give_the_same():
    own = metrics_of(lambda own: own, lambda batch: batch.images)
    found = metrics_of(
        lambda own: UserDict(pixel_values=own.images, labels=own.labels), lambda batch: batch["pixel_values"]
    )
    pairs = [(score.value, found.scores[key].value) for key, score in own.scores.items()]
    assert sum(math.isnan(value) for _, value in pairs) == 6
    assert all(math.isnan(value) or value == pytest.approx(expected) for expected, value in pairs)
    assert any("EnergyInside: 0 of 7 images" in note for note in found.notes)


def test_a_function_of_the_user_s_reads_what_nobody_knows():
    def made(own):
        return {"left": own.images, "right": own.images, "n": own}

    def images_of(batch):
        return batch["left"]

    with pytest.raises(
        ConfigError, match="'left' and 'right' may both be the images of a batch; pass batch="
    ):
        metrics_of(made, images_of)
    own = metrics_of(lambda own: own, lambda batch: batch.images)
    found = metrics_of(made, images_of, batch=lambda batch: (batch["left"], _targets(batch["n"])))
    assert [score.n for score in found.scores.values()] == [score.n for score in own.scores.values()]


def localization_of(made, images_of, held_out):
    loader = DataLoader(Squares(), batch_size=3, collate_fn=partial(_collate, made))
    callback = DisturbedLocalization({"gradient": Gradient()}, held_out, resamples=10)
    trainer(callback).validate(Quarters(images_of), loader, verbose=False)
    return {str(key): score.value for key, score in callback.evaluation.scores.items()}


@pytest.mark.parametrize("name", ["detection", "8 bits"])
def test_held_out_samples_in_any_format(name):
    class Foreign(Squares):
        def __getitem__(self, index):
            own = Batch.collate([super().__getitem__(index)])
            return own.images[0], _targets(own)[0]

    made, images_of = FORMATS[name]
    expected = localization_of(lambda own: own, lambda batch: batch.images, Squares(seed=8))
    assert any(key.endswith("/tau") and value > 0 for key, value in expected.items())
    loader = DataLoader(Foreign(seed=8), batch_size=2, collate_fn=_zipped)
    for held_out in (loader, Squares(seed=8)):
        assert localization_of(made, images_of, held_out) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_an_id_of_two_images_is_refused():
    def made(own):
        return own.images, own.labels, own.labels % 2

    with pytest.raises(DataError, match="the id '0' stands for two images of the evaluation that differ"):
        metrics_of(made, lambda batch: batch[0])
    found = metrics_of(made, lambda batch: batch[0], batch=lambda batch: batch[:2])
    assert found.counts["explained images"] == 7
