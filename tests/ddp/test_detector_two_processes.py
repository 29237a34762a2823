"""Two processes report what one does, down to the image; a subprocess, since each process is a command."""

import csv
import json
import os
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
