import doctest
import math
import pickle
from pathlib import Path

import pytest
import torch

from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.table import (
    detection_curves,
    detection_histogram,
    detection_report,
    detection_thresholds,
    threshold_notes,
)
from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.statistics import Bootstrap, auroc, fpr_at_tpr95, rate_above

GROUPS = {0: "clean", 1: "cw_l2", 2: "noise_linf", 3: "cw_l2_failed"}
ROLES = {"clean": "clean", "cw_l2": "attack", "noise_linf": "benign", "cw_l2_failed": "failed"}
ROWS = ("masks", "max_softmax")


def draw(images=20, members=1, seed=0):
    """Scores (images, rows, members) of every group, attacks shifted up."""
    generator = torch.Generator().manual_seed(seed)
    shift = {0: 0.0, 1: 1.5, 2: 0.1, 3: 0.4}
    return {
        group: torch.randn(images, len(ROWS), members, generator=generator) + shift[group] for group in GROUPS
    }


def table_of(scores, members=1):
    metric = DetectionScores(ROWS, members=members)
    for group, values in scores.items():
        metric.update(values, torch.arange(len(values)), torch.full((len(values),), group))
    return metric.compute()


def report_of(table, *, resamples=100, seed=0, **changes):
    settings = {"split": "test", "rows": ROWS, "groups": GROUPS, "roles": ROLES}
    settings["bootstrap"] = Bootstrap(resamples, seed=seed)
    settings["thresholds"] = {row: {0.05: 1.0, 0.01: 2.0} for row in ROWS}
    return detection_report(table, **(settings | changes))


def same(first, second):
    return (
        torch.equal(first.scores, second.scores)
        and torch.equal(first.image_index, second.image_index)
        and torch.equal(first.group, second.group)
    )


def test_table_is_sorted_whatever_the_order_and_size_of_batches():
    scores = torch.arange(12.0).reshape(12, 1)
    index = torch.tensor([0, 1, 2, 3, 4, 5] * 2)
    group = torch.tensor([0] * 6 + [1] * 6)
    whole = DetectionScores(["masks"])
    whole.update(scores, index, group)
    parts = DetectionScores(["masks"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for chunk in order.split(5):  # 5, 5 and an uneven 2
        parts.update(scores[chunk], index[chunk], group[chunk])
    assert same(whole.compute(), parts.compute())
    assert whole.compute().scores.flatten().tolist() == list(range(12))


def test_copies_from_a_padding_sampler_are_dropped():
    metric = DetectionScores(["masks"])
    metric.update(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 0]), torch.tensor([0, 0, 0]))
    table = metric.compute()
    assert table.image_index.tolist() == [0, 1]
    assert table.scores.flatten().tolist() == [1.0, 2.0]


def test_one_image_in_two_groups_is_no_copy():
    metric = DetectionScores(["masks"])
    metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([4, 4]), torch.tensor([0, 1]))
    assert len(metric.compute()) == 2


def test_two_scores_under_one_key_are_an_error():
    metric = DetectionScores(["masks"])
    metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([4, 4]), torch.tensor([1, 1]))
    with pytest.raises(DataError, match="image 4 of group 1 has two different scores"):
        metric.compute()


def test_copies_of_an_undefined_score_are_copies():
    metric = DetectionScores(["masks"])
    metric.update(torch.tensor([[math.nan], [math.nan]]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert len(metric.compute()) == 1


def test_one_image_keeps_its_shape():
    metric = DetectionScores(["masks"])
    metric.update(torch.tensor([[2.0]]), torch.tensor([3]), torch.tensor([1]))
    table = metric.compute()
    assert table.scores.shape == (1, 1, 1)
    assert table.image_index.tolist() == [3]
    assert table.row_scores(0).tolist() == [2.0]


def test_nothing_gathered_gives_an_empty_table_and_undefined_scores():
    metric = DetectionScores(ROWS)
    metric.update(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    table = metric.compute()
    assert table.scores.shape == (0, 2, 1)
    report = report_of(table)
    assert all(math.isnan(score.value) and score.n == 0 for score in report.values())
    assert detection_curves(table, rows=ROWS, groups=GROUPS, roles=ROLES) == ()


def test_reset_forgets():
    metric = DetectionScores(["masks"])
    for value in (1.0, 5.0):
        metric.update(torch.tensor([[value]]), torch.tensor([0]), torch.tensor([0]))
        assert metric.compute().scores.item() == value
        metric.reset()


def test_pickling_keeps_the_scores():
    metric = DetectionScores(ROWS, members=2)
    metric.update(torch.ones(3, 2, 2), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert same(metric.compute(), pickle.loads(pickle.dumps(metric)).compute())  # noqa: S301


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_precision_are_kept_exactly(dtype):
    values = torch.tensor([[0.1], [1.7], [-3.3]], dtype=dtype)
    metric = DetectionScores(["masks"])
    metric.update(values, torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(metric.compute().scores.flatten(), values.double().flatten())


@pytest.mark.parametrize(
    ("scores", "index", "group"),
    [
        (torch.zeros(3, 1), torch.arange(3), torch.arange(3)),
        (torch.zeros(3, 2), torch.arange(2), torch.arange(2)),
        (torch.zeros(3, 2), torch.arange(3), torch.arange(2)),
        (torch.zeros(3, 2, 2), torch.arange(3), torch.arange(3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(scores, index, group):
    with pytest.raises(DataError, match=r"\(images, rows, members\)"):
        DetectionScores(ROWS).update(scores, index, group)


@pytest.mark.parametrize(("rows", "members"), [([], 1), (["a", "a"], 1), (["a"], 0)])
def test_settings_that_cannot_work_are_refused(rows, members):
    with pytest.raises(ConfigError, match="different row names"):
        DetectionScores(rows, members=members)


def test_report_names_and_values():
    scores = draw()
    report = report_of(table_of(scores))
    expected = set()
    for row in ROWS:
        expected |= {
            f"test/{row}/{metric}/cw_l2" for metric in ("auroc", "tpr_at_fpr5", "tpr_at_fpr1", "fpr_at_tpr95")
        }
        expected |= {
            f"test/{row}/{metric}/{group}" for metric in ("fpr", "fpr1") for group in ("clean", "noise_linf")
        }
        expected.add(f"test/{row}/alarm_rate/cw_l2_failed")
    assert set(report) == expected
    for index, row in enumerate(ROWS):
        clean, attacked, noisy, failed = (scores[group][:, index, 0] for group in range(4))
        assert report[f"test/{row}/auroc/cw_l2"].value == auroc(attacked, clean)
        assert report[f"test/{row}/fpr_at_tpr95/cw_l2"].value == fpr_at_tpr95(attacked, clean)
        assert report[f"test/{row}/tpr_at_fpr5/cw_l2"].value == rate_above(attacked, 1.0)
        assert report[f"test/{row}/tpr_at_fpr1/cw_l2"].value == rate_above(attacked, 2.0)
        assert report[f"test/{row}/fpr/clean"].value == rate_above(clean, 1.0)
        assert report[f"test/{row}/fpr1/noise_linf"].value == rate_above(noisy, 2.0)
        assert report[f"test/{row}/alarm_rate/cw_l2_failed"].value == rate_above(failed, 1.0)


def test_report_intervals_are_those_of_the_functions():
    scores = draw()
    report = report_of(table_of(scores), seed=5)
    clean, attacked = scores[0][:, 0, 0].double(), scores[1][:, 0, 0].double()
    assert report["test/masks/auroc/cw_l2"] == Bootstrap(100, seed=5).auroc(attacked, clean).score()
    assert report["test/masks/fpr/clean"] == Bootstrap().rate_above(clean, 1.0).score()
    assert report["test/masks/auroc/cw_l2"] != report_of(table_of(scores), seed=6)["test/masks/auroc/cw_l2"]


def test_auroc_pairs_attacked_images_with_their_own_clean_version():
    metric = DetectionScores(["masks"])
    metric.update(
        torch.tensor([[0.0], [1.0], [9.0], [9.5]]), torch.tensor([0, 1, 2, 3]), torch.zeros(4).long()
    )
    metric.update(torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([0, 1, 7]), torch.ones(3).long())
    report = report_of(metric.compute(), rows=["masks"])
    score = report["test/masks/auroc/cw_l2"]
    # clean images 2 and 3 were not attacked with success, attacked image 7 has no clean score
    assert (score.value, score.n, score.undefined) == (1.0, 2, 1)


def test_failed_attacks_change_no_auroc():
    scores = draw()
    low = scores | {3: torch.full_like(scores[3], -9.0)}
    first, second = report_of(table_of(scores)), report_of(table_of(low))
    assert first["test/masks/auroc/cw_l2"] == second["test/masks/auroc/cw_l2"]
    assert second["test/masks/alarm_rate/cw_l2_failed"].value == 0.0


def test_undefined_scores_are_left_out_and_counted():
    scores = draw()
    scores[1][4, 0] = math.nan
    scores[0][6, 0] = math.nan
    report = report_of(table_of(scores))
    kept = [image for image in range(20) if image not in (4, 6)]
    score = report["test/masks/auroc/cw_l2"]
    assert score.value == auroc(scores[1][kept, 0, 0], scores[0][kept, 0, 0])
    assert (score.n, score.undefined) == (18, 2)
    assert (report["test/masks/tpr_at_fpr5/cw_l2"].n, report["test/masks/tpr_at_fpr5/cw_l2"].undefined) == (
        19,
        1,
    )
    assert report["test/max_softmax/auroc/cw_l2"].undefined == 0


def test_a_threshold_that_is_not_supported_is_undefined_and_noted():
    table = table_of(draw(images=250))
    thresholds = detection_thresholds(table, ROWS, clean=0)
    assert thresholds["masks"][0.01] is None
    assert thresholds["masks"][0.05] is not None
    report = report_of(table, thresholds=thresholds)
    score = report["test/masks/tpr_at_fpr1/cw_l2"]
    assert math.isnan(score.value)
    assert (score.n, score.undefined) == (0, 250)
    assert threshold_notes(thresholds, 250) == (
        "FPR 1 % not supported: its threshold needs 1000 clean validation images, found 250",
    )
    assert threshold_notes({"masks": {0.05: 1.0}}, 250) == ()


def test_thresholds_keep_the_rate_on_the_images_they_come_from():
    table = table_of(draw(images=1000))
    thresholds = detection_thresholds(table, ROWS, clean=0)
    report = report_of(table, thresholds=thresholds)
    for row in ROWS:
        assert report[f"test/{row}/fpr/clean"].value == 0.05
        assert report[f"test/{row}/fpr1/clean"].value == 0.01


def test_thresholds_keep_the_rate_on_further_groups_as_well():
    scores = draw(images=1000)
    # Shifted beside the clean ones for one row, and below them for the other.
    scores[2] = scores[0] + torch.tensor([0.5, -0.5])[None, :, None]
    table = table_of(scores)
    alone = detection_thresholds(table, ROWS, clean=0)
    both = detection_thresholds(table, ROWS, clean=0, also=[2])
    for index, row in enumerate(ROWS):
        for rate in (0.05, 0.01):
            assert both[row][rate] == pytest.approx(alone[row][rate] + (0.5, 0)[index])
    assert detection_thresholds(table, ROWS, clean=0, also=[99])["masks"] == {0.05: None, 0.01: None}
    assert threshold_notes(both, 1000, also=["jpeg_50"]) == (
        "thresholds hold for validation images under jpeg_50 as well",
    )


def test_thresholds_do_not_depend_on_attacks():
    scores = draw(images=250)
    changed = scores | {1: scores[1] + 3, 2: scores[2] * 5}
    assert detection_thresholds(table_of(scores), ROWS, clean=0) == detection_thresholds(
        table_of(changed), ROWS, clean=0
    )


def test_members_are_scored_apart_and_together():
    scores = draw(members=3)
    scores[0][:, 1], scores[1][:, 1] = scores[0][:, 1, :1], scores[1][:, 1, :1]  # one model, repeated
    report = report_of(table_of(scores, members=3))
    areas = [auroc(scores[1][:, 0, member], scores[0][:, 0, member]) for member in range(3)]
    assert report["test/masks/auroc_member_min/cw_l2"].value == min(areas)
    assert report["test/masks/auroc_member_max/cw_l2"].value == max(areas)
    # The least lies below every member's upper limit and holds no member above its own.
    least, most = (report[f"test/masks/auroc_member_{kind}/cw_l2"] for kind in ("min", "max"))
    assert least.low < least.value < least.high
    assert most.low < most.value < most.high
    assert least.low < most.low
    assert least.high < most.high
    mean = report["test/masks/auroc_member_mean/cw_l2"]
    assert mean.value == pytest.approx(sum(areas) / 3, abs=1e-12)
    assert mean.low < mean.value < mean.high
    together = scores[1][:, 0].double().mean(dim=1), scores[0][:, 0].double().mean(dim=1)
    assert report["test/masks/auroc/cw_l2"].value == auroc(*together)
    assert not any(name.startswith("test/max_softmax/auroc_member") for name in report)


def test_decisions_are_refused_by_name():
    scores = {group: (values > 0.5).float() for group, values in draw().items()}
    with pytest.raises(NumericError, match=r"masks, cw_l2: AUROC needs continuous scores"):
        report_of(table_of(scores))


def test_no_resamples_gives_values_alone():
    report = report_of(table_of(draw()), resamples=0)
    assert all(math.isnan(score.low) and math.isfinite(score.value) for score in report.values())


@pytest.mark.parametrize(
    ("groups", "roles", "message"),
    [
        (GROUPS, {"clean": "clean"}, "groups without a role"),
        ({1: "cw_l2"}, ROLES, "exactly one clean group, found \\[\\]"),
        ({0: "a", 1: "b"}, {"a": "clean", "b": "clean"}, "found \\['a', 'b'\\]"),
    ],
)
def test_roles_that_do_not_fit_are_refused(groups, roles, message):
    with pytest.raises(ConfigError, match=message):
        report_of(table_of(draw()), groups=groups, roles=roles)


def test_an_attack_that_changes_nothing_scores_exactly_chance():
    scores = draw()
    scores[1] = scores[0].clone()
    assert report_of(table_of(scores))["test/masks/auroc/cw_l2"].value == 0.5


def test_curves_have_the_reported_area():
    table = table_of(draw())
    curves = detection_curves(table, rows=ROWS, groups=GROUPS, roles=ROLES)
    assert [(curve.figure, curve.label) for curve in curves] == [
        ("roc_cw_l2", "masks"),
        ("roc_cw_l2", "max_softmax"),
    ]
    report = report_of(table)
    for curve in curves:
        area = float(torch.trapezoid(curve.y, curve.x))
        assert area == pytest.approx(report[f"test/{curve.label}/auroc/cw_l2"].value, abs=1e-12)


def test_histogram_holds_the_defined_scores_of_every_group():
    scores = draw()
    scores[2][0, 1] = math.nan
    histogram = detection_histogram(
        table_of(scores),
        row=1,
        name="max_softmax",
        groups=GROUPS,
        roles=ROLES,
        thresholds={0.05: 1.5, 0.01: None},
    )
    assert histogram.roles["cw_l2_failed"] == "failed"
    assert histogram.figure == "scores_max_softmax"
    assert {name: len(values) for name, values in histogram.groups.items()} == {
        "clean": 20,
        "cw_l2": 20,
        "noise_linf": 19,
        "cw_l2_failed": 20,
    }
    assert histogram.thresholds == {"FPR 5 %": 1.5}


def test_a_group_of_the_table():
    table = table_of(draw())
    part = table.of_group(2)
    assert isinstance(part, DetectionTable)
    assert part.image_index.tolist() == list(range(20))
    assert part.group.unique().tolist() == [2]


def test_documentation():
    result = doctest.testfile(str(Path(__file__).parents[2] / "docs" / "metrics.md"), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_an_attack_is_compared_with_noise_of_its_own_norm_image_by_image():
    scores = draw(images=30)
    # Images 20 to 29 were not attacked successfully, images 0 to 4 have no noise.
    scores[1] = scores[1][:20]
    metric = DetectionScores(ROWS)
    for group, values in scores.items():
        index = torch.arange(5, 30) if group == 2 else torch.arange(len(values))
        metric.update(values[-len(index) :], index, torch.full((len(index),), group))
    report = report_of(metric.compute(), noise_of={"cw_l2": "noise_linf"})
    for row, name in enumerate(ROWS):
        literal = auroc(scores[1][5:20, row, 0].double(), scores[2][5:20, row, 0].double())
        found = report[f"test/{name}/auroc_against_noise/cw_l2"]
        assert (found.value, found.n) == (pytest.approx(float(literal)), 15)
    assert not any("against_noise" in str(name) for name in report_of(metric.compute()))
    missing = report_of(metric.compute(), noise_of={"cw_l2": "noise that is not there"})
    assert not any("against_noise" in str(name) for name in missing)
