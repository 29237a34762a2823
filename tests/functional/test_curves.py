import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, Blur, Constant, DatasetMean, LinearImputation
from verisal.functional.removal import (
    aopc,
    curve_area,
    normalised_curve_area,
    perturbation_curve,
    removal_scores,
)
from verisal.functional.removal.curves import pixel_ranks, removal_counts, tied_share

BLACK, WHITE = Constant(), Constant(level=1.0)


def brightness(images):
    """Logits: mean of the image, and 0."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([mean, torch.zeros_like(mean)], dim=1)


def random_case(count=3, size=(5, 7)):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *size, generator=generator)
    return images, torch.rand(count, 1, *size, generator=generator), torch.zeros(count, dtype=torch.int64)


class Spy:
    """A classifier that keeps what it was shown."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(images.clone())
        return brightness(images)


# Order


def test_ties_keep_row_major_order_in_both_orders():
    maps = torch.tensor([[[[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]]]])
    assert pixel_ranks(maps).tolist() == [[[[2, 0, 3], [1, 5, 4]]]]
    assert pixel_ranks(maps, order="least_relevant_first").tolist() == [[[[1, 4, 2], [5, 0, 3]]]]


def test_cells_are_ordered_by_their_mean_and_narrower_at_the_border():
    maps = torch.tensor([[[[0.0, 4.0, 1.0], [0.0, 0.0, 5.0], [2.0, 2.0, 9.0]]]])
    # Means: 1, 3 in the upper row of cells, 2, 9 in the lower one.
    expected = [[[[5, 6, 1], [7, 8, 2], [3, 4, 0]]]]
    assert pixel_ranks(maps, block_size=2).tolist() == expected
    assert pixel_ranks(maps, block_size=3).flatten().tolist() == list(range(9))


def test_share_of_ties_counts_pixels_or_cells_with_a_twin():
    maps = torch.tensor([[[[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]]], [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    torch.testing.assert_close(tied_share(maps), torch.tensor([5 / 6, 0.0]))
    # Cells of the first map: (1 + 3 + 3 + 0) / 4 and (1 + 1) / 2.
    assert tied_share(maps, block_size=2).tolist() == [0.0, 0.0]
    assert tied_share(torch.ones(1, 1, 3, 3), block_size=2).tolist() == [1.0]


@pytest.mark.parametrize(("pixels", "steps"), [(35, 4), (35, 35), (35, 64), (4, 1), (50176, 224)])
def test_a_remainder_is_spread_over_the_steps(pixels, steps):
    counts = removal_counts(pixels, steps)
    assert len(counts) == steps + 1
    assert (counts[0], counts[-1]) == (0, pixels)
    assert all(abs(count - point * pixels / steps) <= 0.5 for point, count in enumerate(counts))


# Curves


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 500])
@pytest.mark.parametrize("direction", ["remove", "insert"])
def test_area_of_a_linear_curve_is_one_half_at_any_step_count(steps, direction):
    _, maps, query = random_case()
    fractions, scores = perturbation_curve(
        brightness,
        torch.ones(3, 3, 5, 7),
        maps,
        query,
        baseline=BLACK,
        direction=direction,
        steps=steps,
        score="logit",
    )
    assert scores.shape == (3, steps + 1)
    torch.testing.assert_close(
        curve_area(fractions, scores), torch.full((3,), 0.5).double(), atol=1e-6, rtol=0
    )


def test_values_worked_by_hand():
    image = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).expand(1, 3, 2, 2).contiguous()
    maps = torch.tensor([[[[4.0, 2.0], [2.0, 1.0]]]])
    query = torch.tensor([0])

    def curve(**settings):
        return perturbation_curve(brightness, image, maps, query, steps=4, score="logit", **settings)

    fractions, deletion = curve(baseline=BLACK)
    assert fractions.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(deletion, torch.tensor([[0.5, 0.3, 0.2, 0.15, 0.0]]))
    insertion = curve(baseline=WHITE, direction="insert")[1]
    torch.testing.assert_close(insertion, torch.tensor([[1.0, 0.95, 0.8, 0.6, 0.5]]))
    lerf = curve(baseline=BLACK, order="least_relevant_first")[1]
    torch.testing.assert_close(lerf, torch.tensor([[0.5, 0.35, 0.25, 0.2, 0.0]]))
    # Trapezoid of the deletion: 0.25 * (0.25 + 0.3 + 0.2 + 0.15 + 0).
    assert curve_area(fractions, deletion).item() == pytest.approx(0.225)
    assert aopc(deletion).item() == pytest.approx((0.0 + 0.2 + 0.3 + 0.35 + 0.5) / 5)


def test_score_is_the_probability_of_the_query_class_unless_the_logit_is_asked_for():
    images, maps, _ = random_case()
    query = torch.tensor([1, 0, 1])
    logit = perturbation_curve(brightness, images, maps, query, baseline=BLACK, steps=1, score="logit")[1]
    mean = images.mean(dim=(1, 2, 3))
    torch.testing.assert_close(logit[:, 0], torch.where(query == 0, mean, 0.0))
    found = perturbation_curve(brightness, images, maps, query, baseline=BLACK, steps=1)[1]
    torch.testing.assert_close(found[:, 0], torch.where(query == 0, mean, -mean).sigmoid())


@pytest.mark.parametrize("baseline", [Blur(sigma=10), WHITE])
@pytest.mark.parametrize("direction", ["remove", "insert"])
def test_curve_has_both_end_points(baseline, direction):
    images, maps, query = random_case()
    _, scores = perturbation_curve(
        brightness, images, maps, query, baseline=baseline, direction=direction, steps=6, score="logit"
    )
    ends = [brightness(images)[:, 0], brightness(baseline(images))[:, 0]]
    first, last = ends if direction == "remove" else ends[::-1]
    torch.testing.assert_close(scores[:, 0], first)
    torch.testing.assert_close(scores[:, -1], last)


def test_a_step_changes_pixels_in_all_channels_and_nothing_else():
    images, maps, query = random_case(count=1)
    spy = Spy()
    perturbation_curve(spy, images, maps, query, baseline=WHITE, steps=4)
    shown = torch.cat(spy.batches)
    assert shown.shape == (5, 3, 5, 7)
    for version, count in zip(shown, [0, 9, 18, 26, 35], strict=True):
        changed = version != images[0]
        assert changed.all(dim=0).sum() == changed.any(dim=0).sum() == count
        assert (version[changed] == 1).all()
        assert set(maps[0, 0][changed[0]].tolist()) == set(
            maps.flatten().sort().values[35 - count :].tolist()
        )


def test_cells_are_changed_whole_where_steps_divide_them():
    maps = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(1))
    spy = Spy()
    perturbation_curve(
        spy, torch.full((1, 3, 4, 6), 0.5), maps, torch.tensor([0]), baseline=BLACK, steps=6, block_size=2
    )
    for number, version in enumerate(torch.cat(spy.batches)):
        cells = (version[0] == 0).view(2, 2, 3, 2).permute(0, 2, 1, 3).reshape(6, 4)
        assert cells.all(dim=1).sum() == cells.any(dim=1).sum() == number


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 1000])
@pytest.mark.parametrize("baseline", [WHITE, LinearImputation()], ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("direction", ["remove", "insert"])
def test_chunk_size_and_batch_mates_change_nothing(chunk_size, baseline, direction):
    images, maps, query = random_case(count=3, size=(6, 4))
    settings = {"baseline": baseline, "direction": direction, "steps": 5, "score": "logit"}
    _, expected = perturbation_curve(brightness, images, maps, query, chunk_size=4, **settings)
    spy = Spy()
    _, found = perturbation_curve(spy, images, maps, query, chunk_size=chunk_size, **settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # One queue over all images: only its last batch may be smaller.
    sizes = [len(batch) for batch in spy.batches]
    assert sum(sizes) == 18
    assert all(size == min(chunk_size, 18) for size in sizes[:-1])
    for row in range(3):
        one = slice(row, row + 1)
        _, alone = perturbation_curve(brightness, images[one], maps[one], query[one], **settings)
        torch.testing.assert_close(alone, expected[one], rtol=0, atol=1e-6)


def test_constant_and_broken_maps_are_undefined_and_cost_no_pass():
    images, maps, query = random_case(count=5)
    _, expected = perturbation_curve(brightness, images, maps, query, baseline=BLACK, steps=3)
    maps[0] = 0.3
    maps[2, 0, 1, 1] = math.nan
    maps[3, 0, 0, 0] = math.inf
    spy = Spy()
    _, found = perturbation_curve(spy, images, maps, query, baseline=BLACK, steps=3)
    assert found.isnan().all(dim=1).tolist() == [True, False, True, True, False]
    torch.testing.assert_close(found[[1, 4]], expected[[1, 4]])
    assert sum(len(batch) for batch in spy.batches) == 8
    nothing = perturbation_curve(spy, images[:1], maps[:1], query[:1], baseline=BLACK, steps=3)[1]
    assert nothing.isnan().all()
    assert sum(len(batch) for batch in spy.batches) == 8


def test_no_image_gives_no_curve():
    images, maps, query = random_case(count=0)
    fractions, scores = perturbation_curve(brightness, images, maps, query, baseline=BLACK, steps=3)
    assert len(fractions) == 4
    assert scores.shape == (0, 4)


def test_every_layout_of_the_images_in_memory_gives_the_same_curve():
    images, maps, query = random_case()
    _, expected = perturbation_curve(brightness, images, maps, query, baseline=Blur(), steps=4)
    other = images.contiguous(memory_format=torch.channels_last)
    _, found = perturbation_curve(brightness, other, maps, query, baseline=Blur(), steps=4)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("direction", ["remove", "insert"])
def test_filling_baseline_sees_the_mask_of_every_step(direction):
    images, maps, query = random_case(count=1)
    seen = []

    @dataclass(frozen=True)
    class Recording(Baseline):
        needs_mask: ClassVar[bool] = True
        name: ClassVar[str] = "recording"

        def __call__(self, images, masks=None, *, query_class=None):
            seen.extend(masks[:, 0].bool())
            return torch.where(masks > 0.5, images, 0.25)

    _, scores = perturbation_curve(
        brightness, images, maps, query, baseline=Recording(), direction=direction, steps=5, chunk_size=4
    )
    fixed = torch.full_like(images, 0.25)
    _, expected = perturbation_curve(
        brightness, images, maps, query, baseline=fixed, direction=direction, steps=5
    )
    torch.testing.assert_close(scores, expected)
    counts = [0, 7, 14, 21, 28, 35]
    changed = [int(mask.sum()) for mask in seen]
    assert changed == (counts if direction == "insert" else counts[::-1])
    most = maps.flatten().argmax()
    assert seen[1].flatten()[most] == (direction == "insert")


def test_imputed_pixels_of_a_plain_image_leave_the_curve_flat():
    _, maps, query = random_case(count=1, size=(6, 6))
    plain = torch.full((1, 3, 6, 6), 0.4)
    _, scores = perturbation_curve(
        brightness, plain, maps, query, baseline=LinearImputation(noise=0), steps=4, score="logit"
    )
    torch.testing.assert_close(scores, torch.full((1, 5), 0.4))


def test_statistics_of_the_data_set_come_from_the_classifier():
    class Normalising(nn.Module):
        mean = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
        std = torch.ones(1, 3, 1, 1)

        def forward(self, images):
            return brightness(images - self.mean)

    images, maps, query = random_case()
    _, scores = perturbation_curve(
        Normalising(), images, maps, query, baseline=DatasetMean(), steps=2, score="logit"
    )
    torch.testing.assert_close(scores[:, -1], torch.zeros(3), rtol=0, atol=1e-6)


class Moody(nn.Module):
    """In training mode another answer, random draws, and an exception when asked."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.fail = False

    def forward(self, images):
        torch.rand(1)
        if self.fail:
            raise RuntimeError("out of order")
        return brightness(images) * self.weight * (100.0 if self.training else 1.0)


@pytest.mark.parametrize("fail", [False, True])
def test_classifier_runs_in_eval_mode_and_is_left_as_it_was(fail):
    images, maps, query = random_case()
    network = Moody().train()
    network.fail = fail
    state = torch.get_rng_state()
    try:
        _, scores = perturbation_curve(network, images, maps, query, baseline=BLACK, steps=2, score="logit")
    except RuntimeError:
        assert fail
    else:
        torch.testing.assert_close(scores[:, 0], 2 * images.mean(dim=(1, 2, 3)))
        assert not scores.requires_grad
    assert network.training
    assert network.weight.requires_grad
    assert network.weight.grad is None
    assert torch.get_rng_state().equal(state)


def test_inference_mode_and_autocast_change_nothing():
    images, maps, query = random_case()
    network = nn.Sequential(nn.Flatten(), nn.Linear(105, 2))
    expected = perturbation_curve(network, images, maps, query, baseline=BLACK, steps=3)[1]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = perturbation_curve(network, images.clone(), maps, query, baseline=BLACK, steps=3)[1]
    assert found.equal(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("baseline", [WHITE, LinearImputation()], ids=lambda baseline: baseline.name)
def test_curve_is_the_same_on_every_device(baseline):
    images, maps, query = random_case()
    expected = perturbation_curve(brightness, images, maps, query, baseline=baseline, steps=5)[1]
    fractions, found = perturbation_curve(
        brightness, images.cuda(), maps.cuda(), query.cuda(), baseline=baseline, steps=5
    )
    assert fractions.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"block_size": 0}, "block_size must be at least 1, found 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, found 0"),
        ({"score": "margin"}, "score must be 'probability' or 'logit', found 'margin'"),
        (
            {"order": "random"},
            "order must be 'most_relevant_first' or 'least_relevant_first', found 'random'",
        ),
        ({"direction": "keep"}, "direction must be 'remove' or 'insert', found 'keep'"),
        ({"query_class": torch.tensor([0, 2, 0])}, r"query class must lie in 0..1 \(K = 2\), found 0..2"),
        ({"baseline": DatasetMean()}, "DatasetMean takes its mean from the classifier's"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    images, maps, query = random_case()
    arguments = {"query_class": query, "baseline": BLACK, **settings}
    with pytest.raises(ConfigError, match=message):
        perturbation_curve(brightness, images, maps, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.rand(3, 5, 7)}, r"maps must be \(3, 1, 5, 7\).*found \(3, 5, 7\); resize"),
        ({"maps": torch.rand(3, 1, 10, 14)}, r"found \(3, 1, 10, 14\)"),
        ({"images": torch.rand(3, 3, 5, 7) * 2}, r"must lie in \[0, 1\]"),
        (
            {"baseline": torch.zeros(3, 1, 5, 7)},
            r"shaped like the images, \(3, 3, 5, 7\), found \(3, 1, 5, 7\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    images, maps, query = random_case()
    arguments = {"images": images, "maps": maps, "query_class": query, "baseline": BLACK, **change}
    with pytest.raises(DataError, match=message):
        perturbation_curve(brightness, **arguments)


# Areas


def test_area_is_taken_over_the_true_fractions():
    fractions = torch.tensor([0.0, 0.1, 1.0])
    scores = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    torch.testing.assert_close(curve_area(fractions, scores), torch.tensor([0.05, 0.95]).double())


def test_normalised_area_runs_from_the_clean_to_the_removed_score():
    fractions = torch.tensor([0.0, 0.5, 1.0])
    scores = torch.tensor([[0.9, 0.3, 0.1], [0.5, 0.5, 0.46], [0.1, 0.4, 0.9]])
    found = normalised_curve_area(fractions, scores, clean=scores[:, 0], removed=scores[:, 2])
    # (0.2 + 0.4) / 2 + ... = 0.4 under the curve; 0.4 - 0.1 over 0.8. Then a drop of 0.04, and a rise.
    assert found[0].item() == pytest.approx(0.375)
    assert found[1:].isnan().all()
    shown = normalised_curve_area(fractions, scores, clean=scores[:, 2], removed=scores[:, 0])
    # An insertion of the last row: area 0.45, less 0.1, over 0.8.
    assert shown[2].item() == pytest.approx(0.4375)


# Given shares


def test_removal_at_given_shares_worked_by_hand():
    image = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).expand(1, 3, 2, 2).contiguous()
    maps = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])

    def against_a_quarter(images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.full_like(mean, 0.25)], dim=1)

    means = {"most_relevant_first": [0.3, 0.2, 0.15], "least_relevant_first": [0.35, 0.3, 0.2]}
    for order, expected in means.items():
        probability, correct = removal_scores(
            against_a_quarter,
            image,
            maps,
            torch.tensor([0]),
            baseline=BLACK,
            shares=[0.25, 0.5, 0.75],
            order=order,
        )
        torch.testing.assert_close(probability[0], (torch.tensor(expected) - 0.25).sigmoid())
        assert correct[0].tolist() == [float(value > 0.25) for value in expected]


def test_removal_leaves_undefined_maps_out_and_names_bad_shares():
    images, maps, query = random_case()
    maps[1] = 0
    probability, correct = removal_scores(brightness, images, maps, query, baseline=BLACK, shares=[0.5])
    assert probability.isnan().flatten().tolist() == [False, True, False]
    assert correct.isnan().flatten().tolist() == [False, True, False]
    for shares in ([], [0.5, 1.2]):
        with pytest.raises(ConfigError, match=r"shares must lie in \[0, 1\]"):
            removal_scores(brightness, images, maps, query, baseline=BLACK, shares=shares)
