"""Columns of long tables: values as of a list, in the memory of their parts."""

from __future__ import annotations

import copy
import csv
import pickle
import tracemalloc
from array import array

import pytest
import torch

from verisal._column import Column, Same
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.reporting.publication import merge_evaluations
from verisal.reporting.report import write_samples


def test_a_column_reads_like_a_list():
    column = Column([("a", "b"), Same("c", 3), (), Column([array("d", [1.5, 2.0])])])
    listed = ["a", "b", "c", "c", "c", 1.5, 2.0]
    assert column == listed
    assert listed == column
    assert repr(column) == repr(listed)
    assert column != listed[:-1]
    assert len(column) == 7
    assert [column[place] for place in range(-7, 7)] == listed * 2
    assert column[1:6:2] == listed[1:6:2]
    assert Same("c", 3)[1:] == ["c", "c"]
    assert column.index(1.5) == 5
    for made in (copy.deepcopy(column), pickle.loads(pickle.dumps(column))):  # noqa: S301 - our own
        assert made == listed
    for place in (7, -8):
        with pytest.raises(IndexError):
            column[place]
    assert list(Column([])) == []


def long_evaluation(images, columns):
    ids = tuple(f"folder/image_{number:07d}.png" for number in range(images))
    rows = [
        row_evaluation(
            "val",
            f"method {method}",
            "metric",
            {},
            image_ids=ids,
            columns={f"value {column}": torch.full((images,), float(column)) for column in range(columns)},
        )
        for method in range(2)
    ]
    return merge_evaluations(rows)


def test_samples_take_the_memory_of_their_values():
    images, columns = 2000, 20
    long_evaluation(2, 2)
    tracemalloc.start()
    ids_alone = [f"folder/image_{number:07d}.png" for number in range(images)]
    names = tracemalloc.get_traced_memory()[0]
    evaluation = long_evaluation(images, columns)
    kept = tracemalloc.get_traced_memory()[0] - 2 * names
    tracemalloc.stop()
    assert len(ids_alone) == images
    lines = images * columns * 2
    assert {len(column) for column in evaluation.samples.values()} == {lines}
    # 8 bytes of each value, and no more than one other for its names.
    assert kept < 9 * lines


def test_samples_are_written_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("verisal.reporting.report._LINES", 100)
    samples = long_evaluation(500, 10).samples
    tracemalloc.start()
    write_samples(tmp_path / "samples.csv", samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with (tmp_path / "samples.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["image_id", "row", "score", "value"]
    assert rows[0] == ["folder/image_0000000.png", "method 0", "metric/value 0", "0.0"]
    assert rows[-1] == ["folder/image_0000499.png", "method 1", "metric/value 9", "9.0"]
    assert len(rows) == 10_000
    # The whole file is 560 kB.
    assert peak < 200_000
