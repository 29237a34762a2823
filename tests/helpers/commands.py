"""Commands in processes of their own, and what their runs report."""

import json
import os
import subprocess
import sys

import pytest

from verisal.cli._data import check
from verisal.cli._parsers import data_parser
from verisal.cli._threads import Threads


def run_module(words, folder):
    """``python -m`` by the interpreter that runs the tests, each process on one thread."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def check_data_set(words):
    """``verisal data`` without what the command line does around it: errors are raised."""
    return check(data_parser().parse_args(words), Threads(own_process=False))


def report_of(run):
    return json.loads((run / "report.json").read_text())["metrics"]


def assert_same_report(one, both):
    """The same scores, counts exactly and values to 1e-6."""
    assert both.keys() == one.keys()
    for name, score in one.items():
        assert (both[name]["n"], both[name]["undefined"]) == (score["n"], score["undefined"]), name
        for end in ("value", "low", "high"):
            assert both[name][end] == pytest.approx(score[end], abs=1e-6), name
