"""What becomes a panel at W&B, whatever a run logs: few charts, the important ones, the same all the time."""

import math

import pytest

from verisal.reporting import Picture, Publication
from verisal.reporting.wandb_layout import FIRST, MOST_PANELS, Layout, five_of, seen

MAIN = {"val/masks/auroc/mean_seen": "max", "val/loss": "min"}


def many(rows=12, columns=10):
    """What a detector with many rows logs after an epoch."""
    names = [f"val/row_{row}/auroc/attack_{column}" for row in range(rows) for column in range(columns)]
    names += [f"val/{row}/auroc/mean_seen" for row in ("row_3", "masks", "logits")]
    return dict.fromkeys(["val/explaining/seconds", *names, "val/loss", "val/accuracy"], 0.5)


def test_the_figures_that_matter_stand_in_a_section_of_their_own_and_sort_before_all_others():
    charted, _ = Layout(MAIN).divided(many())
    first = [name for name in charted if name.startswith(f"{FIRST}/")]
    assert first == [f"{FIRST}/val_masks_auroc_mean_seen", f"{FIRST}/val_loss"]
    others = [*charted.keys() - set(first), "curves/a", "epoch", "panels/a", "tables/a", "train/loss"]
    assert max(first) < min(others)


def test_of_hundreds_of_values_a_handful_are_charts_and_all_others_are_in_the_summary():
    logged = many()
    charted, rest = Layout(MAIN).divided(logged)
    own = {name for name in charted if not name.startswith(FIRST)}
    assert own | rest.keys() == logged.keys()
    assert not own & rest.keys()
    # What one compares the main figure with comes before what was logged first.
    assert {"val/row_3/auroc/mean_seen", "val/masks/auroc/mean_seen", "val/logits/auroc/mean_seen"} <= own
    assert {"val/loss", "val/accuracy"} <= own
    assert len([name for name in own if name.count("/") > 1]) == 9


def test_a_small_run_loses_no_chart():
    logged = dict.fromkeys(
        ["val/a/deletion", "val/random/deletion", "val/loss", "val/explaining/seconds"], 1.0
    )
    charted, rest = Layout({}).divided(logged)
    assert (charted, rest) == (logged, {})


def test_a_chart_stays_one_whatever_comes_later():
    layout = Layout(MAIN)
    charted, _ = layout.divided(many())
    layout.divided({f"train/{number}": 0.0 for number in range(40)})
    assert layout.divided(many())[0] == charted


def test_what_is_asked_for_is_a_chart_beside_the_others():
    logged = many()
    wanted, _ = Layout(MAIN, ["val/row_11/auroc/attack_9", "val/row_7/*"]).divided(logged)
    usual, _ = Layout(MAIN).divided(logged)
    more = {"val/row_11/auroc/attack_9"} | {name for name in logged if name.startswith("val/row_7/")}
    assert wanted.keys() == usual.keys() | more


def test_a_run_has_at_most_as_many_panels_as_are_promised():
    layout, names = Layout({f"val/m{number}/auroc": "max" for number in range(5)}), set()
    for epoch in range(3):
        charted, _ = layout.divided(many() | {f"val/m{number}/auroc": 0.5 for number in range(epoch, 9)})
        names |= charted.keys()
        names |= layout.divided({f"train/part_{number}": 1.0 for number in range(20)})[0].keys()
        for tables in ({}, {f"test_{number}": None for number in range(8)} | {"test_main": None}):
            publication = Publication(
                {f"c{number}": () for number in range(9)},
                {f"p{number}_{epoch}": (Picture(None, ""),) for number in range(9)},
                tables,
            )
            shown = layout.shown(publication)
            when = "late" if tables else "early"
            names |= {
                f"{when}/{name}" for part in (shown.curves, shown.pictures, shown.tables) for name in part
            }
            assert not tables or "test_main" in shown.tables
    assert len(names) == MOST_PANELS == 35


def test_figures_of_task_and_callbacks_take_turns():
    theirs = [{f"val/{name}/{number}": "max" for number in range(3)} for name in ("a", "b")]
    assert list(five_of(MAIN, theirs)) == [*MAIN, "val/a/0", "val/b/0", "val/a/1"]
    assert five_of({}, []) == {}


@pytest.mark.parametrize("names", [["a\x1b[2J/b"], ["a\nb"]])
def test_names_lose_what_moves_a_cursor(names):
    layout = Layout(dict.fromkeys(names, "last"))
    charted, rest = layout.divided(dict.fromkeys(names, 1.0))
    assert all(name.isprintable() for name in (*charted, *rest, *layout.best))


def test_settings_lose_it_in_keys_and_values_at_any_depth():
    found = seen({"a\x1b": ["b\x07", {"c": "d\u202e"}], "notes": "two\nlines", "number": math.pi})
    assert found == {
        "a\\x1b": ["b\\x07", {"c": "d\\u202e"}], "notes": "two\nlines", "number": math.pi,
    }  # fmt: skip
