import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.statistics import (
    Bootstrap,
    Resampled,
    auroc,
    fpr_at_tpr95,
    negatives_needed,
    pair_by_image,
    rate_above,
    roc_curve,
    threshold_at_fpr,
)
from verisal.functional.statistics.detection import resampled_auroc, resampled_fpr_at_tpr95, resampled_mean

NAN = math.nan


def difference(first, second, **settings):
    bootstrap = Bootstrap(together=len(first[0]), **settings)
    return bootstrap.auroc(*first).minus(bootstrap.auroc(*second))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        (tensor(3, 4), tensor(1, 2), 1.0),
        (tensor(1, 2), tensor(3, 4), 0.0),
        (tensor(1, 2, 3), tensor(1, 2, 3), 0.5),
        (tensor(2, 3), tensor(1, 2), 0.875),
        (tensor(5), tensor(1), 1.0),
        (tensor(7, 7, 7), tensor(7, 7), 0.5),
        (tensor(3, NAN, 4), tensor(NAN, 1, 3), 0.875),
        (tensor(math.inf, 0), tensor(-math.inf, 1), 0.75),
    ],
    ids=["apart", "reversed", "same", "one tie", "one each", "constant", "nan left out", "infinite"],
)
def test_auroc_by_hand(positive, negative, expected):
    assert auroc(positive, negative) == expected


def test_auroc_below_chance_is_not_turned_over():
    assert auroc(tensor(0, 1, 5), tensor(2, 3, 4)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("empty", [tensor(), tensor(NAN, NAN)])
def test_one_empty_class_is_undefined(empty):
    scores = tensor(1, 2, 3)
    assert math.isnan(auroc(empty, scores))
    assert math.isnan(auroc(scores, empty))
    assert math.isnan(fpr_at_tpr95(empty, scores))
    assert math.isnan(fpr_at_tpr95(scores, empty))
    assert math.isnan(rate_above(empty, 0.0))
    assert len(roc_curve(empty, scores)[0]) == 0


def test_decisions_instead_of_scores_are_refused():
    with pytest.raises(NumericError, match=r"only the two values 0 and 1 among 6"):
        auroc(tensor(1, 1, 0), tensor(0, 0, 1))


def test_scores_of_one_number_per_image_are_asked_for():
    with pytest.raises(DataError, match=r"\(N,\), found \(2, 1\)"):
        auroc(torch.zeros(2, 1), torch.zeros(2))


def test_auroc_does_not_depend_on_dtype_for_exact_values():
    positive, negative = tensor(1, 2, 4), tensor(0, 2, 3)
    expected = auroc(positive, negative)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert auroc(positive.to(dtype), negative.to(dtype)) == expected


def test_roc_curve_by_hand():
    fpr, tpr = roc_curve(tensor(3, 2), tensor(2, 1))
    assert fpr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert tpr.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_area_under_the_curve_is_auroc():
    generator = torch.Generator().manual_seed(0)
    positive = torch.randint(0, 9, (40,), generator=generator).float() + 1
    negative = torch.randint(0, 9, (30,), generator=generator).float()
    fpr, tpr = roc_curve(positive, negative)
    assert bool((fpr.diff() >= 0).all())
    assert bool((tpr.diff() >= 0).all())
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert float(torch.trapezoid(tpr, fpr)) == pytest.approx(auroc(positive, negative), abs=1e-12)


def test_threshold_allows_exactly_the_rate():
    scores = torch.arange(200).float()[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    threshold = threshold_at_fpr(scores, 0.05)
    assert threshold == 189.0  # 190..199 are above: ten alarms in 200
    assert rate_above(scores, threshold) == 0.05
    assert rate_above(scores, threshold - 0.5) > 0.05


def test_threshold_with_ties_stays_at_or_below_the_rate():
    scores = torch.cat([torch.zeros(180), torch.ones(20)])
    threshold = threshold_at_fpr(scores, 0.05)
    assert threshold == 1.0
    assert rate_above(scores, threshold) == 0.0


def test_threshold_of_constant_scores_raises_no_alarm():
    assert threshold_at_fpr(torch.full((250,), 3.0), 0.05) == 3.0


@pytest.mark.parametrize(
    ("count", "rate", "supported"),
    [(199, 0.05, False), (200, 0.05, True), (999, 0.01, False), (1000, 0.01, True)],
)
def test_threshold_needs_ten_false_alarms(count, rate, supported):
    assert (threshold_at_fpr(torch.arange(float(count)), rate) is not None) is supported
    assert negatives_needed(rate) == {0.05: 200, 0.01: 1000}[rate]


def test_threshold_leaves_nan_out_of_the_count():
    scores = torch.arange(200.0)
    scores[3] = NAN
    assert threshold_at_fpr(scores, 0.05) is None


@pytest.mark.parametrize("rate", [0.0, 1.0, 5.0, -0.1])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(ConfigError, match="must lie in"):
        threshold_at_fpr(torch.arange(300.0), rate)


def test_rate_counts_strictly_above():
    assert rate_above(tensor(1, 2, 2, 3), 2.0) == 0.25


def test_fpr_at_tpr95_by_hand():
    positive = torch.arange(1.0, 21.0)  # 19 of 20 lie at 2 or above
    assert fpr_at_tpr95(positive, tensor(0, 1, 1.5, 2)) == 0.25
    assert fpr_at_tpr95(positive, tensor(2, 3, 4, 1)) == 0.75


def test_fpr_at_tpr95_agrees_with_the_curve():
    generator = torch.Generator().manual_seed(1)
    positive, negative = torch.randn(57, generator=generator) + 1, torch.randn(43, generator=generator)
    fpr, tpr = roc_curve(positive, negative)
    assert fpr_at_tpr95(positive, negative) == pytest.approx(float(fpr[tpr >= 0.95].min()), abs=1e-12)


def test_pair_by_image():
    first, second = pair_by_image(torch.tensor([7, 2, 9]), torch.tensor([9, 1, 7, 3]))
    assert first.tolist() == [0, 2]
    assert second.tolist() == [2, 0]


def test_pairing_refuses_an_image_that_occurs_twice():
    with pytest.raises(DataError, match="occurs twice"):
        pair_by_image(torch.tensor([1, 1]), torch.tensor([1, 2]))


def test_bootstrap_weights_are_whole_draws_of_n():
    weights = Bootstrap(400, seed=3).weights(50)
    assert weights.shape == (400, 50)
    assert torch.equal(weights.sum(dim=1), torch.full((400,), 50.0))
    assert torch.equal(weights, weights.round())
    assert torch.equal(weights, Bootstrap(400, seed=3).weights(50))
    assert not torch.equal(weights, Bootstrap(400, seed=4).weights(50))
    # each image is missed by a share (1 - 1/50)^50 = 0.364 of the resamples
    assert float((weights == 0).float().mean()) == pytest.approx(0.364, abs=0.01)


def test_weights_of_one_give_the_plain_scores():
    generator = torch.Generator().manual_seed(2)
    positive = torch.randint(0, 12, (31,), generator=generator).float()
    negative = torch.randint(0, 9, (31,), generator=generator).float()
    ones = torch.ones(1, 31)
    assert resampled_auroc(positive, negative, ones).item() == auroc(positive, negative)
    assert resampled_fpr_at_tpr95(positive, negative, ones).item() == fpr_at_tpr95(positive, negative)
    assert resampled_mean((positive > 4).double(), ones).item() == pytest.approx(
        rate_above(positive, 4.0), abs=1e-15
    )


def test_a_difference_is_of_the_same_images():
    values = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    values[1, 5], values[2, 6] = NAN, NAN
    bootstrap = Bootstrap(50)
    for joint in (bootstrap, bootstrap.jointly(40)):
        whole, *parts = (joint.mean(row) for row in values)
        assert all(part.of_same_images(part) for part in parts)
        for first, second in (parts, (Resampled.mean([whole, parts[0]]), Resampled.mean([whole, parts[1]]))):
            with pytest.raises(DataError, match="same images, found some that only one of them counts"):
                first.minus(second)
    ranked = [
        joint.auroc(row, row.flip(0), images=torch.arange(40).roll(turn))
        for row in values[:1]
        for turn in (0, 1)
    ]
    assert not ranked[0].of_same_images(ranked[1])
    hits = (values > 0.5).double().where(~values.isnan(), NAN)
    for made in (bootstrap.mean, lambda row: bootstrap.rate_above(row, 0.5)):
        assert made(hits[0]).of_same_images(made(hits[0]))
        assert not made(hits[1]).of_same_images(made(hits[2]))
    apart = [bootstrap.mean(hits[0] - row, kind="hit difference") for row in hits]
    assert not apart[1].of_same_images(apart[2])


def test_interval_holds_the_value_and_shrinks_with_more_images():
    widths = []
    for images in (50, 800):
        generator = torch.Generator().manual_seed(5)
        positive, negative = (
            torch.randn(images, generator=generator) + 1,
            torch.randn(images, generator=generator),
        )
        score = Bootstrap(seed=1).auroc(positive, negative).score()
        assert score.low < score.value < score.high
        assert (score.n, score.undefined) == (images, 0)
        widths.append(score.high - score.low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.4)  # goes as 1 / sqrt(images)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.5 * (1 + math.erf(1 / 2))  # positives shifted by 1: Phi(1 / sqrt 2)
    hits = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        sides = torch.randn(2, 120, generator=generator)
        score = Bootstrap(200, seed=seed).auroc(sides[0] + 1, sides[1]).score()
        hits += score.low <= truth <= score.high
    assert 34 <= hits <= 40  # 38 expected at 95 %


@pytest.mark.parametrize("area", [0.99, 1.0])
def test_interval_of_an_area_near_1_is_not_too_sure(area):
    """The bootstrap's percentiles cover .99 at 50 images in 83 to 86 of 100 sets, and 1 with no width."""
    shift = 2.0**0.5 * 2.3263478740408408 if area < 1 else 50.0
    generator, covered = torch.Generator().manual_seed(3), 0
    for _ in range(120):
        sides = torch.randn(2, 50, generator=generator)
        score = Bootstrap(200).auroc(sides[0] + shift, sides[1]).score()
        covered += score.low <= area <= score.high
        assert score.low < 0.99
    assert covered >= 0.94 * 120


def test_a_share_that_varies_by_more_than_any_rate_is_all_but_unknown():
    """A few weak attacks: the resampled rate at 95 % of them is anything between 0 and 1."""
    resampled = torch.tensor([0.0] * 80 + [1.0] * 20, dtype=torch.float64)
    low, high = Resampled(0.02, resampled, 50, kind="share").limits()
    assert low < 0.02
    assert 0.9 < high <= 1.0


def test_differences_of_nearly_perfect_detectors_stay_open():
    first, second = torch.arange(50.0) + 100, torch.arange(50.0)
    other = first.clone()
    other[0] = 20.5
    score = difference((first, second), (other, second))
    assert score.value == pytest.approx(29 / 2500)
    assert score.low < 0 < score.high
    perfect = difference((first, second), (first + 1, second))
    assert perfect.value == 0.0
    assert perfect.low < -0.01
    assert perfect.high > 0.01


def test_bootstrap_counts_what_is_undefined():
    positive, negative = tensor(3, NAN, 4, 5), tensor(1, 2, NAN, 3)
    score = Bootstrap().auroc(positive, negative).score()
    assert (score.value, score.n, score.undefined) == (0.875, 2, 2)
    score = Bootstrap().fpr_at_tpr95(positive, negative).score()
    assert (score.n, score.undefined) == (2, 2)
    score = Bootstrap().rate_above(positive, 3.5).score()
    assert (score.value, score.n, score.undefined) == (2 / 3, 3, 1)


@pytest.mark.parametrize(
    "score",
    [
        Bootstrap().auroc(tensor(), tensor()).score(),
        Bootstrap().auroc(tensor(NAN), tensor(1)).score(),
        Bootstrap().fpr_at_tpr95(tensor(), tensor()).score(),
        Bootstrap().rate_above(tensor(NAN), 0.0).score(),
        difference((tensor(NAN), tensor(1)), (tensor(NAN), tensor(0))),
    ],
)
def test_nothing_to_score_is_nan_with_n_0(score):
    assert all(math.isnan(value) for value in (score.value, score.low, score.high))
    assert score.n == 0


def test_one_image_has_a_value_but_no_interval():
    score = Bootstrap().auroc(tensor(2), tensor(1)).score()
    assert (score.value, score.n) == (1.0, 1)
    assert math.isnan(score.low)
    assert math.isnan(score.high)


def test_no_resamples_no_interval():
    for score in (
        Bootstrap(0).auroc(tensor(2, 3, 4), tensor(1, 2.5, 0)).score(),
        Bootstrap(0).rate_above(tensor(2, 3, 4), 2.5).score(),
        Bootstrap(0).fpr_at_tpr95(tensor(2, 3, 4), tensor(1, 2.5, 0)).score(),
    ):
        assert math.isfinite(score.value)
        assert math.isnan(score.low)
        assert score.n == 3


def test_sides_of_different_length_are_refused():
    with pytest.raises(DataError, match="pair them by image id first"):
        Bootstrap().auroc(tensor(1, 2), tensor(1, 2, 3)).score()


def test_rate_interval_is_the_binomial_one():
    score = Bootstrap().rate_above(torch.arange(400.0), 359.5).score()
    assert score.value == 0.1
    half = 1.96 * math.sqrt(0.1 * 0.9 / 400)
    assert score.low == pytest.approx(0.1 - half, abs=0.005)
    assert score.high == pytest.approx(0.1 + half, abs=0.005)


def test_difference_of_a_detector_and_itself_is_exactly_0():
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(60, generator=generator) + 1, torch.randn(60, generator=generator)
    score = difference(sides, sides)
    assert (score.value, score.low, score.high, score.n) == (0.0, 0.0, 0.0, 60)


def test_paired_difference_sees_what_separate_intervals_do_not():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(300, generator=generator) + 1, torch.randn(300, generator=generator)
    noise = torch.randn(2, 300, generator=generator) * 0.7
    worse = positive + noise[0], negative + noise[1]
    better, other = Bootstrap().auroc(positive, negative).score(), Bootstrap().auroc(*worse).score()
    assert other.high > better.low  # the two intervals overlap
    score = difference((positive, negative), worse)
    assert score.value == pytest.approx(better.value - other.value, abs=1e-12)
    assert score.low > 0


def test_difference_leaves_out_images_that_neither_detector_could_score():
    score = difference((tensor(2, NAN, 1), tensor(0, 1, 2)), (tensor(2, 3, 4), tensor(0, NAN, 2)))
    assert (score.value, score.n, score.undefined) == (0.625 - 0.875, 2, 1)


def test_same_arguments_same_bits_on_any_thread_count():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(500, generator=generator) + 1, torch.randn(500, generator=generator)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(Bootstrap(seed=7).auroc(positive, negative).score())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_percentiles_of_known_values():
    score = Resampled(0.5, torch.arange(1001).double() / 1000, 9, 2).score()
    assert (score.low, score.high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert (score.value, score.n, score.undefined) == (0.5, 9, 2)


class Made(TorchDispatchMode):
    """Counts the values that operations make."""

    values = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        found = made if isinstance(made, tuple | list) else [made]
        self.values += sum(one.numel() for one in found if isinstance(one, torch.Tensor))
        return made


def test_work_grows_with_the_images_not_with_their_pairs():
    generator = torch.Generator().manual_seed(0)
    counts = []
    for images in (200, 800):
        scores = torch.randn(2, images, generator=generator)
        with Made() as made:
            Bootstrap().auroc(scores[0] + 1, scores[1]).score()
        counts.append(made.values)
    assert counts[1] < 4.5 * counts[0]
    assert counts[1] < 50 * 2000 * 800  # a few values per resample and image


def test_shuffled_labels_score_chance():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(600, generator=generator)
    labels = torch.rand(600, generator=generator) < 0.5
    assert auroc(scores[labels], scores[~labels]) == pytest.approx(0.5, abs=0.06)
