"""Mahalanobis, kernel density, local intrinsic dimension: what they read, and what they must not read."""

import math

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.detectors import KernelDensity, LocalIntrinsicDimension, Mahalanobis, PooledActivations
from verisal.detectors.statistical import local_intrinsic_dimension
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import auroc


def clouds(count=120, *, seed=0):
    """Two classes at (0, 0) and (8, 0), long in the second direction; attacked rows leave by the first."""
    rng = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    spread = torch.randn(count, 2, generator=rng) * torch.tensor([0.2, 2.0])
    vectors = spread + torch.stack([8.0 * classes, torch.zeros(count)], dim=1)
    adversarial = torch.arange(count) >= count // 2
    vectors[adversarial, 0] += 2.0
    logits = torch.stack([1.0 - classes, classes.float()], dim=1)
    measured = {"logits": logits, "pooled/1": torch.rand(count, 3, generator=rng), "pooled/2": vectors}
    return measured, adversarial


def fitted(detector):
    measured, adversarial = clouds()
    detector.fit(measured, adversarial, ~adversarial)
    return detector


DETECTORS = (Mahalanobis(), KernelDensity(), LocalIntrinsicDimension(neighbours=10))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: type(detector).__name__)
def test_planted_departure_from_the_clean_clouds_is_found_on_new_images(detector):
    measured, adversarial = clouds(seed=5)
    scores = fitted(detector).judge(measured)
    least = 0.9 if isinstance(detector, LocalIntrinsicDimension) else 0.99
    assert auroc(scores[adversarial], scores[~adversarial]) > least


def test_distance_is_in_units_of_the_spread_to_the_nearest_class():
    detector = fitted(Mahalanobis())
    near, far, other = (
        {"logits": torch.zeros(1, 2), "pooled/1": torch.full((1, 3), 0.5), "pooled/2": torch.tensor([at])}
        for at in ([0.0, 2.0], [1.0, 0.0], [8.0, 2.0])
    )
    # Two along the long direction is less unusual than one along the short; both classes count.
    assert detector.judge(near) < detector.judge(far)
    assert detector.judge(other).item() == pytest.approx(detector.judge(near).item(), abs=0.5)


def test_density_is_the_mean_gaussian_kernel_of_the_predicted_class():
    vectors = torch.cat([torch.zeros(8, 1), torch.full((8, 1), 3.0)])
    logits = torch.cat([torch.tensor([[1.0, 0.0, 0.0]] * 8), torch.tensor([[0.0, 1.0, 0.0]] * 8)])
    detector = KernelDensity(bandwidth=2.0)
    clean = torch.ones(16, dtype=torch.bool)
    detector.fit({"logits": logits, "pooled/1": vectors}, ~clean, clean)
    asked = {"logits": torch.eye(3), "pooled/1": torch.ones(3, 1)}
    constant = 0.5 * math.log(2 * math.pi * 4)
    first, second = 1 / 8, 4 / 8
    both = -math.log((math.exp(-first) + math.exp(-second)) / 2)
    # Nobody was predicted as the third class: all clean images stand in.
    expected = [first + constant, second + constant, both + constant]
    assert detector.judge(asked).tolist() == pytest.approx(expected)


def test_density_far_from_everything_stays_finite():
    scores = fitted(KernelDensity()).judge(
        {"logits": torch.eye(2)[:1], "pooled/1": torch.zeros(1, 3), "pooled/2": torch.tensor([[1e4, 0.0]])}
    )
    assert math.isfinite(scores.item())


def test_chosen_bandwidth_is_near_the_best_for_a_known_density():
    rng = torch.Generator().manual_seed(1)
    vectors = torch.randn(1000, 1, generator=rng)
    clean = torch.ones(1000, dtype=torch.bool)
    detector = KernelDensity()
    detector.fit({"logits": torch.zeros(1000, 2), "pooled/1": vectors}, ~clean, clean)
    # Density of the standard normal at 0 is 0.399, at 2 it is 0.054.
    asked = {"logits": torch.zeros(2, 2), "pooled/1": torch.tensor([[0.0], [2.0]])}
    assert (-detector.judge(asked)).exp().tolist() == pytest.approx([0.399, 0.054], rel=0.25)


def test_bandwidth_is_chosen_without_attacked_images():
    measured, adversarial = clouds()
    alone = KernelDensity()
    clean = {name: tensor[~adversarial] for name, tensor in measured.items()}
    alone.fit(clean, torch.zeros(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool))
    asked, _ = clouds(seed=3)
    assert fitted(KernelDensity()).judge(asked).equal(alone.judge(asked))


def test_dimension_of_distances_worked_by_hand():
    # Mean of log(1/4), log(2/4), log 1 is -log 2: dimension 1 / log 2.
    found = local_intrinsic_dimension(torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == pytest.approx([1 / math.log(2), 1000.0, 1000.0], rel=1e-4)


def test_dimension_of_a_filled_square_is_two():
    rng = torch.Generator().manual_seed(0)
    distance = (torch.rand(200, 4000, 2, generator=rng) - 0.5).norm(dim=2).sort(dim=1).values[:, :100]
    assert local_intrinsic_dimension(distance).mean().item() == pytest.approx(2.0, abs=0.1)


def test_class_is_the_prediction_on_that_very_input_not_a_label():
    """The same activation under two predictions has two densities: nothing else could tell the class."""
    detector = fitted(KernelDensity())
    at_first_class = {"pooled/1": torch.zeros(2, 3), "pooled/2": torch.zeros(2, 2), "logits": torch.eye(2)}
    usual, odd = detector.judge(at_first_class).tolist()
    assert usual + 5 < odd


@pytest.mark.parametrize("make", [Mahalanobis, lambda: LocalIntrinsicDimension(neighbours=10)])
def test_scalers_and_clouds_do_not_move_with_the_images_that_are_judged(make):
    detector, (asked, _) = fitted(make()), clouds(seed=6)
    alone = detector.judge({name: tensor[:2] for name, tensor in asked.items()})
    beside = {name: torch.cat([tensor[:2], 1e3 + tensor[2:]]) for name, tensor in asked.items()}
    torch.testing.assert_close(detector.judge(beside)[:2], alone)


@pytest.mark.parametrize("make", [Mahalanobis, lambda: LocalIntrinsicDimension(neighbours=10)])
def test_too_few_attacked_images_are_refused(make):
    measured, adversarial = clouds()
    few = torch.zeros_like(adversarial)
    few[-3:] = True
    with pytest.raises(DataError, match="at least 4 adversarial images to fit, found 3 of 120"):
        make().fit(measured, few, ~adversarial)


@pytest.mark.parametrize("make", [Mahalanobis, KernelDensity, LocalIntrinsicDimension])
def test_too_few_clean_images_are_refused(make):
    measured, adversarial = clouds()
    few = torch.zeros_like(adversarial)
    few[:7] = True
    with pytest.raises(DataError, match=r"at least \d+ clean images to fit, found 7"):
        make().fit(measured, adversarial, few)


def test_flags_that_contradict_each_other_are_refused():
    measured, adversarial = clouds()
    with pytest.raises(DataError, match="60 images are flagged adversarial and clean"):
        Mahalanobis().fit(measured, adversarial, adversarial)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="bandwidth must be above 0"):
        KernelDensity(bandwidth=0.0)
    with pytest.raises(ConfigError, match="neighbours must be at least 2"):
        LocalIntrinsicDimension(neighbours=1)


def test_a_stage_without_any_spread_does_not_stop_the_fit():
    measured, adversarial = clouds()
    dead = measured | {"pooled/1": torch.zeros(120, 3)}
    detector = Mahalanobis()
    detector.fit(dead, adversarial, ~adversarial)
    assert bool(detector.judge(dead).isfinite().all())


def test_pooled_activations_are_the_means_over_positions():
    classifier, images = toy_classifier(), toy_images(2)
    found = PooledActivations()(classifier, images)
    with torch.no_grad():
        outputs = classifier.stage_outputs(images)
    assert list(found) == ["logits", "pooled/1", "pooled/2"]
    torch.testing.assert_close(found["pooled/2"], outputs.activations[1].mean(dim=(2, 3)))
