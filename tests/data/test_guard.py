import pytest
import torch

from verisal.data.guard import guard_splits
from verisal.errors import DataError


def images(count, *, seed):
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 2, 2, generator=rng) * 256).to(torch.uint8)


def test_an_image_in_two_splits_is_refused_naming_both():
    test = torch.cat([images(3, seed=3), images(2, seed=1)[1:]])
    splits = {"det_fit": images(2, seed=1), "det_val": images(3, seed=2), "det_test": test}
    with pytest.raises(DataError, match="stands in det_fit and in det_test"):
        guard_splits(splits)


def test_one_different_byte_is_another_image():
    other = images(2, seed=1)
    other[:, 2, 1, 1] ^= 1
    guard_splits({"det_fit": images(2, seed=1), "det_test": other})


def test_the_same_picture_twice_in_one_split_leaks_nothing():
    guard_splits({"det_fit": images(2, seed=1).repeat(2, 1, 1, 1), "det_test": images(2, seed=2)})


def test_strides_do_not_hide_a_shared_image():
    kept = images(2, seed=1)
    with pytest.raises(DataError, match="stands in a and in b"):
        guard_splits({"a": kept, "b": kept.contiguous(memory_format=torch.channels_last)})
