"""Two processes report what one does, down to the image; a subprocess, since each process is a command."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from tiny_detector import config

from verisal.cli import main

DDP = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def in_processes(args, folder):
    """The command on two processes, each on one thread."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "verisal", *args, *DDP],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def report_of(run):
    return json.loads((run / "report.json").read_text())["metrics"]


def samples_of(run):
    with (run / "samples.csv").open() as file:
        return {(row.pop("image_id"), row.pop("group")): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", config(folder), "--run_dir", "one"]) == 0
    return folder


def test_uneven_shares_give_the_report_of_one_process(home):
    # The rows are odd in number: shares differ in size, and nothing may be counted twice.
    done = in_processes(["test", "--config", "one/config.yaml", "--run_dir", "two"], home)
    assert done.returncode == 0, done.stderr
    one, two = samples_of(home / "one"), samples_of(home / "two")
    assert len(one) % 2 == 1
    assert two.keys() == one.keys()
    for key, row in one.items():
        for name, value in row.items():
            assert float(two[key][name]) == pytest.approx(float(value), abs=1e-5)
    first, second = report_of(home / "one"), report_of(home / "two")
    assert second.keys() == first.keys()
    for name, score in first.items():
        assert (second[name]["n"], second[name]["undefined"]) == (score["n"], score["undefined"])
        for end in ("value", "low", "high"):
            assert second[name][end] == pytest.approx(score[end], abs=1e-6), name


def test_two_processes_fit_from_an_empty_store_together(home):
    done = in_processes(["fit", "--config", config(home, store="shared"), "--run_dir", "together"], home)
    assert done.returncode == 0, done.stderr
    assert report_of(home / "together").keys() == report_of(home / "one").keys()
    assert samples_of(home / "together").keys() == samples_of(home / "one").keys()
    # Attacks and masks are those of one process.
    for store in (home / "store").iterdir():
        for shard in store.glob("*.json"):
            assert (home / "shared" / store.name / shard.name).read_bytes() == shard.read_bytes()


def test_processes_that_were_started_by_hand_share_one_run(home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    args = [sys.executable, "-m", "verisal", "test", "--config", "one/config.yaml", *DDP]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(  # noqa: S603
            args,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=280)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    # The first process made a folder, and the other one works in it.
    (run,) = (home / "runs" / "detector").iterdir()
    one, two = report_of(home / "one"), report_of(run)
    assert two.keys() == one.keys()
    for name, score in one.items():
        assert (two[name]["n"], two[name]["undefined"]) == (score["n"], score["undefined"])
        for end in ("value", "low", "high"):
            assert two[name][end] == pytest.approx(score[end], abs=1e-6), name
