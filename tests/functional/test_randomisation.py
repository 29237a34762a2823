import math

import pytest
import torch
from torch import nn

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError
from verisal.functional.comparison import passes_randomisation, randomised_copies
from verisal.functional.comparison.randomisation import derangement, randomised_steps, weighted_percentile
from verisal.results import Score

IMAGES = toy_images(8)
STEPS = (
    ("network.head",),
    ("network.three.norm", "network.three.conv"),
    ("network.two.norm", "network.two.conv"),
    ("network.one.norm", "network.one.conv"),
)


def changed_layers(classifier, other):
    """Names of the layers whose parameters differ."""
    before, after = dict(classifier.named_parameters()), dict(other.named_parameters())
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_layers_from_the_logits_downwards_norms_with_the_layer_before_them():
    assert randomised_steps(toy_classifier(), IMAGES) == STEPS
    assert randomised_steps(toy_classifier(), IMAGES, steps=2) == (STEPS[0] + STEPS[1], STEPS[2] + STEPS[3])
    assert randomised_steps(toy_classifier(), IMAGES, steps=1) == (sum(STEPS, ()),)


def test_layers_are_ordered_as_they_run_not_as_they_are_registered():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(5, 2), nn.Conv2d(3, 5, 3)
            self.unused = nn.Linear(1, 1)

        def forward(self, images):
            return self.last(self.first(images).mean(dim=(2, 3)))

    assert randomised_steps(Backwards(), IMAGES) == (("last",), ("first",))


def test_cascade_is_cumulative_and_independent_is_not():
    classifier = toy_classifier()
    done = set()
    for names, copy in zip(STEPS, randomised_copies(classifier, IMAGES), strict=True):
        done |= set(names)
        assert copy.name == names[-1]
        assert changed_layers(classifier, copy.classifier) == {
            name for name in done if not name.endswith("norm")
        }
    for names, copy in zip(STEPS, randomised_copies(classifier, IMAGES, order="independent"), strict=True):
        assert changed_layers(classifier, copy.classifier) <= set(names)
        assert names[-1] in changed_layers(classifier, copy.classifier)


def test_a_layer_gets_the_same_values_in_both_orders_and_others_with_another_seed():
    classifier = toy_classifier()
    *_, last = randomised_copies(classifier, IMAGES, seed=2)
    *_, alone = randomised_copies(classifier, IMAGES, seed=2, order="independent")
    *_, other = randomised_copies(classifier, IMAGES, seed=3)
    weight = last.classifier.network.one.conv.weight
    assert torch.equal(weight, alone.classifier.network.one.conv.weight)
    assert not torch.equal(weight, other.classifier.network.one.conv.weight)


def test_values_come_from_the_default_initialiser():
    classifier = toy_classifier()
    *_, copy = randomised_copies(classifier, IMAGES)
    for stage, inputs in ((copy.classifier.network.one, 3), (copy.classifier.network.three, 6)):
        bound = 1 / math.sqrt(9 * inputs)
        assert float(stage.conv.weight.abs().max()) <= bound
        assert float(stage.conv.weight.abs().max()) > 0.8 * bound
        assert torch.equal(stage.norm.weight, torch.ones_like(stage.norm.weight))
        assert not stage.norm.bias.any()


def test_running_statistics_are_those_of_the_images():
    classifier = toy_classifier()
    *_, copy = randomised_copies(classifier, IMAGES)
    network = copy.classifier.network
    normalised = (IMAGES - copy.classifier.mean) / copy.classifier.std
    maps = network.one.conv(normalised)
    assert torch.allclose(network.one.norm.running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(network.one.norm.running_var, maps.var(dim=(0, 2, 3)), atol=1e-6)
    # The second norm was estimated while the first divided by the biased deviation of its batch.
    second = network.two.conv(network.one(normalised))
    assert torch.allclose(network.two.norm.running_mean, second.mean(dim=(0, 2, 3)), atol=1e-3)
    assert network.one.norm.momentum == classifier.network.one.norm.momentum


def test_norm_without_scale_and_shift_gets_the_statistics_of_its_new_input():
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False), nn.Flatten(), nn.Linear(5 * 14 * 10, 2)
    )
    *_, copy = randomised_copies(network, IMAGES)
    convolution, norm, *_ = copy.classifier
    assert torch.allclose(norm.running_mean, convolution(IMAGES).mean(dim=(0, 2, 3)), atol=1e-6)


def test_statistics_of_untouched_layers_stay_and_of_all_if_asked():
    classifier = toy_classifier()
    copies = list(randomised_copies(classifier, IMAGES))
    kept = classifier.network.one.norm.running_mean
    assert torch.equal(copies[1].classifier.network.one.norm.running_mean, kept)
    assert not torch.equal(copies[3].classifier.network.one.norm.running_mean, kept)
    *_, copy = randomised_copies(classifier, IMAGES, statistics="kept")
    assert torch.equal(copy.classifier.network.one.norm.running_mean, kept)


def test_the_classifier_and_the_random_state_stay_and_copies_can_be_differentiated_under_inference_mode():
    classifier = toy_classifier().train()
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    before = torch.get_rng_state()
    with torch.inference_mode():
        copies = list(randomised_copies(classifier, IMAGES))
    assert torch.get_rng_state().equal(before)
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())
    assert all(module.training for module in classifier.modules())
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module._forward_pre_hooks for module in classifier.modules())
    for copy in copies:
        assert not any(module.training for module in copy.classifier.modules())
        assert not any(module._forward_pre_hooks for module in copy.classifier.modules())
        images = IMAGES.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(copy.classifier(images).sum(), images)
        assert gradient.isfinite().all()


def test_stages_of_a_copy_are_its_own_layers():
    *_, copy = randomised_copies(toy_classifier(), IMAGES)
    outputs = copy.classifier.stage_outputs(IMAGES)
    assert torch.allclose(outputs.logits, copy.classifier(IMAGES), atol=1e-6)
    ones = [torch.ones_like(activation) for activation in outputs.activations]
    gated = copy.classifier.gated(outputs.activations[0], ones)
    assert torch.allclose(gated, outputs.logits, atol=1e-6)


def test_settings_that_cannot_work_are_refused():
    classifier = toy_classifier()
    for steps in (0, 5):
        with pytest.raises(ConfigError, match=r"steps must lie in 1\.\.4"):
            randomised_steps(classifier, IMAGES, steps=steps)
    with pytest.raises(ConfigError, match="cascade or independent"):
        next(randomised_copies(classifier, IMAGES, order="upwards"))
    with pytest.raises(ConfigError, match="estimated or kept"):
        next(randomised_copies(classifier, IMAGES, statistics="none"))

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, maps):
            return maps + self.offset

    with pytest.raises(ConfigError, match=r"layer 0 \(Offset\) has parameters but no reset_parameters"):
        randomised_steps(nn.Sequential(Offset(), nn.Flatten(), nn.Linear(3 * 16 * 12, 2)), IMAGES)


def test_derangement_moves_everybody():
    for count in (2, 3, 10):
        for seed in range(5):
            found = derangement(count, seed=seed).tolist()
            assert sorted(found) == list(range(count))
            assert all(place != item for place, item in enumerate(found))
    assert derangement(10, seed=1).tolist() != derangement(10, seed=2).tolist()
    with pytest.raises(ConfigError, match="at least 2"):
        derangement(1)


def test_weighted_percentile_is_that_of_the_drawn_copies():
    values = torch.rand(7, generator=torch.Generator().manual_seed(1))
    weights = torch.randint(0, 3, (20, 7), generator=torch.Generator().manual_seed(2))
    found = weighted_percentile(values, weights, 95.0)
    for row, weight in zip(found, weights, strict=True):
        copies = values.double().repeat_interleave(weight)
        assert row.item() == pytest.approx(copies.quantile(0.95).item())
    assert weighted_percentile(values, torch.zeros(1, 7), 95.0).isnan().all()


def test_pass_criterion():
    reference = Score(0.5, 0.4, 0.6, n=9)
    assert passes_randomisation(Score(0.3, 0.2, 0.5, n=9), reference) is True
    assert passes_randomisation(Score(0.3, 0.2, 0.51, n=9), reference) is False
    assert passes_randomisation(Score(0.3, math.nan, math.nan, n=1), reference) is None
    assert passes_randomisation(reference, Score(math.nan, math.nan, math.nan, n=0)) is None
