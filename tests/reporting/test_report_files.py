import dataclasses
import io
import json
import math
import re

import pytest
from rich.console import Console

from helpers.evaluations import evaluation
from verisal.errors import DataError
from verisal.reporting.blocks import blocks_of
from verisal.reporting.facts import Clock, RunFacts, installed_versions
from verisal.reporting.printed import print_results
from verisal.reporting.report import result_table, write_report, write_samples
from verisal.results import Evaluation, Score

FACTS = RunFacts(seed=3, config={"a": {"b": 1}}, wall_times={"fit": 12.34567}, versions={"torch": "2.15.0"})


def printed(found):
    file = io.StringIO()
    print_results(found, file=file)
    return file.getvalue()


def test_json_holds_every_score_and_null_for_what_is_not_a_number(tmp_path):
    write_report(tmp_path, evaluation(), facts=FACTS)
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["metrics"]["test/masks/auroc/pgd_linf_4"] == {
        "value": 0.9375,
        "low": 0.9,
        "high": 0.95,
        "n": 39,
        "undefined": 1,
    }
    assert content["metrics"]["test/gradient/auroc/pgd_linf_4"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "undefined": 40,
    }
    assert len(content["metrics"]) == 6
    assert content["seed"] == 3
    assert content["config"] == {"a": {"b": 1}}
    assert content["wall_times"] == {"fit": 12.346}
    assert content["counts"] == {"clean": 64, "cw_l2": 40}


def test_too_few_images_are_said_in_the_place_of_an_interval(tmp_path):
    scores = {
        "val/a/area": Score(0.5, 0.25, 0.75, 9, 1, few=True),
        "val/b/area": Score(0.5, 0.25, 0.75, 90),
    }
    found = Evaluation("val", scores)
    write_report(tmp_path, found, facts=FACTS)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| | images | all |" in lines
    assert "| a | n = 9 + 1 | 0.500 [too few] |" in lines
    assert "| b | n = 90 | 0.500 [0.250, 0.750] |" in lines
    assert "[too few]: so few images have no interval that holds as often as it says." in lines
    metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert metrics["val/a/area"] == {
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 9,
        "undefined": 1,
        "too_few": True,
    }
    assert "too_few" not in metrics["val/b/area"]
    low, high = result_table(found).rows[0][4:6]
    assert math.isnan(low)
    assert math.isnan(high)
    assert "too few" in printed(found)


def test_equal_scores_give_equal_bytes_whatever_their_order(tmp_path):
    found = evaluation()
    turned = dataclasses.replace(found, scores=dict(reversed(found.scores.items())))
    write_report(tmp_path / "a", found, facts=FACTS)
    write_report(tmp_path / "b", turned, facts=dataclasses.replace(FACTS, wall_times={"fit": 99.0}))
    a, b = ((tmp_path / name / "report.json").read_text() for name in "ab")
    assert a.split('"counts"')[0] == b.split('"counts"')[0]
    assert a != b


def test_markdown_has_detectors_by_attacks_and_notes_first(tmp_path):
    found = dataclasses.replace(evaluation(), summary=("masks finds 94 % of the attacked images.",))
    write_report(tmp_path, found, facts=FACTS)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[2:7] == [
        "masks finds 94 % of the attacked images.",
        "",
        "**Read this first**",
        "",
        "- FPR 1 % not supported: 64 validation images, 1000 needed",
    ]
    assert "| | cw_l2 | pgd_linf_4 |" in lines
    assert "| masks | 0.750 [0.700, 0.800] (n = 40) | 0.938 [0.900, 0.950] (n = 39 + 1) |" in lines
    assert "| gradient | 0.500 (n = 40) | n/a (n = 0 + 40) |" in lines
    assert [line for line in lines if line.startswith("## ")] == [
        "## AUROC",
        "## Share of attacked images found (TPR) at 1 % FPR",
        "## False alarms (FPR) at the 5 % threshold",
        "## Images",
        "## Run",
    ]


def counts_of(scores):
    """What a report of scores says of its images, and where."""
    block = next(iter(blocks_of(Evaluation("test", scores).scores)))
    found = block.counts()
    return found.place, dict(found.words)


def test_counts_are_said_as_seldom_as_they_can_be():
    def scores(*counts):
        cells = zip(["a/auroc/x", "a/auroc/y", "b/auroc/x", "b/auroc/y"], counts, strict=True)
        return {f"test/{name}": Score(0.5, 0.4, 0.6, n) for name, n in cells}

    assert counts_of(scores(7, 7, 7, 7)) == ("all", {"": "n = 7"})
    assert counts_of(scores(7, 8, 7, 8)) == ("columns", {"x": "n = 7", "y": "n = 8"})
    assert counts_of(scores(7, 7, 8, 8)) == ("rows", {"a": "n = 7", "b": "n = 8"})
    assert counts_of(scores(7, 8, 9, 7)) == ("cells", {})


def test_a_table_of_many_equal_counts_names_them_once(tmp_path):
    names = [f"test/row{row}/auroc/attack{column}" for row in range(6) for column in range(5)]
    write_report(
        tmp_path, Evaluation("test", {name: Score(0.5, 0.4, 0.6, 12) for name in names}), facts=FACTS
    )
    text = (tmp_path / "report.md").read_text()
    assert text.count("n = 12") == 1
    assert text.count("0.500 [0.400, 0.600]") == 30


def test_all_time_is_counted_for_something(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(60.0)
    for name, at in (("preparation", 100.0), ("fit", 190.0), ("preparation", 200.0), ("test", 260.0)):
        now[0] = at
        clock.count(name)
    assert clock.times() == {"preparation": 50.0, "fit": 90.0, "test": 60.0, "total": 200.0}
    assert RunFacts(wall_times=clock.times()).times()["total"] == "3 min 20 s"


def test_printed_table_shows_auroc_with_intervals_and_notes():
    text = printed(evaluation())
    assert "\x1b" not in text
    cells = [line.split() for line in text.splitlines()]
    assert ["masks", "0.750", "0.938"] in cells
    assert ["0.700-0.800", "0.900-0.950"] in cells
    assert ["gradient", "0.500", "n/a"] in cells
    assert "note: FPR 1 % not supported: 64 validation images, 1000 needed" in text
    assert "fpr" not in text


def test_of_many_attacks_those_are_printed_that_are_hardest_to_find_and_what_is_new():
    hard = {f"pgd_linf_{number}": 0.9 - number / 100 for number in range(14)}
    attacks = {**hard, "mean_seen": 0.1, "mean_unseen": 0.9, "worst_unseen": 0.9}
    rows = ("masks", "masks_activations")
    scores = {
        f"test/{row}/auroc/{name}": Score(value, 0.25, 0.75, 9)
        for name, value in attacks.items()
        for row in rows
    }
    text = printed(Evaluation("test", scores))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("masks_activations") == 1
    assert text.count("0.250-0.750") == 2 * 4
    head = " ".join(text.split("view")[0].split("───")[0].split())
    assert "PGD L∞ 12 PGD L∞ 13" in head
    assert "mean unseen" in head
    assert "13 more columns are in the report: PGD L∞ 0, PGD L∞ 1," in " ".join(text.split())


def test_colours_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in printed(evaluation())


def test_a_task_without_auroc_has_all_its_scores_printed():
    text = printed(Evaluation("test", {"test/classifier/accuracy/clean": Score(0.96, 0.94, 0.98, 500)}))
    assert "test: Accuracy" in text
    assert ["classifier", "0.960"] in [line.split() for line in text.splitlines()]


def test_a_score_that_rounds_to_zero_has_no_sign():
    scores = {"val/a/m/x": Score(-0.0004, -0.0001, 0.2, 9), "val/b/m/x": Score(-0.0, -0.1, -0.0, 9)}
    plain = Evaluation("val", scores)
    for evaluation_ in (plain, dataclasses.replace(plain, headline={"m": "m/x"})):
        text = printed(evaluation_)
        assert re.search(r"(?<!\d)-0\.000", text) is None
        assert text.count("0.000") >= 2
    assert scores["val/a/m/x"].bracketed() == " [0.000, 0.200]"


def test_a_report_says_under_which_names_loggers_have_the_scores(tmp_path):
    name = "val/Mine/m[5]/auc"
    found = Evaluation(
        "val",
        {name: Score(0.5, 0.25, 0.75, 9), "val/Mine/m[5]/ties": Score(0.1, 0, 1, 9)},
        headline={"m[5] ↑": "m[5]/auc"},
        logged={name: "val/mine/m"},
    )
    write_report(tmp_path, found, facts=RunFacts())
    assert json.loads((tmp_path / "report.json").read_text())["logged"] == {"val/mine/m": name}
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[lines.index("| Mine | 0.500 |") + 1] == "| *logged as* `val/.../` | `m` |"


def test_nothing_to_print():
    assert printed(Evaluation("test", {})) == ""


def test_result_table_takes_names_apart():
    name = "test/masks/auroc/cw/l2"
    one = Evaluation("test", {name: Score(0.5, 0.25, 0.75, 9, 1)}, logged={name: "test/masks/auroc"})
    table = result_table(one)
    assert table.columns == ("row", "metric", "group", "value", "low", "high", "n", "undefined", "logged_as")
    assert table.rows == (("masks", "auroc", "cw/l2", 0.5, 0.25, 0.75, 9, 1, "test/masks/auroc"),)
    name = "test/gradient/attacked_sensitivity[top_k,8/255]/shift"
    assert result_table(Evaluation("test", {name: Score(0.5, 0.25, 0.75, 9, 1)})).rows[0][:3] == (
        "gradient", "attacked_sensitivity[top_k,8/255]", "shift",
    )  # fmt: skip


def test_samples(tmp_path):
    write_samples(tmp_path / "samples.csv", {"image_id": ["a", "b,c"], "masks": [0.1, 2.0]})
    assert (tmp_path / "samples.csv").read_text() == 'image_id,masks\na,0.1\n"b,c",2.0\n'


def test_samples_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"one length, found \{'a': 1, 'b': 2\}"):
        write_samples(tmp_path / "samples.csv", {"a": [1], "b": [1, 2]})
    assert list(tmp_path.iterdir()) == []


def test_versions_name_what_is_installed():
    versions = installed_versions()
    assert versions["torch"].split("+")[0].count(".") == 2
    assert set(versions) >= {
        "python",
        "verisal",
        "torch",
        "torchvision",
        "lightning",
        "torchmetrics",
        "numpy",
    }
