"""Measurements with a graph to the images: the values of the plain ones, and gradients that are right."""

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.detectors import (
    CNNDetector,
    Combined,
    DetectorFeatures,
    GradientScalars,
    Logits,
    Moved,
    Pixels,
    PooledActivations,
    ShiftedLogits,
    Stack,
    ViewConsistency,
    ViewLogits,
)
from verisal.errors import ConfigError

MADE = (
    Logits(),
    ShiftedLogits(),
    ViewLogits(),
    PooledActivations(views=(Moved(1, 1),)),
    Combined(sources=(Pixels(), Logits())),
)


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_values_are_those_of_the_plain_measurement_and_carry_a_graph(made):
    classifier, images = toy_classifier(), toy_images(3)
    plain = made(classifier, images)
    with torch.no_grad():
        found = made.differentiable(classifier, images.clone().requires_grad_())
    assert found
    for name, tensor in found.items():
        assert tensor.requires_grad, name
        known = plain[name].float() / 255 if plain[name].dtype == torch.uint8 else plain[name]
        torch.testing.assert_close(tensor.detach(), known, rtol=1e-5, atol=1e-5)
        assert not plain[name].requires_grad
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_the_slope_of_an_alarm_on_logits_of_views_is_that_of_differences():
    classifier, images = toy_classifier(), toy_images(1) * 0.8 + 0.1
    made, detector = (
        ViewLogits(views=(Moved(1, 1),)),
        ViewConsistency(source=ViewLogits(views=(Moved(1, 1),))),
    )
    known = made(toy_classifier(), toy_images(12))
    flags = torch.arange(12) % 2 == 0
    detector.fit(known, flags, ~flags)

    def score(seen):
        return detector.judge(made.differentiable(classifier, seen)).sum()

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf), leaf)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        h = 3e-3
        rise = (score(images + h * direction) - score(images - h * direction)).item() / (2 * h)
    assert rise == pytest.approx(float(gradient.norm()), rel=2e-2)


def test_a_stack_has_the_slope_of_all_of_its_parts():
    classifier, images = toy_classifier(), toy_images(16)
    flags = torch.arange(16) % 2 == 0
    residual = CNNDetector(
        source=Pixels(),
        reads=("image",),
        filters=("mean3",),
        grid=None,
        strides=(2,),
        members=1,
        epochs=1,
        width=2,
    )
    stack = Stack(parts=(ViewConsistency(), residual), folds=2)
    stack.fit(stack.measurement(classifier, images), flags, ~flags)
    leaf = images[:2].clone().requires_grad_()
    score = stack.judge(stack.measurement.differentiable(classifier, leaf))
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    torch.testing.assert_close(
        score.detach(), stack.score(classifier, (images[:2] * 255).round() / 255), rtol=1e-3, atol=1e-3
    )
    assert (gradient.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_what_no_gradient_passes_through_says_what_does():
    with pytest.raises(
        ConfigError, match=r"GradientScalars; adaptive attacks know rows that read .*ViewLogits"
    ):
        GradientScalars().differentiable(toy_classifier(), toy_images(2))


def test_masks_ask_how_gradients_pass():
    with pytest.raises(ConfigError, match="give gates, such as FrozenGates"):
        DetectorFeatures().differentiable(toy_classifier(), toy_images(2))
