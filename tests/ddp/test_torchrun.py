"""A study under torchrun, on uneven shares and with a store behind a URL, reports what one process does."""

import csv

import pytest

from helpers.commands import assert_same_report, report_of, run_module
from helpers.forked import free_port
from helpers.tiny_transfer import config
from verisal.cli import main

pytestmark = pytest.mark.slow


def torchrun(args, folder):
    """``torchrun --nproc-per-node=2``, by the interpreter that runs the tests."""
    place = ["--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    return run_module(["torch.distributed.run", *place, "-m", "verisal", *args], folder)


def rows_of(run):
    with (run / "samples.csv").open() as file:
        return [(row["image_id"], row["group"]) for row in csv.DictReader(file)]


def test_torchrun_reports_what_one_process_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # 33 test images, 235 for thresholds and three cells: shares of two processes differ everywhere.
    uneven = [
        "--data.init_args.val_count=235",
        "--data.init_args.fits={a: [pgd]}",
        "--model.init_args.default=a",
        "--model.init_args.seeds=1",
    ]
    common = ["test", "--config", config(tmp_path), *uneven]
    assert main([*common, "--run_dir", "single"]) == 0
    shared = f"--data.init_args.store=file://{tmp_path}/shared"
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = torchrun([*common, shared, *ddp, "--run_dir", "both"], tmp_path)
    assert done.returncode == 0, done.stderr
    one, both = report_of(tmp_path / "single"), report_of(tmp_path / "both")
    assert_same_report(one, both)
    assert rows_of(tmp_path / "both") == rows_of(tmp_path / "single")
    # The very bytes, made by two processes without locks.
    names = {store.name for store in (tmp_path / "store").iterdir()}
    assert {store.name for store in (tmp_path / "shared").iterdir()} == names
    assert sum(name.startswith("scores-") for name in names) == 3
    for name in names:
        if not name.startswith("scores-"):
            for shard in (tmp_path / "store" / name).glob("*.json"):
                assert (tmp_path / "shared" / name / shard.name).read_bytes() == shard.read_bytes()
