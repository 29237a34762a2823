"""Counts and times of steps, which nobody shows."""

import pytest

from verisal.progress import Step, Work
from verisal.progress import steps as steps_module


@pytest.fixture
def now(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(steps_module.time, "monotonic", lambda: time[0])
    return time


def test_the_time_left_is_that_of_parts_like_those_that_are_done(now):
    attack = {"FGSM": 10, "PGD": 10}
    work = Work([Step("attack fit", attack, "attack"), Step("attack test", attack, "attack")], count=2)
    with work.step("attack fit") as running:
        assert work.step_seconds_left is None
        running(0, part="FGSM")
        now[0] = 10.0
        running(10, part="FGSM")
        # Nothing is known of PGD but that it is an attack, too.
        assert work.step_seconds_left == 10.0
        assert work.seconds_left == 30.0
        now[0] = 60.0
        running(5, part="PGD")
        assert work.step_seconds_left == 50.0
        assert work.seconds_left == 50.0 + 10.0 + 100.0
        assert (running.done, running.total) == (15, 20)
    assert work.seconds_left == 110.0


def test_the_time_left_counts_down_and_nothing_is_promised_that_has_not_come_true(now):
    work = Work([Step("attacking", {"FGSM": 2, "C&W": 2})], count=1)
    with work.step("attacking") as running:
        now[0] = 4.0
        running(2, part="FGSM")
        running(0, part="C&W")
        assert work.step_seconds_left == 4.0
        now[0] = 7.0
        assert work.step_seconds_left == 1.0
        now[0] = 9.0
        assert work.step_seconds_left is None
        assert work.seconds_left is None


def test_kinds_with_a_name_are_as_fast_in_other_work(now):
    step = Step("measuring 3 fit images", {"clean": 3}, "measuring masks (this test)")
    with Work([step], count=1).step(step.doing) as running:
        now[0] = 6.0
        running(3, part="clean")
    other = Step("measuring 5 test images", {"clean": 5, "PGD": 5}, "measuring masks (this test)")
    assert Work([other], count=1)._seconds(other.kind, other.parts) == 20.0
    assert Work([other], count=1)._seconds("another kind", other.parts) is None


def test_steps_are_numbered_in_words():
    work = Work([Step("rendering 5 images"), Step("attacking 5 images", {"PGD 2/255": 5})], count=2)
    with work.step("rendering 5 images") as first:
        assert first.words() == "1 of 2  rendering 5 images"
    with work.step("attacking 5 images") as second:
        second(0, part="PGD 2/255")
        assert second.words() == "2 of 2  attacking 5 images: PGD 2/255"
        assert second.words(short=True) == "2 of 2  attacking 5 images"
    with work.step("something else") as third:
        assert third.words() == "something else"
    epochs = Work([Step("training")] * 2, unit="epoch", first=3, count=4)
    with epochs.step("training") as epoch:
        assert epoch.words() == "epoch 3 of 4  training"


def test_a_step_that_is_left_out_keeps_the_numbers_of_the_others():
    work = Work([Step("a"), Step("b"), Step("c")], count=3)
    with work.step("c") as running:
        assert running.words() == "3 of 3  c"


def test_parts_can_turn_out_smaller_than_they_were_planned(now):
    work = Work([Step("measuring", {"clean": 4, "PGD": 100})], count=1)
    with work.step("measuring") as running:
        running(4, part="clean")
        running.remain("PGD", 6)
        assert running.total == 10
        running(6, part="PGD")
        assert (running.done, running.total) == (10, 10)


def test_names_of_parts_stay_on_their_line():
    with Work([Step("reading a\x1b[31m.png\n")], count=1).step("reading a\x1b[31m.png\n") as running:
        assert running.words() == r"reading a\x1b[31m.png\x0a"
