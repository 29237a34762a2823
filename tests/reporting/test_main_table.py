import io
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.evaluations import evaluation, panel
from verisal.reporting.figures import panel_pixels, saliency_panel_pixels
from verisal.reporting.printed import print_results
from verisal.reporting.publication import main_table, merge_evaluations
from verisal.results import Evaluation, SaliencyPanel, Score


def scored(**values):
    return {f"val/{name.replace('__', '/')}": Score(value, 0.0, 1.0, 5) for name, value in values.items()}


ONE = Evaluation(
    "val",
    scored(a__m__auc=0.25, a__m__ties=0.5, b__m__auc=0.75),
    counts={"images": 5},
    samples={"image_id": ["x", "y"], "a": [1.0, 2.0]},
    notes=("first",),
    headline={"m ↓": "m/auc"},
)
OTHER = Evaluation(
    "val",
    scored(b__m__auc=0.1, b__n__hit=1.0),
    counts={"images": 3, "more": 1},
    samples={"image_id": ["z"], "b": [3.0]},
    notes=("first", "second"),
    headline={"n ↑": "n/hit"},
)


def test_main_table_has_the_scores_of_the_headline_and_gaps_where_there_are_none():
    table = main_table(merge_evaluations([ONE, OTHER]))
    assert table.columns == ("", "m ↓", "n ↑")
    assert [row[0] for row in table.rows] == ["a", "b"]
    assert table.rows[0][1] == 0.25
    assert math.isnan(table.rows[0][2])
    assert table.rows[1][1:] == (0.75, 1.0)


def test_no_headline_or_no_row_is_no_table():
    assert main_table(evaluation()) is None
    assert main_table(Evaluation("val", {}, headline={"m": "m/auc"})) is None


def test_merging_keeps_order_first_values_and_both_tables_of_samples():
    merged = merge_evaluations([ONE, OTHER])
    assert merged.counts == {"images": 5, "more": 1}
    assert merged.notes == ("first", "second")
    assert list(merged.scores) == ["val/a/m/auc", "val/a/m/ties", "val/b/m/auc", "val/b/n/hit"]
    assert merged.samples == {"image_id": ["x", "y", "z"], "a": [1.0, 2.0, ""], "b": ["", "", 3.0]}
    assert merge_evaluations([]) is None
    assert merge_evaluations([ONE]) is ONE


def printed(found):
    out = io.StringIO()
    print_results(found, file=out)
    return out.getvalue()


def test_printed_main_table_has_the_first_columns_that_fit_and_names_the_others():
    wide = {f"metric_{index}[dataset_mean] ↓": f"m{index}/auc" for index in range(12)}
    scores = {f"val/method/{name}": Score(0.125, 0, 1, 5) for name in list(wide.values())[:-1]}
    text = printed(Evaluation("val", scores, headline=wide))
    assert max(map(len, text.splitlines())) <= 80
    shown = text.count("0.125")
    assert 4 <= shown < 11
    told = " ".join(text.split())
    assert f"{12 - shown} more columns are in the report: metric {shown} (dataset mean) ↓, metric" in told
    # Said once, for they are as many in every row.
    assert text.count("(n = 5)") == shown
    assert "(5)" not in text


def test_printed_cells_have_their_counts_where_these_differ():
    scores = {"val/a/m/auc": Score(0.5, 0, 1, 5), "val/b/m/auc": Score(0.25, 0, 1, 6)}
    text = printed(Evaluation("val", scores, headline={"m ↓": "m/auc"}))
    assert "0.500 (5)" in text
    assert "0.250 (6)" in text


def test_a_long_word_is_never_split():
    name = "x" * 70
    scores = {f"val/{row}/{part}/auc": Score(0.5, 0, 1, 5) for row in ("a", "r" * 60) for part in ("m", "n")}
    text = printed(Evaluation("val", scores, headline={"m": "m/auc", name: "n/auc"}))
    assert max(map(len, text.splitlines())) <= 80
    assert f"1 more column is in the report: {name}" in " ".join(text.split())


LONG = (
    "noise_l2_hop_skip_jump",
    "adversarial_patch_targeted_5_percent",
    "adversarial_patch_targeted_10_percent",
    "SparseRandomSearchOfManyPixelsAtOnce",
    "x" * 60,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_at(width, found, monkeypatch):
    """Lines of the printed tables on a terminal, without its codes."""
    for name, value in {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    out = Terminal()
    print_results(found, file=out)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("columns", [("accuracy",), tuple(f"metric_{place}" for place in range(9))])
def test_names_of_attacks_in_the_first_column_are_never_cut(width, columns, monkeypatch):
    scores = {f"val/{row}/robust/{name}": Score(0.5, 0, 1, 5) for row in LONG for name in columns}
    found = Evaluation("val", scores, headline={name: f"robust/{name}" for name in columns})
    lines = shown_at(width, found, monkeypatch)
    assert max(map(len, lines)) <= width
    below = lines[next(place for place, line in enumerate(lines) if "───" in line) + 1 :]
    table = itertools.takewhile(str.strip, below)
    # Without the numbers behind them.
    names = [line.replace("0.500", "").strip() for line in table]
    assert "".join(names) == "".join(LONG)
    # Where all have room, each has one line.
    assert len(columns) > 1 or names == list(LONG)


@pytest.mark.parametrize("width", [80, 100])
def test_names_of_attacks_above_columns_are_never_cut(width, monkeypatch):
    scores = {f"test/masks/auroc/{name}": Score(0.5, 0.4, 0.6, 40) for name in LONG[:4]}
    text = " ".join(" ".join(shown_at(width, Evaluation("test", scores), monkeypatch)).split())
    for word in ("hop", "skip", "jump", "targeted", "percent", "SparseRandomSearchOfManyPixelsAtOnce"):
        assert word in text
    assert "…" not in text


def test_names_in_the_printed_table_are_no_markup_and_no_control_characters():
    evil = "a\x1b[31m[red]"
    scores = {f"val/{evil}/{evil}/auc": Score(0.5, 0, 1, 5)}
    found = Evaluation("val", scores, headline={evil: f"{evil}/auc"}, notes=(evil,), summary=(evil,))
    text = printed(found)
    assert "\x1b" not in text
    assert text.count(r"a\x1b[31m[red]") >= 3


def test_notes_are_few_and_what_was_found_comes_last():
    notes = tuple(f"note {number}" for number in range(9))
    summary = ("masks finds 94 % of the attacked images.", "gradient finds 12 %.", "A third.", "More.")
    lines = printed(Evaluation("val", {}, notes=notes, summary=summary)).splitlines()
    assert lines[4:] == [
        "note: note 4",
        "and 4 more notes in the report",
        "masks finds 94 % of the attacked images.",
        "gradient finds 12 %.",
        "A third.",
    ]


@pytest.mark.parametrize("values", [torch.zeros(8, 6), torch.full((8, 6), math.nan), torch.rand(8, 6)])
def test_panel_of_any_map_is_drawn_and_seven_share_a_line(values):
    maps = {f"method {index}": values for index in range(7)}
    few = saliency_panel_pixels(SaliencyPanel("i", torch.rand(3, 8, 6), {"one": values}, "class 1"))
    many = saliency_panel_pixels(SaliencyPanel("i", torch.rand(3, 8, 6), maps, "class 1"))
    assert few.dtype.name == "uint8"
    assert few.shape[2] == 3
    assert many.shape[0] > few.shape[0] + 150  # a second line
    assert many.shape[1] > 5 * (few.shape[1] - 30) / 2


def test_maps_lie_over_the_image_and_alone_below_where_there_is_room():
    image, maps = torch.full((3, 8, 8), 0.5), {"one": torch.full((8, 8), 2.0)}
    yellow = (np.array([253, 231, 36]), 3)

    def drawn(count, opacity):
        shown = {f"{name} {number}": one for number in range(count) for name, one in maps.items()}
        return saliency_panel_pixels(SaliencyPanel("i", image, shown, "a", opacity=opacity)).astype(int)

    def bright(pixels):
        return int((np.abs(pixels - yellow[0]).max(axis=-1) <= yellow[1]).sum())

    alone, both = drawn(2, 0.0), drawn(2, 0.5)
    assert both.shape[0] > alone.shape[0] + 140
    assert bright(alone) == bright(both) > 2 * 140**2
    assert bright(drawn(8, 0.5)) == 0
    assert bright(drawn(8, 0.0)) > 8 * 140**2


def test_the_fused_map_over_the_image_is_a_column_of_its_own_and_the_difference_is_red_and_blue():
    shown = replace(panel(), clean_fused=torch.zeros(8, 8), attacked_fused=torch.zeros(8, 8))
    shown = replace(shown, clean=torch.full((3, 8, 8), 0.5), attacked=torch.full((3, 8, 8), 0.5))
    shown.clean_fused[:4], shown.attacked_fused[4:] = 1.0, 1.0
    over, without = (panel_pixels(replace(shown, opacity=opacity)).astype(int) for opacity in (1.0, 0.0))
    assert over.shape[1] > without.shape[1] + 190
    column = over[:, without.shape[1] - 10 :]
    red = column[..., 0] - column[..., 2] > 60
    blue = column[..., 2] - column[..., 0] > 60
    upper = red.any(axis=1).nonzero()[0]
    assert blue.sum() > 5000
    assert red.sum() > 5000
    # The attack has moved the map down.
    assert blue.nonzero()[0].max() < upper.max()


def test_names_of_images_are_no_formulas():
    name = r"$\frac$.png"
    assert saliency_panel_pixels(
        SaliencyPanel(name, torch.rand(3, 8, 6), {"one": torch.rand(8, 6)}, "a")
    ).size
    assert panel_pixels(replace(panel(), image_id=name)).size
