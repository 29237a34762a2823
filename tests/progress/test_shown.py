"""What is shown of work: bars on a terminal, lines in a log file."""

import re
import textwrap

import pytest

from helpers.terminals import on_a_terminal, screen
from verisal import progress
from verisal.progress import Step, doing, progress_bar, shown, tell, work


@pytest.fixture
def now(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: time[0])
    return time


def test_a_log_file_gets_a_line_for_each_step_and_one_a_minute(capsys, now):
    steps = [
        Step("rendering 9 images", {"": 9}),
        Step("attacking 9 images", {"FGSM 4/255": 90, "PGD 2/255": 90}),
    ]
    with work(steps) as planned:
        with planned.step("rendering 9 images") as running:
            now[0] += 0.5
            running(9)
        with planned.step("attacking 9 images") as running:
            for part in ("FGSM 4/255", "PGD 2/255"):
                for _ in range(90):
                    now[0] += 1.0
                    running(1, part=part)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 2  rendering 9 images (0.5 s)",
        "2 of 2  attacking 9 images: FGSM 4/255, 60/180, 2:00 left, all 2: 2:00 left",
        "2 of 2  attacking 9 images: PGD 2/255, 120/180, 1:00 left, all 2: 1:00 left",
        "2 of 2  attacking 9 images: PGD 2/255, 180/180",
        "2 of 2  attacking 9 images (3:00)",
    ]


def test_a_bar_alone_gets_a_line_if_it_took_a_second(capsys, now):
    with progress_bar("RISE", 4, done=0, shown=True) as advance:
        advance(4, "noise 0.1")
    assert capsys.readouterr().err == ""
    with progress_bar("RISE", 4, done=0, shown=True) as advance:
        now[0] += 2.0
        advance(4, "noise 0.1")
    assert capsys.readouterr().err == "RISE, noise 0.1 (2.0 s)\n"


def test_nothing_is_shown_unasked_or_when_all_is_there(capsys, now):
    for settings in ({"done": 0, "shown": False}, {"done": 9, "shown": True}):
        with progress_bar("maps", 9, **settings) as advance:
            now[0] += 100.0
            advance(9 - settings["done"])
    with doing("much", shown=False):
        now[0] += 100.0
    assert capsys.readouterr().err == ""


def test_work_within_work_is_told_of_alone(capsys, now):
    with work([Step("testing", {"": 2})]) as outer, outer.step("testing") as running:
        with work([Step("explaining", {"": 2})]) as inner, inner.step("explaining") as explaining:
            now[0] += 61.0
            explaining(1)
            running(1)
        now[0] += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "explaining, 1/2, 1:01 left",
        "explaining (1:01)",
        "testing (1:02)",
    ]


def test_work_that_an_error_ends_leaves_nothing_behind(capsys):
    def fail():
        with work([Step("a"), Step("b")]) as planned, planned.step("a"):
            # Opened in one hook of a trainer, and closed in another one that never comes.
            work([Step("c")]).__enter__()
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert not progress.at_work()
    assert capsys.readouterr().err == ""


def test_lines_show_control_characters_as_text(capsys):
    tell("a\x1b[31m.png [red]\nb")
    tell("c\r", error=True)
    assert capsys.readouterr() == ("a\\x1b[31m.png [red]\nb\n", "c\\x0d\n")


SCRIPT = """
import sys, time
from verisal import progress
from verisal.progress import shown
shown._SECONDS_BEFORE_THE_WHOLE = 0.0
steps = [
    progress.Step("rendering 60 images", {"": 60}),
    progress.Step("attacking 60 images", {"PGD 2/255 [red]": 60}),
]
with progress.doing("verisal fit", lines=False):
    time.sleep(0.4)
    with progress.work(steps) as planned:
        for step in steps:
            with planned.step(step.doing) as running:
                for _ in range(4):
                    time.sleep(0.1)
                    running(15, part=next(iter(step.parts)))
                print("a line of " + "somebody else, " * 3)
    progress.tell("the end " + "x" * 100)
"""


@pytest.mark.parametrize("columns", [80, 100])
def test_bars_fit_the_terminal_and_leave_whole_lines(columns):
    written = on_a_terminal(["-c", SCRIPT], columns)
    assert "verisal fit" in written
    assert "1 of 2  rendering 60 images" in written
    assert "2 of 2  attacking 60 images: PGD 2/255 [red]" in written
    assert "all 2 steps" in written
    drawn = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", written)]
    assert max(len(line) for line in drawn if "━" in line) <= columns
    left = [line for line in screen(written) if line]
    assert [re.sub(r"\(.*\)", "(t)", line) for line in left] == [
        "a line of somebody else, somebody else, somebody else,",
        "1 of 2  rendering 60 images (t)",
        "a line of somebody else, somebody else, somebody else,",
        "2 of 2  attacking 60 images (t)",
        "the end " + "x" * 100,
    ]


def test_bars_make_room_for_those_of_others():
    script = """
    from rich.progress import Progress
    from verisal.progress import paused, progress_bar
    with progress_bar("ours", 4, done=0, shown=True):
        with paused(), progress_bar("within", 4, done=0, shown=True) as advance:
            advance(4)
            print("in between")
    with Progress() as bar, progress_bar("beside", 4, done=0, shown=True) as advance:
        advance(4)
        bar.add_task("of others", total=1)
    """
    written = on_a_terminal(["-c", textwrap.dedent(script)], 80)
    assert "ours" in written
    assert "of others" in written
    assert "within" not in written
    assert "beside" not in written


def test_a_forked_process_prints_for_itself():
    script = """
    import multiprocessing
    from verisal import progress
    def child():
        print("from the child", flush=True)
        assert not progress.at_work()
    with progress.doing("much"):
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
    assert process.exitcode == 0
    """
    assert "from the child" in on_a_terminal(["-c", textwrap.dedent(script)], 80)
