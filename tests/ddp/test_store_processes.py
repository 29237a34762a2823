"""Several processes at one store, and processes that die at it."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from verisal.data.store import FeatureStore

KEY = {"classifier": "ab12"}
COUNT = 22
# A fork server imports the packages once for all processes of this file.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["verisal.data.store"])


def features(items):
    number = torch.tensor(list(items), dtype=torch.float32)
    return {"maps": number[:, None] * torch.arange(4.0), "labels": number.long()}


def fill(root, log, *, rank, world_size, pause, die_at=None, together=None):
    torch.set_num_threads(1)
    if together is not None:
        together.wait(60)

    def compute(items):
        with log.open("a") as file:
            file.write(f"{rank} {items[0]}\n")
        time.sleep(pause)
        if die_at is not None and die_at in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return features(items)

    store = FeatureStore(root, key=KEY, shard_size=2)
    store.fill(compute, COUNT, rank=rank, world_size=world_size, progress=False)


def start(root, log, **settings):
    process = CONTEXT.Process(target=fill, args=(root, log), kwargs=settings)
    process.start()
    return process


def contents(folder):
    """All files but hidden ones: a kill can leave a lock file, which harms nobody."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def alone(root):
    store = FeatureStore(root, key=KEY, shard_size=2)
    store.fill(features, COUNT, progress=False)
    return contents(store.path)


def computed(log):
    return [tuple(int(word) for word in line.split()) for line in log.read_text().splitlines()]


def test_two_processes_share_the_work_and_give_the_same_store(tmp_path):
    log = tmp_path / "log"
    settings = {"world_size": 2, "pause": 0.05, "together": CONTEXT.Barrier(2)}
    processes = [start(tmp_path / "two", log, rank=rank, **settings) for rank in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    firsts = [first for _, first in computed(log)]
    assert sorted(firsts) == list(range(0, COUNT, 2))  # every shard once
    assert {rank for rank, _ in computed(log)} == {0, 1}
    store = FeatureStore(tmp_path / "two", key=KEY)
    assert contents(store.path) == alone(tmp_path / "one")


@pytest.mark.fault
def test_a_killed_run_continues_where_it_stopped(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path / "killed", log, rank=0, world_size=1, pause=0.0, die_at=8)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    store = FeatureStore(tmp_path / "killed", key=KEY)
    assert sorted(store.manifest()) == [0, 1, 2, 3]
    log.unlink()
    process = start(tmp_path / "killed", log, rank=0, world_size=1, pause=0.0)
    process.join(60)
    assert process.exitcode == 0
    assert [first for _, first in computed(log)] == list(range(8, COUNT, 2))
    assert contents(store.path) == alone(tmp_path / "one")


@pytest.mark.fault
def test_a_kill_at_any_moment_leaves_a_store_that_can_be_completed(tmp_path):
    expected = alone(tmp_path / "one")
    for attempt in range(4):
        root = tmp_path / f"kill{attempt}"
        process = start(root, tmp_path / "log", rank=0, world_size=1, pause=0.0)
        log = tmp_path / "log"
        while not log.exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(0.004 * attempt)
        process.kill()
        process.join(60)
        store = FeatureStore(root, key=KEY, shard_size=2)
        assert set(store.verify()) == set(range(11 if store.count else 0)) - set(store.manifest())
        store.fill(features, COUNT, progress=False)
        assert contents(store.path) == expected
        log.unlink(missing_ok=True)


@pytest.mark.fault
def test_the_share_of_a_dead_process_is_picked_up(tmp_path):
    log = tmp_path / "log"
    dying = start(tmp_path / "two", log, rank=1, world_size=2, pause=0.3, die_at=2)
    while not log.exists() and dying.is_alive():  # it holds the claim on its first shard
        time.sleep(0.01)
    staying = start(tmp_path / "two", log, rank=0, world_size=2, pause=0.0)
    dying.join(60)
    staying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    assert staying.exitcode == 0
    store = FeatureStore(tmp_path / "two", key=KEY)
    assert store.verify() == ()
    assert contents(store.path) == alone(tmp_path / "one")
    assert [rank for rank, first in computed(log) if first == 2] == [1, 0]
