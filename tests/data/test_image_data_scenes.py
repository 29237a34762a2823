"""Scenes for training and evaluation: how many of which split."""

from __future__ import annotations

import pytest

from verisal.data import ImageData
from verisal.data.image_data import PassingScenes, RenderedScenes
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


def test_scenes_are_the_same_rendered_once_or_as_they_are_read():
    passing, kept = (ImageData(val_count=3, batch_size=3, num_workers=0) for _ in range(2))
    passing.setup("validate")
    kept.setup("validate")
    names = kept.digests("val").names
    assert type(passing.val_dataloader().dataset) is PassingScenes
    assert type(kept.val_dataloader().dataset) is RenderedScenes
    (one,), (two,) = (list(data.val_dataloader()) for data in (passing, kept))
    assert one.image_ids == two.image_ids == tuple(names)
    for part in ("images", "labels"):
        assert getattr(one, part).equal(getattr(two, part))
    for part in ("object_labels", "object_masks", "boxes"):
        for first, second in zip(getattr(one, part), getattr(two, part), strict=True):
            assert first.dtype == second.dtype
            assert first.equal(second)


def test_many_scenes_are_compared_without_keeping_them(monkeypatch):
    monkeypatch.setattr("verisal.data.image_data._FEW_BYTES", 1000)
    data = ImageData(val_count=3, batch_size=3, num_workers=0)
    data.setup("validate")
    digests = data.digests("val").values
    assert type(data.val_dataloader().dataset) is PassingScenes
    monkeypatch.undo()
    few = ImageData(val_count=3, batch_size=3, num_workers=0)
    few.setup("validate")
    assert digests.equal(few.digests("val").values)
    assert type(few.val_dataloader().dataset) is RenderedScenes
