import csv
import math

import pytest
import torch

from verisal.reporting import CsvSink, Publication, Table
from verisal.results import Curve


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once_and_new_columns_join(tmp_path):
    logger = CsvSink(tmp_path)
    logger.log_metrics({"epoch": 0, "train/loss": torch.tensor(0.5)}, step=3)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss\n0,3,0.5\n"
    logger.log_metrics({"epoch": 0, "val/auroc": 0.25}, step=4)
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,train/loss,val/auroc\n0,3,0.5,\n0,4,,0.25\n"
    )


def test_a_second_logger_continues_in_the_same_file(tmp_path):
    CsvSink(tmp_path).log_metrics({"epoch": 0, "loss": 1.5}, step=1)
    CsvSink(tmp_path).log_metrics({"epoch": 1, "loss": 0.5, "acc": 1.0}, step=2)
    assert read(tmp_path / "metrics.csv") == [
        {"epoch": "0", "step": "1", "loss": "1.5", "acc": ""},
        {"epoch": "1", "step": "2", "loss": "0.5", "acc": "1"},
    ]


@pytest.mark.fault
@pytest.mark.parametrize("cut", [1, 3, 6])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, cut):
    CsvSink(tmp_path).log_metrics({"epoch": 0, "loss": 1.5}, step=1)
    CsvSink(tmp_path).log_metrics({"epoch": 1, "loss": 2.5}, step=2)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    CsvSink(tmp_path).log_metrics({"epoch": 1, "loss": 3.5}, step=2)
    assert [row["loss"] for row in read(path)] == ["1.5", "3.5"]


@pytest.mark.fault
def test_a_header_cut_short_starts_anew(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,st")
    CsvSink(tmp_path).log_metrics({"loss": 1.5}, step=2)
    assert read(tmp_path / "metrics.csv") == [{"epoch": "", "step": "2", "loss": "1.5"}]


@pytest.mark.fault
def test_no_space_while_columns_are_added_leaves_the_old_file(tmp_path, monkeypatch):
    logger = CsvSink(tmp_path)
    logger.log_metrics({"loss": 1.5}, step=1)
    before = (tmp_path / "metrics.csv").read_bytes()

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="No space left"):
        logger.log_metrics({"loss": 2.5, "new": 1.0}, step=2)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_numbers_survive_the_file(tmp_path):
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": math.inf, "d": 3, "e": 2.0**60}
    CsvSink(tmp_path).log_metrics({**values, "f": math.nan}, step=0)
    row = read(tmp_path / "metrics.csv")[0]
    assert {name: float(row[name]) for name in values} == values
    assert math.isnan(float(row["f"]))


def test_curves_go_to_a_file_of_their_own(tmp_path):
    curve = Curve("roc_a", "masks", torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]), "x", "y")
    sink = CsvSink(tmp_path)
    for epoch in (0, 1):
        publication = Publication({"roc_a": (curve,)}, tables={"t": Table(("a",), ((1,),))})
        sink.publish(publication, step=10 * epoch, epoch=epoch)
    rows = read(tmp_path / "curves.csv")
    assert list(rows[0]) == ["epoch", "step", "figure", "label", "x", "y"]
    assert [(row["epoch"], row["x"], row["y"]) for row in rows] == [
        ("0", "0.0", "0.5"),
        ("0", "1.0", "1.0"),
        ("1", "0.0", "0.5"),
        ("1", "1.0", "1.0"),
    ]
    assert not (tmp_path / "metrics.csv").exists()


def test_lightning_takes_the_run_folder_for_its_log_folder(tmp_path):
    logger = CsvSink(tmp_path)
    assert (logger.save_dir, logger.name, logger.version) == (str(tmp_path), "", "")
