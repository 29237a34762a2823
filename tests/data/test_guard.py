import pytest
import torch

from verisal.data.guard import ImageDigests, different, guard_seen, guard_splits, shared_images
from verisal.errors import DataError


def digests(*parts, name="image"):
    images = torch.cat(parts)
    return ImageDigests.of(images, [f"{name} {index}" for index in range(len(images))])


def images(count, *, seed):
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 2, 2, generator=rng) * 256).to(torch.uint8)


def test_images_in_two_splits_are_refused_with_their_number_and_two_names():
    splits = {
        "det_fit": digests(images(4, seed=1)),
        "det_val": digests(images(3, seed=2)),
        "det_test": digests(images(3, seed=3), images(4, seed=1)[1:], name="b"),
    }
    with pytest.raises(DataError) as error:
        guard_splits(splits)
    assert str(error.value).startswith(
        "3 of the 6 images of det_test stand in det_fit too, by their pixels: b 3, b 4, ...; splits must"
    )


def test_one_different_byte_is_another_image():
    other = images(2, seed=1)
    other[:, 2, 1, 1] ^= 1
    known = digests(images(2, seed=1))
    assert not shared_images(digests(other), known.values)
    assert len(shared_images(known, known.values)) == 2
    guard_splits({"det_fit": known, "det_test": digests(other)})


def test_the_same_picture_twice_in_one_split_leaks_nothing():
    twice = digests(images(2, seed=1).repeat(2, 1, 1, 1))
    assert len(different(twice.values)) == 2
    guard_splits({"det_fit": twice, "det_test": digests(images(2, seed=2))})


def test_strides_do_not_hide_a_shared_image():
    kept = images(2, seed=1)
    with pytest.raises(DataError, match="of b stand in a too"):
        guard_splits({"a": digests(kept), "b": digests(kept.contiguous(memory_format=torch.channels_last))})


def test_an_earlier_use_is_told_in_words():
    found = digests(images(2, seed=1))
    with pytest.raises(DataError, match="the 2 images of test stand in those of yesterday too"):
        guard_seen(found, "test", {"fit": different(found.values)}, told={"fit": "those of yesterday"})
    guard_seen(found, "test", {"fit": different(found.values)[:0]})
    assert shared_images(found, found.values[1:]) == ["image 1"]
