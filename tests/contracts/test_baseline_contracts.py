"""What every exported baseline promises, generated from the table of cases."""

import inspect
import re
from dataclasses import fields

import pytest
import torch
from torch import nn

from helpers.baseline_cases import CASES, SIZES, toy_images, toy_masks
from verisal.errors import ConfigError, DataError
from verisal.functional import baselines
from verisal.functional.baselines import Baseline, bound

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SEEDED = {name: case for name, case in CASES.items() if case.seeded}
QUERY = torch.tensor([0, 3, 1, 2, 1])
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


class Normalising(nn.Module):
    """A classifier as far as its statistics go."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))


def made(case, size=SIZES[0]):
    return bound(case.make(size), Normalising())


def filled(case, count=5, size=SIZES[0]):
    return made(case, size)(toy_images(count, size), toy_masks(count, size), query_class=QUERY[:count])


def test_every_exported_baseline_has_a_row():
    exported = {getattr(baselines, name) for name in baselines.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Baseline)}
    concrete = {kind for kind in kinds if not inspect.isabstract(kind)}
    assert concrete == {type(case.make(SIZES[0])) for case in CASES.values()}


def test_names_are_unique_and_safe_as_file_names():
    names = [made(case).name for case in CASES.values()]
    assert names == [case.name for case in CASES.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


@EVERY
def test_baseline_is_final_and_equal_settings_are_equal_baselines(case):
    baseline = case.make(SIZES[0])
    assert type(baseline).__final__
    assert baseline == case.make(SIZES[0])
    assert hash(baseline) == hash(case.make(SIZES[0]))


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_in_range_on_their_device(case, size):
    images, masks = toy_images(5, size), toy_masks(5, size)
    result = made(case, size)(images, masks, query_class=QUERY)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.device == images.device
    assert bool(result.isfinite().all())
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


@EVERY
def test_batch_equals_the_stack_of_singles(case):
    images, masks, whole = toy_images(5), toy_masks(5), filled(case)
    for row in range(5):
        one = slice(row, row + 1)
        alone = made(case)(images[one], masks[one], query_class=QUERY[one])
        torch.testing.assert_close(whole[one], alone, rtol=0, atol=1e-5)


@EVERY
def test_empty_batch_gives_an_empty_batch(case):
    result = filled(case, count=0)
    assert result.shape == (0, 3, *SIZES[0])
    assert result.dtype == torch.float32


@EVERY
def test_deterministic_and_global_random_state_untouched(case):
    first, before = filled(case), torch.get_rng_state()
    torch.manual_seed(1234)
    between = torch.get_rng_state()
    assert filled(case).equal(first)
    assert torch.get_rng_state().equal(between)
    assert not between.equal(before)


@EVERY
def test_images_and_masks_stay_as_they_are(case):
    images, masks = toy_images(5), toy_masks(5)
    result = made(case)(images, masks, query_class=QUERY)
    result.zero_()
    assert images.equal(toy_images(5))
    assert masks.equal(toy_masks(5))


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_same_images_whatever_surrounds_the_call(case, mode):
    plain = filled(case)
    with MODES[mode]():
        inside = filled(case)
    assert inside.dtype == torch.float32
    assert inside.equal(plain)


@pytest.mark.parametrize("case", SEEDED.values(), ids=SEEDED)
def test_another_seed_gives_another_image_and_another_name(case):
    first, second = (bound(case.seeded(SIZES[0], seed), Normalising()) for seed in (0, 1))
    images, masks = toy_images(5), toy_masks(5)
    one, two = (baseline(images, masks, query_class=QUERY) for baseline in (first, second))
    assert not one.equal(two)
    assert first.name == case.name
    assert second.name == f"{case.name}_seed1"


@EVERY
def test_statistics_come_from_the_classifier_and_given_ones_stay(case):
    baseline = case.make(SIZES[0])
    asked = {item.name for item in fields(baseline)} & {"mean", "std"}
    assert bool(asked) == case.statistics
    if not case.statistics:
        assert bound(baseline, print) is baseline
        return
    given = bound(baseline, Normalising())
    assert given.mean == pytest.approx((0.5, 0.4, 0.3))
    assert bound(given, print) is given
    with pytest.raises(ConfigError, match=r"classifier's normalisation, and function has none; give mean"):
        bound(baseline, lambda images: images)
    with pytest.raises(ConfigError, match=r"without a mean: give mean=, one number per channel"):
        baseline(toy_images(2), toy_masks(2), query_class=QUERY[:2])


@EVERY
def test_masks_matter_where_needed_and_are_not_asked_for_elsewhere(case):
    baseline, images = made(case), toy_images(5)
    if not baseline.needs_mask:
        assert baseline(images, query_class=QUERY).equal(filled(case))
        return
    masks, result = toy_masks(5), filled(case)
    kept = masks.expand_as(images) >= 0.5
    assert result[kept].equal(images[kept])
    assert not result[2:][~kept[2:]].equal(images[2:][~kept[2:]])
    mean = images[:1].mean(dim=(2, 3), keepdim=True)
    assert float((result[:1] - mean).abs().max()) < 0.1  # nothing kept: the image's mean, and a little noise
    with pytest.raises(ConfigError, match=r"no masks were given; give masks \(5, 1, 16, 12\)"):
        baseline(images)
    with pytest.raises(DataError, match=r"\(5, 1, 16, 12\), found \(1, 1, 16, 12\)"):
        baseline(images, masks[:1])
