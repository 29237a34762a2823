"""Several processes at one store, and processes that die at it."""

import multiprocessing
import signal
import time

import pytest

from helpers.store_workers import COUNT, KEY, alone, computed, contents, features, fill
from verisal.store import FeatureStore

CONTEXT = multiprocessing.get_context("forkserver")


def start(root, log, **settings):
    process = CONTEXT.Process(target=fill, args=(root, log), kwargs=settings)
    process.start()
    return process


def test_two_processes_share_the_work_and_give_the_same_store(tmp_path):
    log = tmp_path / "log"
    settings = {"world_size": 2, "pause": 0.05, "together": CONTEXT.Barrier(2)}
    processes = [start(tmp_path / "two", log, rank=rank, **settings) for rank in range(2)]
    for process in processes:
        process.join(250)
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
    process.join(250)
    assert process.exitcode == -signal.SIGKILL
    store = FeatureStore(tmp_path / "killed", key=KEY)
    assert sorted(store.manifest()) == [0, 1, 2, 3]
    log.unlink()
    process = start(tmp_path / "killed", log, rank=0, world_size=1, pause=0.0)
    process.join(250)
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
        process.join(250)
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
    dying.join(250)
    staying.join(250)
    assert dying.exitcode == -signal.SIGKILL
    assert staying.exitcode == 0
    store = FeatureStore(tmp_path / "two", key=KEY)
    assert store.verify() == ()
    assert contents(store.path) == alone(tmp_path / "one")
    assert [rank for rank, first in computed(log) if first == 2] == [1, 0]
