"""Maps of tiles blended into one, against tiles that are cut and blended by hand."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from helpers.saliency_cases import toy_classifier
from verisal.errors import ConfigError
from verisal.models import Classifier, Region
from verisal.saliency import (
    BlurredLike,
    CallableAdapter,
    EdgeDetector,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    HierarchicalMasks,
    Occlusion,
    OfProbability,
    OneLayer,
    Saliency,
    SmoothGrad,
    Tiled,
)

MASKS = HierarchicalMasks(reg_weight=0.02, steps=5, learning_rate=0.2)
QUERY = torch.tensor([0, 3])
# Corners and sizes worked out by hand: steps of 12 px at most in 40, of 6 px at most in 20.
TOPS, LEFTS, SIDES = (0, 12, 24), (0, 6, 12), (16, 8)


def large_images():
    return torch.rand(2, 3, 40, 20, generator=torch.Generator().manual_seed(7))


def by_hand(base: Saliency, name: str) -> torch.Tensor:
    """Pixel by pixel, tile by tile: the weighted mean; weights rise from 1/5 and 1/3 at the rims to 1."""
    images, classifier = large_images(), toy_classifier()
    height, width = SIDES
    total, weights = 0, torch.zeros(40, 20)
    for top in TOPS:
        for left in LEFTS:
            rows, columns = slice(top, top + height), slice(left, left + width)
            maps = getattr(base(classifier, images[:, :, rows, columns].clone(), QUERY), name)
            total = torch.zeros(2, maps.shape[1], 40, 20) if isinstance(total, int) else total
            for row in range(height):
                for column in range(width):
                    weight = min(1, (row + 1) / 5, (height - row) / 5)
                    weight *= min(1, (column + 1) / 3, (width - column) / 3)
                    total[:, :, top + row, left + column] += weight * maps[:, :, row, column]
                    weights[top + row, left + column] += weight
    return total / weights


@pytest.mark.parametrize(
    "base", [Gradient(), GradCAM(), Occlusion(window=4, stride=2), SmoothGrad(samples=2)], ids=repr
)
def test_the_weighted_mean_of_the_maps_of_tiles(base):
    found = Tiled(base=base, tile=SIDES)(toy_classifier(), large_images(), QUERY)
    for name in ("saliency", "attribution"):
        torch.testing.assert_close(getattr(found, name), by_hand(base, name), rtol=1e-4, atol=1e-6)
    assert found.raw is found.saliency
    one = base(toy_classifier(), large_images()[:, :, :16, :8], QUERY)
    assert (found.n_forward, found.n_backward) == (9 * one.n_forward, 9 * one.n_backward)


def test_of_methods_with_layers_the_map_is_the_mean_of_the_blended_layers():
    found = Tiled(base=MASKS, tile=SIDES)(toy_classifier(), large_images(), QUERY)
    expected = by_hand(MASKS, "raw")
    torch.testing.assert_close(found.saliency, expected)
    torch.testing.assert_close(torch.stack(found.raw_layers).mean(dim=0), expected)


def test_a_function_of_single_pixels_has_no_seams():
    """Where no pixel knows of its neighbours, tiles say what the whole says."""

    def squares(classifier, images, query):
        return images.square().mean(dim=1, keepdim=True)

    images = large_images()
    for tile, overlap in ((8, 0.25), ((5, 7), 0.0), ((16, 9), 0.5), (1, 0.9)):
        method = Tiled(base=CallableAdapter(function=squares), tile=tile, overlap=overlap)
        found = method(toy_classifier(), images, 1)
        torch.testing.assert_close(found.saliency, images.square().mean(dim=1, keepdim=True))


def test_an_image_within_a_tile_is_explained_as_ever():
    found = Tiled(base=MASKS, tile=40)(toy_classifier(), large_images(), QUERY)
    expected = MASKS(toy_classifier(), large_images(), QUERY)
    assert found.saliency.equal(expected.saliency)
    assert found.n_forward == expected.n_forward


class Brightness(nn.Module):
    """Logits: the mean of the first channel, and of the second, of images of 8 x 8 pixels alone."""

    def forward(self, images):
        assert images.shape[2:] == (8, 8)
        return images[:, :2].mean(dim=(2, 3))


def test_the_class_of_the_whole_is_that_of_the_mean_or_the_largest_logit():
    images = torch.zeros(1, 3, 8, 32)
    images[:, 0] = 0.5
    images[:, 1, :, :8] = 1  # in one tile of four
    classifier = Classifier(Brightness(), normalization="none")
    for decided_by, logits, query in (("mean", [0.5, 0.25], 0), ("largest", [0.5, 1.0], 1)):
        method = Tiled(base=Gradient(), tile=8, overlap=0, decided_by=decided_by)
        assert method.logits(classifier, images).tolist() == [logits]
        found = method(classifier, images)
        assert found.query_class.tolist() == [query]
        assert (found.n_forward, found.n_backward) == (8, 4)
        expected = torch.zeros(1, 3, 8, 32)
        expected[:, query] = 1 / 64
        torch.testing.assert_close(found.attribution, expected)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (ExtremalPerturbation(), "ExtremalPerturbation keeps the same share of every tile"),
        (OfProbability(base=ExtremalPerturbation()), "ExtremalPerturbation keeps the same share"),
        (BlurredLike(base=Gradient(), like=MASKS), "BlurredLike chooses another blur for every tile"),
        (OneLayer(base=Tiled(base=MASKS, tile=8), layer=0), "Tiled cuts into tiles itself"),
        (EdgeDetector(), "EdgeDetector makes its map of the image alone"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bases_whose_maps_cannot_be_compared_between_tiles_are_refused(base, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        Tiled(base=base, tile=8)


def test_a_region_is_a_place_of_the_whole():
    network = nn.Conv2d(3, 2, 1)
    target = Region(torch.ones(40, 20, dtype=torch.bool), 1)
    with pytest.raises(ConfigError, match="a Region is a place of the whole image, which no tile has"):
        Tiled(base=Gradient(), tile=8)(network, large_images(), target=target)


def test_the_base_says_whether_layers_are_read():
    assert not Tiled(base=Gradient(), tile=8).needs_module
    assert Tiled(base=GradCAM(), tile=8).needs_module


SCRIPT = """
import re, torch
from pathlib import Path
from verisal.models import Classifier
from verisal.saliency import GradCAM, Tiled


torch.set_num_threads(1)
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 7, stride=4, padding=3), torch.nn.ReLU(),
    torch.nn.Conv2d(16, 16, 3, stride=2, padding=1), torch.nn.ReLU(),
    # Of 256 pixels and of no others.
    torch.nn.Flatten(), torch.nn.Linear(16 * 32 * 32, 4),
)
classifier = Classifier(network, ["3"], normalization="none", class_names=tuple("abcd"), image_size=256)
images = torch.rand(1, 3, 4096, 4096)
found = Tiled(base=GradCAM(), tile=256)(classifier, images)
assert found.saliency.shape == (1, 1, 4096, 4096)
assert found.attribution.isfinite().all() and found.saliency.any()
# Not ru_maxrss, in which a process that is started by a large one has that one's peak.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_4096_pixels_by_a_network_of_256():
    """The image takes 200 MB, its maps 330 MB, PyTorch and the package 600 MB."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1280, done.stdout
