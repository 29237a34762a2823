import importlib.metadata
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from verisal.data.transforms import (
    Augmentation,
    backdrop_jitter,
    scene_jitter,
    tight_boxes,
    tint_jitter,
    turn_jitter,
)
from verisal.errors import ConfigError, DataError
from verisal.types import Sample

STILL = {"mirror": 0.0, "rotate_degrees": 0.0, "scale": 0.0, "colour": 0.0}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(*masks: torch.Tensor, size: int = 32) -> Sample:
    """A grey picture on which every object is white."""
    stacked = torch.stack(masks) if masks else torch.zeros(0, size, size, dtype=torch.bool)
    image = torch.full((3, size, size), 0.5)
    image[:, stacked.any(0)] = 1.0
    return Sample(
        image=image,
        label=3,
        image_id="a",
        object_labels=torch.arange(3, 3 + len(stacked)),
        object_masks=stacked,
        boxes=tight_boxes(stacked.numpy()),
    )


def block(top: int, left: int, bottom: int, right: int, size: int = 32) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_no_strength_changes_nothing():
    before = sample(block(4, 5, 10, 20))
    after = Augmentation(**STILL)(before, seeded(0))
    assert torch.equal(after.image, before.image)
    assert torch.equal(after.object_masks, before.object_masks)
    assert torch.equal(after.boxes, before.boxes)
    assert (after.label, after.image_id) == (3, "a")


def test_mirror_moves_everything_exactly():
    before = sample(block(4, 5, 10, 20), block(20, 0, 24, 3))
    after = Augmentation(**{**STILL, "mirror": 1.0})(before, seeded(0))
    assert torch.equal(after.image, before.image.flip(2))
    assert torch.equal(after.object_masks, before.object_masks.flip(2))
    assert after.boxes.tolist() == [[12, 4, 27, 10], [29, 20, 32, 24]]
    assert after.object_labels.tolist() == [3, 4]


def test_rotation_keeps_mask_and_picture_together():
    augment = Augmentation(mirror=0.5, rotate_degrees=40.0, scale=0.2, colour=0.0)
    for seed in range(20):
        after = augment(sample(block(8, 10, 20, 26)), seeded(seed))
        white = after.image[0] > 0.75
        mask = after.object_masks[0]
        # Nearest and linear sampling can disagree on the rim only.
        assert (white ^ mask).sum() <= 0.12 * mask.sum()
        rows, columns = mask.nonzero().T
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert after.boxes[0].tolist() == [float(value) for value in expected]


def test_a_main_object_is_never_lost_and_others_are_dropped_with_label_and_box():
    augment = Augmentation(mirror=0.0, rotate_degrees=180.0, scale=0.9, colour=0.0)
    before = sample(block(12, 12, 20, 20), block(0, 0, 2, 2))
    numbers = set()
    for seed in range(40):
        after = augment(before, seeded(seed))
        assert after.object_labels[0] == 3
        assert len(after.object_labels) == len(after.object_masks) == len(after.boxes)
        assert after.object_masks.flatten(1).any(dim=1).all()
        numbers.add(len(after.object_labels))
    assert numbers == {1, 2}


def test_sample_is_returned_as_it_was_if_every_draw_loses_the_main_object():
    corner = sample(block(0, 0, 1, 1))
    augment = Augmentation(mirror=0.0, rotate_degrees=0.0, scale=0.0, colour=0.0)
    augment._compose = lambda image, masks: {"image": image * 0, "masks": masks * 0}  # type: ignore[assignment]
    augment._compose.set_random_state = lambda *_: None  # type: ignore[attr-defined]
    assert augment(corner, seeded(0)) is corner


def test_an_object_with_a_box_only_moves_its_box():
    before = replace(
        sample(block(2, 2, 6, 12)),
        object_masks=torch.zeros(1, 32, 32, dtype=torch.bool),
        boxes=torch.tensor([[2.0, 2.0, 12.0, 6.0]]),
    )
    after = Augmentation(**{**STILL, "mirror": 1.0})(before, seeded(0))
    assert not after.object_masks.any()
    assert after.boxes.tolist() == [[20, 2, 30, 6]]


def test_a_sample_without_objects():
    before = sample()
    after = Augmentation(colour=1.0)(before, seeded(0))
    assert after.object_masks.shape == (0, 32, 32)
    assert after.boxes.shape == (0, 4)
    assert not torch.equal(after.image, before.image)


def test_colour_and_blur_stay_in_range_and_keep_the_masks():
    augment = Augmentation(mirror=0.0, rotate_degrees=0.0, scale=0.0, colour=2.0, blur=2.0)
    before = sample(block(4, 5, 10, 20))
    for seed in range(20):
        after = augment(before, seeded(seed))
        assert after.image.dtype == torch.float32
        assert 0.0 <= after.image.min() <= after.image.max() <= 1.0
        assert torch.equal(after.object_masks, before.object_masks)


def test_same_seed_same_result_other_seed_other_result():
    augment, before = Augmentation(), sample(block(4, 5, 10, 20))
    first, again, other = (augment(before, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.object_masks, again.object_masks)
    assert not torch.equal(first.image, other.image)


class Augmented(Dataset[Sample]):
    def __init__(self) -> None:
        self.augment = Augmentation(rotate_degrees=90.0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return self.augment(sample(block(4, 5, 10, 20)))


def first(samples: list[Sample]) -> Sample:
    return samples[0]


def test_workers_differ_epochs_differ_and_the_seed_repeats_all():
    def two_epochs() -> list[list[torch.Tensor]]:
        loader = DataLoader(Augmented(), num_workers=2, collate_fn=first, generator=seeded(5))
        return [[item.image for item in loader] for _ in range(2)]

    epochs, again = two_epochs(), two_epochs()
    seen = [image for epoch in epochs for image in epoch]
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert not torch.equal(one, other)
    for epoch, repeated in zip(epochs, again, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(epoch, repeated, strict=True))


def test_a_sample_that_albumentations_refuses_is_named():
    before = sample(block(4, 5, 10, 20))
    object.__setattr__(before, "image", before.image.double())
    with pytest.raises(DataError, match="sample a: cannot be augmented"):
        Augmentation()(before, seeded(0))


@pytest.mark.parametrize(
    "wrong",
    [{"mirror": 1.1}, {"rotate_degrees": -1.0}, {"scale": 1.0}, {"colour": 2.1}, {"blur": float("nan")}],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Augmentation(**wrong)


@pytest.mark.parametrize(
    "jitter",
    [
        tint_jitter(colour=1.0),
        turn_jitter(rotate_degrees=30.0),
        backdrop_jitter(size=24, colour=1.0),
        scene_jitter(size=24, colour=1.0, blur=1.0),
    ],
)
def test_jitter_follows_its_generators(jitter):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def draw(seed: int) -> np.ndarray:
        jitter.seed(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        return np.stack([jitter(picture) for _ in range(3)])

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    drawn = draw(1)
    assert not np.array_equal(drawn[0], drawn[1])


def jittered(jitter, picture, count=60):
    """The picture under many draws."""
    jitter.seed(np.random.default_rng(0), random.Random(0))  # noqa: S311
    return np.stack([jitter(picture) for _ in range(count)]).astype(float)


def test_scenes_brightness_and_contrast_change_as_far_as_is_said():
    grey = np.full((24, 24, 3), 128, np.uint8)
    # No blur; of a middle grey contrast changes a quarter at most, brightness a fifth of the range.
    means = jittered(scene_jitter(size=24, colour=1.0, blur=0.0), grey).mean(axis=(1, 2, 3))
    assert np.ptp(means) > 0.5 * 2 * (0.25 * 128 + 0.2 * 255)
    assert np.abs(means - 128).max() <= 0.25 * 128 + 0.2 * 255 + 1
    assert (means == 128).mean() < 0.1
    faint = jittered(scene_jitter(size=24, colour=0.5, blur=0.0), grey).mean(axis=(1, 2, 3))
    assert np.abs(faint - 128).max() <= 0.5 * (0.25 * 128 + 0.2 * 255) + 1
    assert (jittered(scene_jitter(size=24, colour=0.0, blur=0.0), grey) == 128).all()


def test_scenes_are_blurred_every_other_time_by_a_share_of_their_side():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255

    def widths(size, blur):
        """Standard deviation of the edge's slope; 0 for an edge that is as it was."""
        rows = jittered(scene_jitter(size=size, colour=0.0, blur=blur), edge)[:, 32, :, 0]
        slopes = np.diff(rows, axis=1) / 255
        return np.sqrt((slopes * (np.arange(63) - 31) ** 2).sum(axis=1))

    wide = widths(256, 1.0)  # deviations of 1 to 4 px
    assert 0.25 <= (wide == 0).mean() <= 0.75
    assert 0.9 <= wide[wide > 0].min() <= 2
    assert 3 <= wide.max() <= 4.1
    assert 1.5 <= widths(256, 0.5).max() <= 2.1
    assert widths(256, 0.0).max() == 0


def test_opacity_moves_with_the_drawing():
    white = np.zeros((40, 40, 4), np.uint8)
    white[12:28, 15:25] = 255
    jitter = turn_jitter(rotate_degrees=30.0)
    jitter.seed(np.random.default_rng(0), random.Random(0))  # noqa: S311
    for _ in range(10):
        turned = jitter(white)
        assert (turned == turned[..., :1]).all()
        # 160 pixels, shrunk by up to a fifth either way.
        assert 0.6 * 160 <= turned[..., 3].sum() / 255 <= 1.02 * 160


def test_tight_boxes_by_hand():
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 3, 0] = True
    assert tight_boxes(masks).tolist() == [[2, 1, 5, 3], [0, 3, 1, 4]]
    assert tight_boxes(masks[:0]).shape == (0, 4)
    with pytest.raises(DataError, match="object mask 1"):
        tight_boxes(np.stack([masks[0], masks[0] & False]))


def test_opencv_stays_single_threaded_and_the_relicensed_successor_is_absent():
    Augmentation()
    assert cv2.getNumThreads() == 1
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("albumentationsx")
