import time

import torch

from helpers.explaining_toys import Brightness, Samples, Task
from verisal.callbacks.explaining.epoch import Epoch
from verisal.functional.shared_work import shared
from verisal.types import Batch


def epoch(network=None, *, quiet=True):
    Brightness.seen.clear()
    return Epoch("val", network or Task().classifier.eval(), device=torch.device("cpu"), quiet=quiet)


def batch():
    samples = Samples(4)
    return Batch.collate([samples[index] for index in range(4)])


def test_maps_are_made_once_per_image_query_and_method_of_the_open_batch():
    session, one = epoch(), batch()
    query = torch.tensor([0, 1, 2, 3])
    session.open(one)
    first, _ = session.explain(Brightness(), one, query)
    assert len(Brightness.seen) == 4
    # Two known maps in another order, and one of another query.
    found, seconds = session.explain(Brightness(), one.rows([3, 1, 0]), torch.tensor([3, 1, 2]))
    assert Brightness.seen[4:] == [(0.4, 2)]
    assert len(seconds) == 3
    torch.testing.assert_close(found.saliency[:2], first.saliency[[3, 1]])
    torch.testing.assert_close(found.attribution[:2], first.attribution[[3, 1]])
    assert found.n_forward == 1.0
    session.explain(Brightness(grey=0.5), one, query)
    assert len(Brightness.seen) == 9
    other = batch()  # equal, but another batch
    session.open(other)
    session.explain(Brightness(), other, query)
    assert len(Brightness.seen) == 13


def test_lines_come_once_a_minute_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    session = epoch(quiet=False)
    session.expect(6)
    session.expect(4)
    for _ in range(4):
        now[0] += 40.0
        session.step("gradient")
    session.over()
    assert capsys.readouterr().err.splitlines() == [
        "explaining: gradient, 2/10, 5:20 left",
        "explaining: gradient, 4/10, 4:00 left",
        "explaining (2:40)",
    ]
    session = epoch(quiet=True)
    session.expect(1)
    now[0] += 100.0
    session.step("gradient")
    session.over()
    session.over()
    assert capsys.readouterr().err == ""


def test_work_is_shared_within_a_batch_and_its_seconds_are_those_of_a_map_alone(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def found():
        clock[0] += 8.0
        return torch.zeros(1)

    class Shared(Brightness):
        def explain(self, classifier, images, query_class):
            shared(lambda: "decoys", found)
            clock[0] += 4.0
            return super().explain(classifier, images, query_class)

    session, one = epoch(), batch()
    session.open(one)
    query = torch.zeros(4, dtype=torch.int64)
    with session.scope():
        for grey in (0.0, 0.5):
            _, seconds = session.explain(Shared(grey=grey), one, query)
            assert seconds.tolist() == [3.0] * 4
    assert clock[0] == 8.0 + 2 * 4.0
    session.open(batch())
    assert session.work.bytes == 0


def test_seconds_of_a_map_whose_passes_are_shared_are_those_of_one_alone(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Together(Brightness):
        shares_passes = True

        def explain(self, classifier, images, query_class):
            clock[0] += 6.0
            return super().explain(classifier, images, query_class)

    session, one = epoch(), batch().rows([0, 1])
    session.open(one)
    _, seconds = session.explain(Together(), one.rows([0, 1, 0, 1]), torch.tensor([0, 0, 1, 2]))
    assert seconds.tolist() == [3.0] * 4
