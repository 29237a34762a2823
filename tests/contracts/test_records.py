"""Records that hold tensors are printed as a line of shapes and ranges."""

import re
from dataclasses import fields, is_dataclass

import torch

from helpers.evaluations import evaluation
from helpers.exported import public_classes
from helpers.metric_cases import toy_explained
from verisal._brief import described
from verisal.saliency import Gradient
from verisal.types import Batch, Sample

_TENSORS = re.compile(r"(Tensor|tuple\[Tensor, \.\.\.\]|[Mm]apping\[str, Tensor\])( \| None)?")


def test_every_record_of_tensors_has_a_short_repr():
    long = [
        kind.__name__
        for kind in public_classes()
        if is_dataclass(kind)
        and any(item.repr and _TENSORS.fullmatch(str(item.type)) for item in fields(kind))
        # A generated one was compiled by the standard library.
        and kind.__repr__.__code__.co_filename.endswith("dataclasses.py")
    ]
    assert long == []


def test_a_batch_of_pictures_is_a_line():
    masks, boxes = torch.ones(1, 9, 9, dtype=torch.bool), torch.rand(1, 4)
    sample = Sample(torch.rand(3, 9, 9), 2, "a", torch.tensor([2]), masks, boxes)
    batch = Batch.collate([sample] * 64)
    result = Gradient()(lambda images: images.mean((2, 3)), batch.images)
    for record in (sample, batch, evaluation(panels=9), toy_explained(), result):
        words = repr(record)
        assert words.startswith(f"{type(record).__name__}(")
        assert len(words) < 700
    assert "images=(64, 3, 9, 9) float32 from 0" in repr(batch)
    assert "image_ids=[a, 64 in all]" in repr(batch).replace("'", "")


def test_few_values_are_shown_and_many_are_counted():
    assert described(torch.tensor([1, 2])) == "[1, 2]"
    assert described(torch.tensor(0.25)) == "0.25"
    assert described(torch.full((9,), torch.nan)) == "(9,) float32 from no finite value"
    assert described(torch.tensor([[0.0, 1.0, torch.inf]])) == "(1, 3) float32 from 0 to 1, 1 not finite"
    assert described({"a": 1, "b": torch.zeros(2, 2)}) == "{a: 1, b: (2, 2) float32 from 0 to 0}"
    assert described([f"image_{index}" for index in range(99)]) == "['image_0', 99 in all]"
    assert described(torch.nn.Linear(2, 2)) == "Linear"
    assert described(len) == "len"
