import math

import pytest
import torch

from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionTable
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import Bootstrap

NAMES = {0: "clean", 1: "fgsm", 2: "pgd", 3: "apgd", 4: "square", 5: "never"}
ATTACKS = {"step": ["fgsm"], "iterated": ["pgd", "apgd"], "search": ["square"], "idle": ["never"]}
FITS = {"default": ["fgsm"], "search": ["square"]}
# Group to image to the scores of the two rows; the rows' AUROC of each attack are worked out beside them.
SCORES = {
    0: {0: (0.0, 3.0), 1: (1.0, 2.0), 2: (2.0, 1.0), 3: (3.0, 0.0)},
    # Against 0, 1, 2, 3: 4 + 1 + 3 + 4 wins of 16; the other row is above all.
    1: {0: (5.0, 9.0), 1: (0.5, 8.0), 2: (2.5, 7.0), 3: (3.5, 6.0)},
    # Against 0, 1: one win and one tie, then one win; against 3, 2: none.
    2: {1: (0.5, 1.5), 0: (1.0, 1.0)},
    # Against 2 alone: a win; against 1 alone: a win.
    3: {2: (4.0, 5.0)},
    # Against 2, 3: one win of 4; against 1, 0: two wins of 4 by 0.5 and 0.7.
    4: {2: (2.5, 0.5), 3: (1.0, 0.7)},
}


def table(scores=None, *, member=0.0):
    """Two members whose mean is the score."""
    rows = [(group, image, pair) for group, of in (scores or SCORES).items() for image, pair in of.items()]
    values = torch.tensor([pair for _, _, pair in rows], dtype=torch.float64)
    return DetectionTable(
        torch.stack([values - member, values + member], dim=2),
        image_index=torch.tensor([image for _, image, _ in rows]),
        group=torch.tensor([group for group, _, _ in rows]),
    )


def families(**settings):
    return Families(**{"attacks": ATTACKS, "fits": FITS, "merged": ("step", "iterated")} | settings)


def report(tables=None, given=None, *, resamples=50, seed=0, **settings):
    known = {
        "split": "test",
        "rows": ["a", "b"],
        "groups": NAMES,
        "clean": 0,
        "thresholds": {fit: {"a": {0.05: 2.25}, "b": {0.05: 1.0}} for fit in FITS},
        "default": "default",
        "head": "a",
        "bootstrap": Bootstrap(resamples, seed=seed),
    }
    tables = tables or dict.fromkeys(FITS, table())
    return transfer_report(tables, given or families(), **known | settings)


def values(found, start):
    return {name.removeprefix(start): score.value for name, score in found.items() if name.startswith(start)}


@pytest.mark.parametrize("member", [0.0, 0.25])
def test_cells_and_columns_by_hand(member):
    found = report(dict.fromkeys(FITS, table(member=member)))
    cells = {"step": 0.75, "iterated": (0.625 + 1.0) / 2, "search": 0.25}
    default = values(found, "test/a/auroc_fitted_on_default/")
    assert math.isnan(default.pop("idle"))
    assert default == cells | {
        "mean_seen": 0.75,
        "mean_unseen": (0.8125 + 0.25) / 2,
        "worst_unseen": 0.25,
        # What was fitted is of one kind with iterated attacks.
        "mean_unseen_strict": 0.25,
    }
    columns = {name: value for name, value in default.items() if name not in cells}
    assert values(found, "test/a/auroc/") == columns
    other = values(found, "test/a/auroc_fitted_on_search/")
    assert math.isnan(other.pop("idle"))
    # Nothing close to the fit: no stricter column.
    assert other == cells | {"mean_seen": 0.25, "mean_unseen": 0.78125, "worst_unseen": 0.75}
    assert values(found, "test/b/auroc_fitted_on_default/") | {"idle": 0} == {
        "step": 1.0, "iterated": 0.5, "search": 0.5, "idle": 0,
        "mean_seen": 1.0, "mean_unseen": 0.5, "worst_unseen": 0.5, "mean_unseen_strict": 0.5,
    }  # fmt: skip


def test_rates_at_the_given_thresholds_by_hand():
    found = report()
    # Above 2.25: 3 of 4; none of 2 and 1 of 1; 1 of 2.
    assert values(found, "test/a/tpr_at_fpr5/") == {
        "mean_seen": 0.75, "mean_unseen": 0.5, "worst_unseen": 0.5, "mean_unseen_strict": 0.5,
    }  # fmt: skip
    # A score of exactly the threshold is no alarm: 1.0 of the second row against 1.0.
    assert values(found, "test/b/tpr_at_fpr5/")["mean_unseen"] == ((0.5 + 1.0) / 2 + 0.0) / 2


def test_a_row_without_a_threshold_has_no_rate():
    thresholds = {fit: {"a": {0.05: None}, "b": {0.05: 1.0}} for fit in FITS}
    found = report(thresholds=thresholds)
    assert not values(found, "test/a/tpr_at_fpr5/")
    assert values(found, "test/b/tpr_at_fpr5/")


def test_differences_are_those_of_the_columns_and_only_to_other_rows():
    found = report()
    assert values(found, "test/a_minus_b/difference/") == {"mean_unseen": 0.03125, "worst_unseen": -0.25}
    assert values(report(head="b"), "test/b_minus_a/difference/") == {
        "mean_unseen": -0.03125,
        "worst_unseen": 0.25,
    }
    assert not any("a_minus_a" in name for name in found)


def test_equal_rows_differ_by_nothing_in_every_resample():
    same = {group: {image: (a, a) for image, (a, _) in of.items()} for group, of in SCORES.items()}
    found = report(dict.fromkeys(FITS, table(same)))
    for column in ("mean_unseen", "worst_unseen"):
        difference = found[f"test/a_minus_b/difference/{column}"]
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_differences_are_of_the_images_that_both_rows_score():
    gone = {group: dict(of) for group, of in SCORES.items()}
    # Of the first row pgd has image 0 alone; of the second the square attack has none.
    gone[2][1] = (math.nan, 1.5)
    gone[4] = {image: (a, math.nan) for image, (a, _) in SCORES[4].items()}
    found = report(dict.fromkeys(FITS, table(gone)))
    # On image 0: 1.0 of 0.0 wins, 1.0 of 3.0 does not. On image 2: 4.0 of 2.0 and 5.0 of 1.0 win.
    difference = found["test/a_minus_b/difference/mean_unseen"]
    assert difference.value == (1.0 + 1.0) / 2 - (0.0 + 1.0) / 2
    assert (difference.n, difference.undefined) == (1, 1)
    # Each row alone counts what it has.
    assert values(found, "test/a/auroc/")["mean_unseen"] == (1.0 + 0.25) / 2


def test_counts_are_those_of_images():
    found = report()
    counts = {name: found[f"test/a/auroc_fitted_on_default/{name}"].n for name in ATTACKS}
    # Of a family and of a mean the attack with most images counts; of the worst the one with least.
    assert counts == {"step": 4, "iterated": 2, "search": 2, "idle": 0}
    assert found["test/a/auroc/mean_seen"].n == 4
    assert found["test/a/auroc/worst_unseen"].n == 2


def test_a_family_without_a_success_is_undefined_and_in_no_mean():
    never = report()["test/a/auroc_fitted_on_default/idle"]
    assert math.isnan(never.value)
    assert math.isnan(never.low)
    assert never.n == 0
    seen = report(given=families(fits={"default": ["never"], "search": ["square"]}))
    assert "test/a/auroc/mean_seen" not in seen
    assert seen["test/a/auroc/mean_unseen"].value == pytest.approx((0.75 + 0.8125 + 0.25) / 3)


def test_all_families_seen_leaves_no_unseen_column():
    fits = {"default": ["fgsm", "pgd", "square", "never"], "search": ["square"]}
    found = report(given=families(fits=fits))
    assert set(values(found, "test/a/auroc/")) == {"mean_seen"}
    assert not values(found, "test/a_minus_b/")


def test_scores_of_another_fit_do_not_touch_the_default_columns():
    turned = {group: {i: (-a, -b) for i, (a, b) in of.items()} for group, of in SCORES.items()}
    found, plain = report({"default": table(), "search": table(turned)}), report()
    assert values(found, "test/a/auroc/") == values(plain, "test/a/auroc/")
    # Turned round, every AUROC is one minus itself, and none is mended.
    assert found["test/a/auroc_fitted_on_search/step"].value == 0.25


def test_same_seed_same_intervals_other_seed_other_ones():
    first, again, other = report(), report(), report(seed=1)
    assert repr(first) == repr(again)
    name = "test/a/auroc_fitted_on_default/step"
    assert first[name].value == other[name].value
    assert (first[name].low, first[name].high) != (other[name].low, other[name].high)


def test_a_perfect_row_is_as_sure_as_its_images_are_many():
    score = report()["test/b/auroc_fitted_on_default/step"]
    assert (score.value, score.low, score.high) == (1.0, pytest.approx(0.025 ** (1 / 4)), 1.0)


def test_the_worst_family_has_no_limit_above_any_family():
    found = report(resamples=500)
    unseen = [found[f"test/a/auroc_fitted_on_default/{family}"] for family in ("iterated", "search")]
    worst = found["test/a/auroc/worst_unseen"]
    assert worst.value == min(one.value for one in unseen)
    assert worst.low == min(one.low for one in unseen)
    # Each upper limit may fail, so the least of them is that of half the share of misses.
    assert worst.high > min(one.high for one in unseen)


def test_a_score_that_is_not_a_number_is_left_out_and_counted():
    broken = {group: dict(of) for group, of in SCORES.items()}
    broken[1][0] = (math.nan, 9.0)
    found = report(dict.fromkeys(FITS, table(broken)))
    # Image 0 leaves with its clean half: 0 + 2 + 3 wins of 9 against 1, 2, 3.
    score = found["test/a/auroc_fitted_on_default/step"]
    assert score.value == pytest.approx(5 / 9)
    assert (score.n, score.undefined) == (3, 1)
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert found["test/a/tpr_at_fpr5/mean_seen"].value == pytest.approx(2 / 3)
    assert found["test/b/auroc_fitted_on_default/step"].undefined == 0


def test_no_success_at_all_is_an_error():
    nothing = {0: SCORES[0]}
    with pytest.raises(DataError, match="no attack of any family succeeded"):
        report(dict.fromkeys(FITS, table(nothing)))


@pytest.mark.parametrize(
    "wrong",
    [{"tables": {"default": table()}}, {"default": "none"}, {"head": "c"}],
    ids=["a fit without a table", "default", "head"],
)
def test_names_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ConfigError, match="every fit needs its table"):
        report(**wrong)


def test_families_know_what_a_fit_has_seen():
    known = families(fits={"default": ["apgd"], "search": ["square"]})
    assert known.seen("default") == ("iterated",)
    assert known.unseen("default") == ("step", "search", "idle")
    assert known.seen("default", strict=True) == ("step", "iterated")
    assert known.unseen("default", strict=True) == ("search", "idle")
    assert known.seen("search", strict=True) == known.seen("search") == ("search",)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attacks": {"a": ["fgsm"], "b": ["fgsm"]}}, r"\['fgsm'\] stand in two families"),
        ({"fits": {"default": []}}, "fit 'default' must name attacks.*none given"),
        ({"fits": {"default": ["fgsm", "cw"]}}, r"fit 'default' must name attacks.*unknown: \['cw'\]"),
        ({"merged": ("step", "cw")}, r"merged names families \['cw'\]"),
    ],
)
def test_families_that_do_not_fit_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        families(**wrong)
