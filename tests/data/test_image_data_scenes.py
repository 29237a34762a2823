"""Scenes for training and evaluation: how many of which split."""

from __future__ import annotations

import pytest

from verisal.data import ImageData
from verisal.errors import ConfigError


def test_one_number_decides_where_validation_reads_the_test_scenes():
    data = ImageData(val_count=3, val_split="det_test", batch_size=2, num_workers=0)
    data.setup("validate")
    assert [len(batch) for batch in data.val_dataloader()] == [2, 1]
    data.setup("test")
    assert [len(batch) for batch in data.test_dataloader()] == [2, 1]


def test_counts_of_the_same_scenes_must_agree():
    with pytest.raises(ConfigError, match="found 3 and 2; leave test_count out"):
        ImageData(val_count=3, test_count=2, val_split="det_test")


def test_splits_of_their_own_have_counts_of_their_own():
    data = ImageData(val_count=2, test_count=3, batch_size=4, num_workers=0)
    for stage, loader, count in (("validate", data.val_dataloader, 2), ("test", data.test_dataloader, 3)):
        data.setup(stage)
        assert [len(batch) for batch in loader()] == [count]
