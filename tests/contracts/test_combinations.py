"""Channels, bounds and outputs together: what a method, an attack or a detector gets is always the same.

Bounds are undone once, inside of the classifier, so that in [0, 1] nobody can tell them apart; what is asked
of the logits depends on the output alone. Both are tested here, for every combination of the three.
"""

from functools import cache

import pytest
import torch
from test_channels import OTHER_NETWORK
from test_saliency_contracts import CASES as METHODS

from helpers import saliency_cases
from helpers.attack_cases import CASES as ATTACKS
from helpers.channels import COUNTS, InUnits, as_rgb, images_of, on_channels
from helpers.detector_cases import CASES as DETECTORS
from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.models import Classifier, ClassLogit, targeted

BOUNDS = {"unit": None, "bytes": (0.0, 255.0), "Hounsfield": (-1024.0, 1024.0)}
OUTPUTS = ("softmax", "sigmoid", "one logit", "target")
STAGES = ("network.one", "network.two", "network.three")


@cache
def classifier(channels, range_name, output):
    bounds = BOUNDS[range_name]
    network = on_channels(saliency_cases.toy_classifier().network, channels)
    made = Classifier(
        InUnits(network, bounds or (0.0, 1.0), one=output == "one logit"),
        STAGES,
        normalization=None if bounds else "none",
        bounds=bounds,
        image_size=16,
        output="sigmoid" if output in ("sigmoid", "one logit") else "softmax",
    ).eval()
    return targeted(made, ClassLogit(1)) if output == "target" else made


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("range_name", BOUNDS)
@pytest.mark.parametrize("channels", COUNTS)
def test_what_is_seen_of_a_classifier_is_the_same(channels, range_name, output):
    images = images_of(channels, 3, saliency_cases.SIZE)
    own, plain = classifier(channels, range_name, output), classifier(3, "unit", output)
    near = {"rtol": 1e-3, "atol": 1e-4}
    found, expected = own.stage_outputs(images), plain.stage_outputs(as_rgb(images))
    torch.testing.assert_close(found.logits, expected.logits, **near)
    for one, other in zip(found.activations, expected.activations, strict=True):
        torch.testing.assert_close(one, other, **near)
    gates = [torch.full_like(one, 0.5) for one in found.activations]
    gated = own.gated(own.prefix(images), gates)
    torch.testing.assert_close(gated, plain.gated(plain.prefix(as_rgb(images)), gates), **near)
    assert own.output == plain.output
    assert own.num_classes == plain.num_classes


def refused(call):
    """The sentence of a refusal, or nothing."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", sorted(METHODS.keys() - OTHER_NETWORK))
def test_methods_explain_or_refuse_as_with_rgb_images(name, output):
    images, make = images_of(13, 2, saliency_cases.SIZE), METHODS[name].make
    own, plain = classifier(13, "Hounsfield", output), classifier(3, "unit", output)
    found, words = [], refused(lambda: make()(plain, as_rgb(images), 0))
    assert refused(lambda: found.append(make()(own, images, 0))) == words
    if not words:
        assert found[0].saliency.shape == (2, 1, *saliency_cases.SIZE)
        assert found[0].saliency.isfinite().all()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_change_images_or_refuse_as_with_rgb_images(name, output):
    images, case = images_of(13, 2, saliency_cases.SIZE), ATTACKS[name]
    own, plain = classifier(13, "Hounsfield", output), classifier(3, "unit", output)
    attack, labels, found = case.make(case.budgets[1]), torch.tensor([0, 0]), []
    words = refused(lambda: attack(plain, as_rgb(images), labels))
    assert refused(lambda: found.append(attack(own, images, labels))) == words
    if not words:
        assert found[0].images.shape == images.shape
        assert ((found[0].images >= 0) & (found[0].images <= 1)).all()
        assert found[0].bounds == own.bounds


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_measure_or_refuse_as_with_rgb_images(name, output):
    images, measurement = images_of(13, 3, saliency_cases.SIZE), DETECTORS[name].make().measurement
    own, plain = classifier(13, "Hounsfield", output), classifier(3, "unit", output)
    found, words = [], refused(lambda: measurement(plain, as_rgb(images)))
    assert refused(lambda: found.append(measurement(own, images))) == words
    if not words:
        assert all(len(values) == 3 for values in found[0].values())


def test_the_gradient_is_with_respect_to_images_in_the_unit_range():
    images = images_of(1, 2, saliency_cases.SIZE)
    own, plain = (classifier(1, name, "softmax") for name in ("Hounsfield", "unit"))
    slopes = []
    for one in (own, plain):
        leaf = images.clone().requires_grad_()
        slopes.append(torch.autograd.grad(ask(one, leaf)[:, 2].sum(), leaf)[0])
    torch.testing.assert_close(*slopes, rtol=1e-2, atol=1e-4)
