from dataclasses import dataclass

import pytest
import torch
from torch import nn

from verisal.attacks.on_maps.attack import MapAttack
from verisal.errors import ConfigError
from verisal.functional.shared_work import SharedWork, shared, work_key


class Counted:
    def __init__(self, size=4):
        self.calls, self.size = 0, size

    def __call__(self):
        self.calls += 1
        return torch.full((self.size,), float(self.calls))


def ask(key, compute):
    return shared(lambda: key, compute)


def test_without_a_scope_everything_is_computed_and_no_key_is_asked_for():
    compute = Counted()

    def key():
        raise AssertionError("no key is needed")

    assert shared(key, compute).tolist() == [1.0] * 4
    assert shared(key, compute).tolist() == [2.0] * 4


def test_the_same_key_is_computed_once_in_a_scope_also_when_it_is_entered_again():
    work, compute = SharedWork(), Counted()
    with work.sharing():
        assert ask("a", compute) is ask("a", compute)
        ask("b", compute)
    with work.sharing():
        assert ask("a", compute)[0] == 1.0
    assert compute.calls == 2
    work.clear()
    assert work.bytes == 0
    with work.sharing():
        assert ask("a", compute)[0] == 3.0


def test_what_cannot_be_said_is_not_shared():
    compute = Counted()
    with SharedWork().sharing():
        ask(None, compute)
        ask(None, compute)
    assert compute.calls == 2


def test_the_scope_around_is_back_after_an_exception():
    outer, inner, compute = SharedWork(), SharedWork(), Counted()
    with outer.sharing():
        with pytest.raises(RuntimeError, match="stop"), inner.sharing():
            raise RuntimeError("stop")
        ask("a", compute)
    assert (outer.bytes, inner.bytes) == (16, 0)
    ask("a", compute)
    assert compute.calls == 2


def test_work_that_fails_leaves_nothing():
    work = SharedWork()

    def fail():
        raise RuntimeError("stop")

    with work.sharing():
        with pytest.raises(RuntimeError, match="stop"):
            ask("a", fail)
        assert ask("a", Counted())[0] == 1.0


def test_what_was_used_longest_ago_leaves_when_there_is_no_room():
    work, compute = SharedWork(max_bytes=40), Counted()
    with work.sharing():
        for key in ("a", "b", "a", "c"):
            ask(key, compute)
        assert compute.calls == 3
        assert work.bytes == 32
        ask("a", compute)
        assert compute.calls == 3
        ask("b", compute)
        assert compute.calls == 4


def test_what_is_larger_than_all_room_is_not_kept():
    work, compute = SharedWork(max_bytes=40), Counted(size=11)
    with work.sharing():
        ask("a", compute)
        ask("a", compute)
    assert (compute.calls, work.bytes) == (2, 0)
    with pytest.raises(ConfigError, match="max_bytes must be at least 1, found 0"):
        SharedWork(max_bytes=0)


@dataclass
class Nested:
    one: torch.Tensor
    others: tuple[torch.Tensor, ...]
    named: dict[str, torch.Tensor]
    text: str = "no bytes"


def test_tensors_count_wherever_they_are():
    work = SharedWork()
    with work.sharing():
        ask("a", lambda: Nested(torch.zeros(2), (torch.zeros(3), torch.zeros(1)), {"x": torch.zeros(4)}))
    assert work.bytes == 4 * (2 + 3 + 1 + 4)


def test_seconds_saved_are_those_of_the_work_alone(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    work = SharedWork()

    def inner():
        clock[0] += 3.0
        return torch.zeros(1)

    def outer():
        clock[0] += 1.0
        return ask("inner", inner) + 1

    with work.sharing():
        ask("inner", inner)
        assert work.saved_seconds == 0.0
        ask("outer", outer)
        assert work.saved_seconds == 3.0
        ask("outer", outer)
    assert work.saved_seconds == 3.0 + 4.0
    assert clock[0] == 4.0


def test_a_key_holds_settings_weights_and_contents():
    network, image = nn.Linear(2, 2), torch.zeros(1, 2)
    attack = MapAttack(kind="top_k")
    key = work_key("attack", [attack], network, [image])
    assert key == work_key("attack", [MapAttack(kind="top_k")], network, [image.clone()])
    others = [
        work_key("control", [attack], network, [image]),
        work_key("attack", [MapAttack(kind="top_k", seed=1)], network, [image]),
        work_key("attack", [attack], nn.Linear(2, 2), [image]),
        # A difference that 8 bits do not show.
        work_key("attack", [attack], network, [image + 1e-6]),
        work_key("attack", [attack], network, [image, image]),
        work_key("attack", [attack], network, [image.view(2, 1)]),
    ]
    with torch.no_grad():
        network.weight[0, 0] += 1
    others.append(work_key("attack", [attack], network, [image]))
    assert len({key, *others}) == 8


def test_there_is_no_key_for_settings_that_are_no_plain_data_and_for_any_callable():
    assert work_key("attack", [object()], nn.Linear(2, 2)) is None
    assert work_key("attack", [1], lambda images: images) is None
