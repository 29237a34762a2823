import math

import pytest
import torch

from verisal.errors import ConfigError
from verisal.saliency import CentrePrior, EdgeDetector, PixelResidual, RandomMap

QUERY = torch.tensor([0])
CONTROLS = (RandomMap(), CentrePrior(), EdgeDetector(), PixelResidual())


def never(images):
    raise AssertionError("a control called the classifier")


def map_of(method, images):
    query = torch.zeros(len(images), dtype=torch.int64)
    result = method(never, images, query)
    assert result.raw.equal(result.saliency)
    assert result.attribution is None
    assert (result.n_forward, result.n_backward) == (0, 0)
    return result.saliency


def test_random_map_is_uniform_and_follows_image_and_seed():
    images = torch.rand(3, 3, 40, 50)
    values = map_of(RandomMap(), images)
    assert values.shape == (3, 1, 40, 50)
    for image in values:
        ordered = image.flatten().sort().values
        # Kolmogorov's distance to U(0, 1) of 2000 draws; 1.63 / sqrt(n) is exceeded once in a hundred times.
        distance = (ordered - torch.linspace(0, 1, len(ordered))).abs().max()
        assert distance < 1.63 / math.sqrt(2000)
    assert map_of(RandomMap(), images.flip(0)).equal(values.flip(0))
    assert not values[0].equal(values[1])
    assert not map_of(RandomMap(seed=1), images).equal(values)


def test_centre_prior_by_hand():
    values = map_of(CentrePrior(), torch.rand(2, 3, 5, 9))
    assert values[0].equal(values[1])
    # sigma = 5 / 4, so 2 sigma^2 = 3.125; the centre is row 2, column 4.
    assert values[0, 0, 2, 4] == 1
    assert float(values[0, 0, 1, 6]) == pytest.approx(math.exp(-(1 + 4) / 3.125))
    assert values.allclose(values.flip(2))
    assert values.allclose(values.flip(3))


def test_centre_of_an_even_image_lies_between_pixels():
    values = map_of(CentrePrior(), torch.rand(1, 3, 4, 4))[0, 0]
    assert values[1:3, 1:3].allclose(torch.full((2, 2), math.exp(-0.5 / 2)))


def test_edges_of_a_grey_step_by_hand():
    images = torch.zeros(1, 3, 4, 6)
    images[..., 3:] = 1
    values = map_of(EdgeDetector(), images)[0, 0]
    # A step of 1 seen over two pixels: half a unit per pixel on either side of it.
    expected = torch.tensor([0, 0, 0.5, 0.5, 0, 0]).expand(4, 6)
    assert values.allclose(expected)
    assert map_of(EdgeDetector(), images.transpose(2, 3))[0, 0].allclose(expected.T)


def test_edge_of_one_pixel_by_hand_weighs_colours_by_luminance():
    images = torch.zeros(1, 3, 5, 5)
    images[0, 1, 2, 2] = 1  # green
    values = map_of(EdgeDetector(), images)[0, 0]
    corner, side = math.sqrt(2) / 8, 2 / 8
    around = [[corner, side, corner], [side, 0, side], [corner, side, corner]]
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 0.587 * torch.tensor(around)
    assert values.allclose(expected)


def test_residual_of_one_pixel_by_hand_is_the_largest_over_channels():
    images = torch.zeros(1, 3, 5, 5)
    images[0, 1, 2, 2], images[0, 2, 2, 2] = 0.9, 0.45
    values = map_of(PixelResidual(), images)[0, 0]
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4], expected[2, 2] = 0.1, 0.8
    assert values.allclose(expected)
    assert map_of(PixelResidual(side=5), images)[0, 0, 2, 2] == pytest.approx(0.9 * 24 / 25)
    # Borders are repeated outwards, so that they are no edge of their own.
    assert map_of(PixelResidual(), torch.full((1, 3, 6, 4), 0.3)).abs().max() < 1e-6
    for side in (1, 2, 4):
        with pytest.raises(ConfigError, match="odd and at least 3"):
            PixelResidual(side=side)


def test_flat_image_has_no_edges_and_borders_are_none():
    assert map_of(EdgeDetector(), torch.full((1, 3, 6, 4), 0.3)).eq(0).all()


@pytest.mark.parametrize("method", CONTROLS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(
    ("query", "words"),
    [
        (torch.tensor([-1]), "must not be negative, found -1"),
        (torch.tensor([0, 1]), r"\(1,\) whole numbers.*found \(2,\) int64"),
        (torch.tensor([0.0]), r"found \(1,\) float32; convert them"),
    ],
)
def test_bad_query_is_refused_where_the_number_of_classes_is_unknown(method, query, words):
    with pytest.raises(ConfigError, match=words):
        method(never, torch.rand(1, 3, 4, 4), query)
