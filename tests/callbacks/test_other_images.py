"""Callbacks on images of other channels and other values than RGB in [0, 1], in modules of strangers."""

from functools import partial

import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.channels import COUNTS, InUnits, as_rgb, images_of, on_channels
from helpers.strangers import SIDE, Stranger, loader, trainer
from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks import AttackedMaps, PerturbationCurves, SaliencyMetrics, SaliencyPanels
from verisal.errors import DataError
from verisal.functional.baselines import Constant
from verisal.metrics import PerturbationCurve
from verisal.pictures import displayed
from verisal.saliency import GradCAM, Gradient

RANGES = {"unit": None, "bytes as floats": (0.0, 255.0), "Hounsfield": (-1024.0, 1024.0)}


def callbacks(**settings):
    return [
        SaliencyMetrics([GradCAM()], [PerturbationCurve("deletion", steps=4)], resamples=10, **settings),
        PerturbationCurves([Gradient()], baselines=[Constant()], kinds=["insertion"], steps=2, resamples=10),
        SaliencyPanels([Gradient()], max_images=2),
    ]


def validated(images, bounds, network):
    module, found = Stranger(network), callbacks(bounds=bounds)
    data = images if bounds is None else bounds[0] + (bounds[1] - bounds[0]) * images
    labels = torch.arange(len(images)) % 4
    trainer(*found).validate(module, loader(TensorDataset(data, labels)), verbose=False)
    return found


@pytest.mark.parametrize("bounds", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("channels", COUNTS)
def test_scores_are_those_of_the_same_network_on_rgb(channels, bounds):
    images, network = images_of(channels, 7, (SIDE, SIDE)), Stranger().net
    own = on_channels(network, channels)
    found = validated(images, bounds, own if bounds is None else InUnits(own, bounds))
    expected = validated(as_rgb(images), None, network)
    for name, score in expected[0].evaluation.scores.items():
        # Of the places where a map is 0, some are not by rounding.
        if "random" not in str(name) and "ties" not in str(name):
            assert found[0].evaluation.scores[name].value == pytest.approx(score.value, abs=1e-3), name
    assert len(found[1].evaluation.curves) == len(expected[1].evaluation.curves)
    for panel in found[2].evaluation.panels:
        assert any(torch.allclose(panel.image, image, atol=1e-4) for image in images)


def test_values_outside_the_bounds_are_refused_with_their_extent():
    images, network = images_of(1, 4, (SIDE, SIDE)), on_channels(Stranger().net, 1)
    data = loader(TensorDataset(4000 * images - 1000, torch.arange(4)))
    run = trainer(*callbacks(bounds=(-1024, 1024)))
    with pytest.raises(DataError, match=r"in the bounds \[-1024, 1024\], found values from -1000 to 3000"):
        run.validate(Stranger(network), data, verbose=False)


@pytest.mark.parametrize(
    "panels", [SaliencyPanels, partial(AttackedMaps, attack=MapAttack(kind="top_k", steps=1))]
)
def test_pictures_show_the_bands_that_are_asked_for(panels):
    images, network = images_of(4, 2, (SIDE, SIDE)), on_channels(Stranger().net, 4)
    chosen = panels(methods=[Gradient()], max_images=2, display_channels=(3, 1, 0))
    trainer(chosen).validate(Stranger(network), loader(TensorDataset(images, torch.arange(2))), verbose=False)
    expected = displayed(images, (3, 1, 0))
    assert len(chosen.evaluation.panels) == 2
    for panel in chosen.evaluation.panels:
        assert any(torch.allclose(panel.image, image, atol=1e-4) for image in expected)
