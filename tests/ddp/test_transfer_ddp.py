"""Two processes share the attacks, measurements and cells of the transfer study, and report what one does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from tiny_transfer import CELLS, config

from verisal.cli import main


def report_of(run):
    return json.loads((run / "report.json").read_text())["metrics"]


def samples_of(run):
    with (run / "samples.csv").open() as file:
        return list(csv.DictReader(file))


def in_two_processes(args, folder):
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "verisal", *args, "--trainer.devices=2", "--trainer.strategy=ddp"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_two_processes_from_nothing_report_what_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--config", config(tmp_path, store="one"), "--run_dir", "single"]) == 0
    done = in_two_processes(
        ["test", "--config", config(tmp_path, store="two"), "--run_dir", "both"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    one, both = report_of(tmp_path / "single"), report_of(tmp_path / "both")
    assert both.keys() == one.keys()
    for name, score in one.items():
        assert (both[name]["n"], both[name]["undefined"]) == (score["n"], score["undefined"]), name
        for end in ("value", "low", "high"):
            assert both[name][end] == pytest.approx(score[end], abs=1e-6), name
    first, second = samples_of(tmp_path / "single"), samples_of(tmp_path / "both")
    assert [(row["image_id"], row["group"]) for row in second] == [
        (row["image_id"], row["group"]) for row in first
    ]
    cells = [store.name for store in (tmp_path / "two").iterdir() if store.name.startswith("scores-")]
    assert len(cells) == CELLS
    assert sorted(cells) == sorted(
        store.name for store in (tmp_path / "one").iterdir() if store.name.startswith("scores-")
    )
