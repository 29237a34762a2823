"""A score that is not a number never becomes a number: it is undefined and counted, whoever asks."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_metric_contracts import CASES, computed

from helpers.metric_cases import toy_explained
from verisal.detection.end_to_end import end_to_end, nearest_of_other_class, strongest
from verisal.detection.metric import DetectionScores
from verisal.detection.report import _worst_benign
from verisal.detection.table import detection_report
from verisal.errors import DataError, NumericError
from verisal.functional.adversarial import judge_8bit
from verisal.functional.baselines import DatasetMean
from verisal.functional.baselines.neutrality import Neutrality
from verisal.functional.comparison import pearson, spearman, ssim, top_k_intersection
from verisal.functional.regions import (
    choose_threshold,
    energy_inside,
    frozen_boxes,
    largest_component_ious,
    multi_component_ious,
    pointing_hits,
)
from verisal.functional.regions.localisation import pixel_histograms
from verisal.functional.removal import (
    aopc,
    curve_area,
    normalised_curve_area,
    removal_scores,
    saliency_fidelity,
)
from verisal.functional.removal.faithfulness import tuned_threshold
from verisal.functional.statistics import (
    Bootstrap,
    Resampled,
    auroc,
    fpr_at_tpr95,
    kendall_tau_b,
    rank_correlation,
    ranking_agreement,
    rate_above,
    roc_curve,
    threshold_at_fpr,
)
from verisal.functional.statistics.detection import resampled_mean
from verisal.functional.statistics.ranking import diagonal_effect, swap_shares
from verisal.metrics import DisturbedScores
from verisal.results import Score

NAN, INF = math.nan, math.inf
GOOD = torch.tensor([0.9, 0.2, 0.7, 0.4, 0.35, 0.6], dtype=torch.float64)
ZEROS = torch.zeros(1, dtype=torch.float64)


def falling(values):
    """As many scores of the other side, all different."""
    return torch.linspace(0.5, 0.1, len(values), dtype=torch.float64)


def difference(first, second):
    bootstrap = Bootstrap(together=len(first[0]))
    return bootstrap.auroc(*first).minus(bootstrap.auroc(*second))


def four_methods(values):
    return torch.stack([values, values.flip(0), 1 - values, values * values])


#: Scores over images, as functions of one value per image; the second says whether infinity is a number.
OVER_IMAGES = {
    "mean": (lambda values: Bootstrap().mean(values).score(), False),
    "mean of a difference": (lambda values: Bootstrap().mean(values, kind="difference").score(), False),
    "difference of hits": (
        lambda values: Bootstrap().mean(values.round(), kind="hit difference").score(),
        False,
    ),
    "rate": (lambda values: Bootstrap().mean(values.round()).score(), False),
    "AUROC": (lambda values: Bootstrap().auroc(values, falling(values)).score(), True),
    "AUROC, clean side": (lambda values: Bootstrap().auroc(falling(values), values).score(), True),
    "FPR at 95 % TPR": (lambda values: Bootstrap().fpr_at_tpr95(values, falling(values)).score(), True),
    "rate above": (lambda values: Bootstrap().rate_above(values, 0.5).score(), True),
    "difference of AUROC": (
        lambda values: difference(
            (values, falling(values)),
            (falling(values).flip(0).where(~values.isnan(), NAN), falling(values)),
        ),
        True,
    ),
    "agreement of settings": (
        lambda values: Bootstrap().mean(values, kind="measure").score(),
        False,
    ),
    "shared baseline": (
        lambda values: diagonal_effect(torch.stack([values] * 4).view(2, 2, -1), Bootstrap()),
        False,
    ),
    "swaps": (
        lambda values: swap_shares(four_methods(falling(values)), torch.stack([values] * 4), Bootstrap())[
            0, 1
        ],
        False,
    ),
}
EVERY = pytest.mark.parametrize("name", OVER_IMAGES)


def same(one, other):
    return repr(replace(one, undefined=0)) == repr(replace(other, undefined=0))


@EVERY
def test_an_image_without_a_number_is_left_out_and_counted(name):
    score, _ = OVER_IMAGES[name]
    counted = score(torch.cat([GOOD, torch.tensor([NAN])]))
    assert (counted.n, counted.undefined) == (6, 1)
    assert math.isfinite(counted.value)


@EVERY
@pytest.mark.parametrize("images", [0, 1, 4])
def test_no_image_with_a_number_gives_none(name, images):
    score, _ = OVER_IMAGES[name]
    found = score(torch.full((images,), NAN))
    assert (found.n, found.undefined) == (0, images)
    assert all(math.isnan(value) for value in (found.value, found.low, found.high))


@EVERY
@pytest.mark.parametrize("extreme", [INF, -INF])
def test_infinity_is_the_last_in_an_order_and_no_number_in_a_mean(name, extreme):
    score, is_order = OVER_IMAGES[name]
    found = score(torch.cat([GOOD, torch.tensor([extreme])]))
    assert not math.isinf(found.value)
    if is_order:
        assert (found.n, found.undefined) == (7, 0)
        assert found.value == score(torch.cat([GOOD, torch.tensor([math.copysign(1e9, extreme)])])).value
    else:
        assert (found.n, found.undefined) == (6, 1)
        assert same(found, score(torch.cat([GOOD, torch.tensor([NAN])])))


@EVERY
def test_one_image_has_no_interval(name):
    found = OVER_IMAGES[name][0](GOOD[:1])
    assert math.isnan(found.low)
    assert math.isnan(found.high)


#: Numbers that stay undefined where one side has nothing, without a count.
ONE_SIDE_EMPTY = {
    "auroc": lambda: auroc(torch.tensor([NAN]), GOOD),
    "auroc, nothing": lambda: auroc(GOOD, GOOD[:0]),
    "fpr_at_tpr95": lambda: fpr_at_tpr95(GOOD, torch.tensor([NAN, NAN])),
    "rate_above": lambda: rate_above(torch.tensor([NAN]), 0.5),
    "rate_above, threshold": lambda: rate_above(GOOD, NAN),
    "bootstrap_rate, threshold": lambda: Bootstrap().rate_above(GOOD, NAN).score().value,
    "share": lambda: Resampled(NAN, GOOD, 6, kind="share").limits()[0],
    "share, resamples": lambda: Resampled(0.5, GOOD * NAN, 6, kind="share").limits()[1],
    "least": lambda: Resampled.least([Resampled(value, GOOD, 6, kind="share") for value in (0.2, NAN)]).value,
    "resamples": lambda: float(resampled_mean(GOOD * NAN, torch.ones(1, 6))),
    "tau": lambda: float(kendall_tau_b(torch.tensor([1.0, NAN, 3.0]), GOOD[:3])),
    "tau, ties": lambda: float(kendall_tau_b(torch.ones(3), GOOD[:3])),
    "tau, one": lambda: float(kendall_tau_b(GOOD[:1], GOOD[:1])),
    "rank correlation": lambda: float(rank_correlation(torch.tensor([1.0, NAN, 3.0]), GOOD[:3])),
    "rank correlation, ties": lambda: float(rank_correlation(torch.ones(3), GOOD[:3])),
    "agreement, three methods": lambda: (
        ranking_agreement(torch.ones(3, 5), torch.ones(3, 5), Bootstrap())["kendall"].value
    ),
    "agreement, ties": lambda: (
        ranking_agreement(torch.ones(4, 5), torch.ones(4, 5), Bootstrap())["spearman"].value
    ),
    "area": lambda: float(curve_area(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1.0, NAN, 0.0]]))),
    "aopc": lambda: float(aopc(torch.tensor([[1.0, 0.5, NAN]]))),
    "normalised area": lambda: float(
        normalised_curve_area(
            torch.tensor([0.0, 1.0]), torch.tensor([[NAN, 0.0]]), clean=torch.tensor([NAN]), removed=ZEROS
        )
    ),
    "normalised area, no drop": lambda: float(
        normalised_curve_area(torch.tensor([0.0, 1.0]), torch.zeros(1, 2), clean=ZEROS, removed=ZEROS)
    ),
}


@pytest.mark.parametrize("name", ONE_SIDE_EMPTY)
def test_what_cannot_be_said_is_not_a_number(name):
    assert math.isnan(ONE_SIDE_EMPTY[name]())


def test_thresholds_are_never_made_of_what_is_not_a_number():
    assert threshold_at_fpr(torch.full((400,), NAN), 0.05) is None
    spoilt = torch.cat([torch.arange(200.0), torch.full((50,), NAN)])
    assert threshold_at_fpr(spoilt, 0.05) == threshold_at_fpr(torch.arange(200.0), 0.05)
    assert threshold_at_fpr(spoilt[1:], 0.05) is None  # 199 numbers are too few, whatever their company
    assert [len(line) for line in roc_curve(torch.tensor([NAN]), GOOD)] == [0, 0]


MAPS = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MAPS[1, 0, 2, 3], MAPS[2, 0, 0, 0], MAPS[3] = NAN, INF, 0.5
OTHERS = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(5, 8, 8, dtype=torch.bool)
MASKS[:, 2:5, 2:5] = True
BOXES = [torch.tensor([[2.0, 2.0, 5.0, 5.0]])] * 5


def network(images):
    """Three classes by the means of the channels."""
    return images.mean(dim=(2, 3)) * torch.tensor([1.0, 2.0, 3.0])


def broken(images):
    """A network without a number for anybody."""
    return network(images) * NAN


IMAGES, QUERY = (
    torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)),
    torch.tensor([2, 2, 2, 0, 2]),
)
#: Values per image of maps of which the second, third and fourth cannot be scored.
OF_MAPS = {
    "spearman": lambda: spearman(MAPS, OTHERS),
    "spearman, other side": lambda: spearman(OTHERS, MAPS),
    "pearson": lambda: pearson(MAPS, OTHERS),
    "ssim": lambda: ssim(MAPS, OTHERS),
    "top k": lambda: top_k_intersection(MAPS, OTHERS, 0.1),
    "energy": lambda: energy_inside(MAPS, MASKS),
    "pointing": lambda: pointing_hits(MAPS, MASKS, tolerance=1.0),
    "largest component": lambda: largest_component_ious(MAPS, BOXES),
    "all components": lambda: multi_component_ious(MAPS, BOXES),
    "pixels": lambda: pixel_histograms(MAPS, MASKS).flatten(1),
    "removal, probability": lambda: removal_scores(
        network, IMAGES, MAPS, QUERY, baseline=DatasetMean(mean=(0.5, 0.5, 0.5)), shares=[0.2, 0.5]
    )[0],
    "removal, prediction": lambda: removal_scores(
        network, IMAGES, MAPS, QUERY, baseline=DatasetMean(mean=(0.5, 0.5, 0.5)), shares=[0.2, 0.5]
    )[1],
}


@pytest.mark.parametrize("name", OF_MAPS)
def test_a_map_that_says_nothing_has_no_value(name):
    values = OF_MAPS[name]().view(5, -1)
    assert values.isnan().all(dim=1).tolist() == [False, True, True, True, False]
    assert not values[[0, 4]].isnan().any()


def test_the_largest_of_logits_that_are_not_numbers_is_no_prediction():
    baseline = DatasetMean(mean=(0.5, 0.5, 0.5))
    found = removal_scores(broken, IMAGES, OTHERS, QUERY, baseline=baseline, shares=[0.2])
    assert all(part.isnan().all() for part in found)


def test_a_threshold_is_chosen_on_maps_that_can_be_scored():
    good = [0, 4]
    assert choose_threshold(MAPS, BOXES) == choose_threshold(MAPS[good], [BOXES[row] for row in good])
    with pytest.raises(DataError, match="none of 3 maps can be scored"):
        choose_threshold(MAPS[1:4], BOXES[1:4])
    assert not frozen_boxes(MAPS[1:4], 0.2).any()


def test_a_crop_threshold_is_not_the_one_whose_mean_is_not_a_number():
    """A network that has no number for tight crops: of its means the lowest would have been NaN."""
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, :4], maps[0, 0, 2, 2] = 0.5, 1.0
    calls = []

    def picky(images):
        calls.append(len(images))
        return network(images) * (NAN if len(calls) == 2 else 1.0)

    asked = {"maps": maps, "query_class": QUERY[:1], "thresholds": (0.3, 0.9)}
    with pytest.raises(DataError, match="no map is defined"):
        tuned_threshold(picky, IMAGES[:1], **asked)
    assert tuned_threshold(network, IMAGES[:1], **asked) in (0.3, 0.9)


@pytest.mark.parametrize("name", CASES)
def test_metrics_of_a_network_without_numbers_are_undefined(name):
    """What a metric knows without the network stays; all that hangs on it is undefined and counted."""
    case, whole = CASES[name], toy_explained()
    sound, spoilt = computed(case, whole), computed(case, replace(whole, classifier=without_numbers(whole)))
    for key, score in spoilt.items():
        if math.isnan(score.value):
            assert (score.n, score.undefined) == (0, 6), key
        else:
            assert score == sound[key], key


def without_numbers(explained):
    """The same network with weights that are not numbers."""
    copied = copy.deepcopy(explained.classifier)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(NAN)
    return copied


def test_fidelity_of_a_network_without_numbers_has_no_floor():
    found = saliency_fidelity(broken, IMAGES, maps=OTHERS, query_class=QUERY)
    assert found.values.isnan().all()


def test_a_baseline_without_probabilities_is_neither_neutral_nor_not():
    nothing = torch.tensor([NAN, 0.1])
    found = Neutrality("grey", 3, nothing, nothing, nothing, nothing)
    assert found.neutral is None
    assert Neutrality("grey", 3, nothing[:0], nothing[:0], nothing[:0], nothing[:0]).neutral is None


def test_the_worst_of_several_groups_is_unknown_where_one_of_them_is():
    groups = SimpleNamespace(roles={"noise": "benign", "jpeg": "benign", "none": "benign", "clean": "clean"})
    scores = {
        "test/a/fpr/noise": Score(0.1, 0.05, 0.2, n=100),
        "test/a/fpr/jpeg": Score(0.2, 0.1, 0.3, n=50),
        "test/a/fpr/none": Score(NAN, NAN, NAN, n=0),  # a group without an image hides nothing
        "test/a/fpr/clean": Score(0.9, 0.8, 1.0, n=50),
    }
    worst = _worst_benign(scores, "test", "a", groups, Bootstrap())["test/a/fpr/worst_benign"]
    assert (worst.value, worst.n, worst.undefined) == (0.2, 50, 0)
    assert 0.0 < worst.low < 0.2 < worst.high
    scores["test/a/fpr/jpeg"] = Score(NAN, NAN, NAN, n=0, undefined=50)
    hidden = _worst_benign(scores, "test", "a", groups, Bootstrap())["test/a/fpr/worst_benign"]
    assert math.isnan(hidden.value)
    assert hidden.undefined == 50


def test_a_report_of_a_detector_without_scores_has_no_numbers():
    metric = DetectionScores(["a"])
    for group in (0, 1, 2):
        metric.update(torch.full((30, 1), NAN), torch.arange(30), torch.full((30,), group))
    report = detection_report(
        metric.compute(), split="test", rows=["a"], groups={0: "clean", 1: "pgd", 2: "pgd_failed"},
        roles={"clean": "clean", "pgd": "attack", "pgd_failed": "failed"},
        thresholds={"a": {0.05: 0.1, 0.01: NAN}}, bootstrap=Bootstrap(),
    )  # fmt: skip
    assert {"test/a/auroc/pgd", "test/a/fpr/clean", "test/a/alarm_rate/pgd_failed"} <= set(report)
    assert all(
        math.isnan(score.value) and score.n == 0 and score.undefined == 30 for score in report.values()
    )


def test_outcomes_of_attacks_refuse_what_is_not_a_number():
    fooled, scores = torch.tensor([True, False]), torch.tensor([0.3, NAN])
    with pytest.raises(DataError, match="the threshold is not a number"):
        end_to_end(fooled, scores, scores, NAN, Bootstrap())
    with pytest.raises(DataError, match="no score"):
        strongest(fooled[None], torch.tensor([[NAN, 0.1]]))
    features = torch.tensor([[0.0, 1.0], [NAN, 0.0]])
    with pytest.raises(DataError, match="not numbers"):
        nearest_of_other_class(features, torch.tensor([0, 0]), features[:1], torch.tensor([1]))


def test_an_image_without_logits_is_no_success_of_an_attack():
    with pytest.raises(NumericError, match=r"not finite .* for 5 of 5 images"):
        judge_8bit(broken, IMAGES, IMAGES.flip(0), QUERY)


def test_a_count_of_nothing_is_not_0():
    metric = DisturbedScores(threshold=0.2)
    columns = metric.table.columns
    metric.table.update(["a", "b"], torch.full((2, len(columns)), NAN, dtype=torch.float64))
    found = metric.scores()
    assert all(math.isnan(score.value) and score.n == 0 and score.undefined == 2 for score in found.values())
