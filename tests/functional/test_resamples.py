"""Resamples a part at a time: the same as at once, in bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from verisal.functional.statistics import Bootstrap, resamples
from verisal.functional.statistics.resamples import Resamples


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.untyped_storage().nbytes())
        return result


def at_once(count, images, seed):
    """All of them in one draw."""
    places = torch.randint(images, (count, images), generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.bincount(row, minlength=images) for row in places])


@pytest.mark.parametrize("images", [1, 2, 40, 256, 301])
@pytest.mark.parametrize("most_kept", [0, 2**26])
def test_parts_are_those_of_one_draw(monkeypatch, images, most_kept):
    monkeypatch.setattr(resamples, "_MOST_KEPT", most_kept)
    monkeypatch.setattr(resamples, "_AT_ONCE", 1000)
    drawn = Resamples(50, seed=3)
    for _ in range(2):
        parts = list(drawn.parts(images))
        assert len(parts) == -(-50 // max(1, 1000 // images))
        assert torch.cat(parts).equal(at_once(50, images, 3).byte())


def test_places_are_looked_up_in_each_part(monkeypatch):
    monkeypatch.setattr(resamples, "_AT_ONCE", 100)
    places = torch.tensor([5, 0, 5, 19])
    found = torch.cat(list(Resamples(30, seed=1).at(places, 20)))
    assert found.equal(at_once(30, 20, 1)[:, places].float())


def test_what_is_kept_has_a_bound(monkeypatch):
    monkeypatch.setattr(resamples, "_MOST_KEPT", 1000)
    drawn = Resamples(10, seed=0)
    for images in (20, 30, 60, 200):
        assert torch.cat(list(drawn.parts(images))).sum() == 10 * images
        assert sum(kept.numel() for kept in drawn._kept.values()) <= 1000


def test_memory_of_intervals_does_not_grow_with_the_images(monkeypatch):
    monkeypatch.setattr(resamples, "_MOST_KEPT", 2**16)
    monkeypatch.setattr(resamples, "_AT_ONCE", 2**12)
    values = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with Largest() as largest:
        few = Bootstrap(100, seed=2).mean(values)
    # The values themselves are 24 kB, all resamples of them 2.4 MB.
    assert largest.found <= 8 * 2**12
    monkeypatch.undo()
    with Largest() as largest:
        expected = Bootstrap(100, seed=2).mean(values)
    assert largest.found > 2**16
    torch.testing.assert_close(few.draws, expected.draws, rtol=1e-14, atol=0)
