"""Networks that take values in other bounds than [0, 1]."""

import pytest
import torch
from torch import nn

from verisal.attacks import FGSM
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Constant, DatasetMean, bound
from verisal.models import Bounds, Classifier, export_classifier, load_classifier
from verisal.saliency import Gradient

BOUNDS = [(0, 1), (0, 255), (-1024, 1024), (300.5, 301)]


def network(channels=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )


def values(bounds, count=3, channels=1):
    low, high = bounds
    generator = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(count, channels, 9, 8, generator=generator)


class Scaled(nn.Module):
    """The network on values of a size at which its tanh is not flat."""

    def __init__(self, bounds):
        super().__init__()
        self.low, self.width, self.network = bounds[0], bounds[1] - bounds[0], network()

    def forward(self, given):
        return self.network(2 * (given - self.low) / self.width - 1)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_the_network_gets_values_in_its_bounds(bounds):
    classifier, raw = Classifier(Scaled(bounds), bounds=bounds), values(bounds)
    images = classifier.bounds.to_unit(raw)
    torch.testing.assert_close(classifier(images), Scaled(bounds)(raw), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(classifier.bounds.from_unit(images), raw, rtol=1e-5, atol=1e-4)
    gradient = Gradient()(classifier, images, 1).attribution
    raw.requires_grad_()
    Scaled(bounds)(raw)[:, 1].sum().backward()
    torch.testing.assert_close(gradient, raw.grad * (bounds[1] - bounds[0]), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_a_normalisation_is_in_units_of_the_bounds(bounds):
    mean, std = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 4
    given = (mean, std)
    for classifier in (
        Classifier(network(), bounds=bounds, normalization=given),
        load_classifier(network(), bounds=bounds, normalization=given),
    ):
        raw = values(bounds)
        found = classifier(classifier.bounds.to_unit(raw))
        torch.testing.assert_close(found, network()((raw - mean) / std), rtol=1e-3, atol=1e-4)
        assert classifier.normalization.mean == pytest.approx((0.5,), abs=1e-5)


def test_scales_are_no_statistics_of_data():
    assert bound(DatasetMean(), Classifier(network(), bounds=(-1024, 1024))) == Constant(level=0.5)
    told = Classifier(network(), bounds=(0, 255), normalization=((51.0,), (25.5,)))
    assert bound(DatasetMean(), told).mean == pytest.approx((0.2,))


def test_bounds_are_kept_in_an_export(tmp_path):
    told = {"bounds": (0.0, 255.0), "normalization": ((51.0, 102.0), (25.5, 51.0)), "image_size": 9}
    source = "test_bounds:network"
    made = load_classifier(source, weights=None, arguments={"channels": 2}, **told)
    file = tmp_path / "net.safetensors"
    export_classifier(file, made, origin={})
    read = load_classifier(str(file), factory=source)
    images = values((0, 1), channels=2)
    assert (read.bounds, read.channels) == (Bounds(0, 255), 2)
    torch.testing.assert_close(read(images), made(images))


def test_noise_is_said_in_both_units():
    classifier = Classifier(Scaled((0, 2000)), bounds=(0, 2000))
    result = FGSM(4 / 255)(classifier, values((0, 1)), [0, 1, 2])
    assert "0.01569 noise (31.37 units of [0, 2000])" in repr(result)


def test_what_is_said_about_bounds():
    with pytest.raises(DataError, match=r"in the bounds \[0, 255\], found values from -3 to 200; give"):
        Bounds(0, 255).to_unit(torch.tensor([-3.0, 200.0]))
    with pytest.raises(DataError, match="found values from nan to nan"):
        Bounds(0, 255).to_unit(torch.tensor([torch.nan]))
    with pytest.raises(ConfigError, match=r"two finite numbers, low below high, found \[1, 1\]"):
        Bounds(1, 1)
    with pytest.raises(ConfigError, match=r"bounds must be \(low, high\), such as .*, found 255"):
        Classifier(network(), bounds=255)
    with pytest.raises(DataError, match=r"found values from .*; values in units of their own are made"):
        Gradient()(Classifier(network(), bounds=(0, 255)), values((0, 255)), 0)
