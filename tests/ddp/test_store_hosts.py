"""Several processes at one store behind a URL, on file systems that know no locks; some die at it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import fsspec
import pytest

from helpers.store_workers import COUNT, KEY, alone, computed, contents, features, fill
from verisal.store import FeatureStore
from verisal.store.files import StoreFiles

CONTEXT = multiprocessing.get_context("forkserver")


class BareFileSystem(fsspec.AbstractFileSystem):
    """The least that a store needs: whole files by name; no rename, and no refusal to create one twice."""

    protocol = "bare"

    def cat_file(self, path, start=None, end=None, **_):
        return Path(path).read_bytes()

    def pipe_file(self, path, value, mode="overwrite", **_):
        # What is not sent to the end is nowhere to be seen.
        piece = Path(path).parent.parent / f"{os.getpid()}.{time.monotonic_ns()}"
        piece.write_bytes(value)
        piece.replace(path)

    def ls(self, path, detail=True, **_):
        assert not detail
        return [str(file) for file in Path(path).iterdir()]

    def rm_file(self, path):
        Path(path).unlink()

    def makedirs(self, path, exist_ok=False):
        Path(path).mkdir(parents=True, exist_ok=exist_ok)


@pytest.fixture(params=["file", "bare"])
def url(request, tmp_path, monkeypatch):
    monkeypatch.setattr(StoreFiles, "pause", StoreFiles.pause)
    prepare()
    return f"{request.param}://{tmp_path}/shared"


def prepare():
    """In each process: the bare file system, and short pauses."""
    fsspec.register_implementation("bare", BareFileSystem, clobber=True)
    StoreFiles.pause = 0.05


def fill_behind_url(url, log, **settings):
    prepare()
    fill(url, log, **settings)


def start(url, log, **settings):
    process = CONTEXT.Process(target=fill_behind_url, args=(url, log), kwargs=settings)
    process.start()
    return process


def shared(url):
    return Path(FeatureStore(url, key=KEY).location.partition("://")[2])


def test_two_processes_share_the_work_and_give_the_store_of_one(url, tmp_path):
    log = tmp_path / "log"
    settings = {"world_size": 2, "pause": 0.05, "together": CONTEXT.Barrier(2)}
    processes = [start(url, log, rank=rank, **settings) for rank in range(2)]
    for process in processes:
        process.join(250)
        assert process.exitcode == 0
    firsts = [first for _, first in computed(log)]
    # Nothing here creates a file only once, so that a race may cost double work, never a wrong file.
    assert set(firsts) == set(range(0, COUNT, 2))
    assert len(firsts) < 2 * len(set(firsts))
    assert {rank for rank, _ in computed(log)} == {0, 1}
    assert contents(shared(url)) == alone(tmp_path / "one")


@pytest.mark.fault
def test_the_share_of_a_killed_process_is_picked_up(url, tmp_path):
    log = tmp_path / "log"
    dying = start(url, log, rank=1, world_size=2, pause=0.3, die_at=2)
    while not log.exists() and dying.is_alive():  # it is at its first shard
        time.sleep(0.01)
    staying = start(url, log, rank=0, world_size=2, pause=0.0)
    dying.join(250)
    staying.join(250)
    assert dying.exitcode == -signal.SIGKILL
    assert staying.exitcode == 0
    assert FeatureStore(url, key=KEY).verify() == ()
    assert contents(shared(url)) == alone(tmp_path / "one")
    assert [rank for rank, first in computed(log) if first == 2] == [1, 0]


@pytest.mark.fault
def test_a_kill_at_any_moment_leaves_a_store_that_can_be_completed(url, tmp_path):
    expected, log = alone(tmp_path / "one"), tmp_path / "log"
    for attempt in range(3):
        here = f"{url}{attempt}"
        process = start(here, log, rank=0, world_size=1, pause=0.0)
        while not log.exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(0.004 * attempt)
        process.kill()
        process.join(250)
        FeatureStore(here, key=KEY, shard_size=2).fill(features, COUNT, progress=False)
        assert contents(shared(here)) == expected
        log.unlink(missing_ok=True)
