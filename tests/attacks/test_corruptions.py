"""Benign corruptions by hand, and JPEG as a file has it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from verisal.attacks import JPEG, Attack, Brightness, GaussianBlur, Shift
from verisal.errors import ConfigError


def corrupted(attack: Attack, images: Tensor, **more) -> Tensor:
    def network(batch: Tensor) -> Tensor:
        return batch.flatten(1)[:, :2]

    labels = torch.zeros(len(images), dtype=torch.int64)
    return attack(network, images, labels, generator=torch.Generator().manual_seed(1), **more).images


def soft(size: tuple[int, int]) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.rand(2, 3, 6, 6, generator=rng), size=size, mode="bilinear")
    return ((images + 0.05 * torch.rand(2, 3, *size, generator=rng)).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
@pytest.mark.parametrize("size", [(64, 48), (37, 50)])
def test_jpeg_is_what_a_file_holds(size: tuple[int, int], quality: int) -> None:
    images = soft(size)
    ours = corrupted(JPEG(quality), images)
    assert (ours * 255 - (ours * 255).round()).abs().max() < 1e-4
    for image, mine in zip(images, ours, strict=True):
        file = io.BytesIO()
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
        theirs = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        assert mine.equal(theirs)


def test_jpeg_of_one_colour_is_that_colour() -> None:
    images = torch.full((1, 3, 9, 11), 128 / 255)
    assert corrupted(JPEG(90), images).equal(images)


def test_brightness_moves_every_value_and_clamps() -> None:
    images = torch.tensor([0.0, 0.4, 0.95]).view(1, 3, 1, 1)
    torch.testing.assert_close(corrupted(Brightness(0.1), images).flatten(), torch.tensor([0.1, 0.5, 1.0]))
    torch.testing.assert_close(corrupted(Brightness(-0.1), images).flatten(), torch.tensor([0.0, 0.3, 0.85]))


def test_blur_keeps_a_constant_and_spreads_a_point() -> None:
    flat = torch.full((1, 3, 9, 8), 0.3)
    torch.testing.assert_close(corrupted(GaussianBlur(1.0), flat), flat)
    point = torch.zeros(1, 3, 9, 9)
    point[:, :, 4, 4] = 1.0
    blurred = corrupted(GaussianBlur(1.0), point)
    # One over the sum of exp(-k^2 / 2) for k = -3..3 is 0.39905.
    torch.testing.assert_close(blurred[0, 0, 4, 4], torch.tensor(0.39905**2), rtol=0, atol=1e-4)
    torch.testing.assert_close(blurred.sum(), torch.tensor(3.0))


def test_shift_moves_by_one_pixel_in_a_direction_of_the_image_s_own() -> None:
    image = torch.arange(75.0).view(1, 3, 5, 5) / 75
    ids = [f"image {index}" for index in range(64)]
    moved = corrupted(Shift(), image.expand(64, -1, -1, -1), sample_ids=ids)
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")[0]
    ways = {(down, across) for down in range(3) for across in range(3)} - {(1, 1)}
    seen = set()
    for result in moved:
        match = [way for way in ways if result.equal(padded[:, way[0] : way[0] + 5, way[1] : way[1] + 5])]
        assert len(match) == 1
        seen.add(match[0])
    assert seen == ways


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEG(0), "JPEG.quality must be from 1 to 100, found 0"),
        (lambda: Brightness(1.5), "Brightness.change"),
        (lambda: GaussianBlur(-1.0), "GaussianBlur.sigma"),
        (lambda: Shift(-1), "Shift.pixels"),
    ],
)
def test_refuses_bad_settings(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_settings_tell_one_corruption_from_another() -> None:
    assert JPEG(50).settings() == {"class": "JPEG", "rules": 2, "quality": 50}
    assert Shift().settings() == {"class": "Shift", "pixels": 1}
