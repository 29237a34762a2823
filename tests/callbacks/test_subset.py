"""Which images are explained where an evaluation reads more than one loader."""

import pytest
import torch

from helpers.explaining_toys import loader
from verisal.callbacks._subset import Subset
from verisal.functional.seeding import derive_seed


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 4, 12, 50])
def test_images_are_drawn_among_those_of_all_loaders(seed, most):
    loaders = [loader(5, batch_size=3), loader(7, batch_size=4)]
    subset = Subset(loaders, max_images=most, seed=seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
    expected = sorted(torch.randperm(12, generator=generator)[:most].tolist())
    found, batches = [], 0
    for number, (batch_size, sizes, start) in enumerate([(3, (3, 2), 0), (4, (4, 3), 5)]):
        for batch, size in enumerate(sizes):
            rows = list(subset.of_batch(number, batch, size))
            found += [start + batch * batch_size + row for row in rows]
            batches += bool(rows)
    assert found == expected
    assert subset.batches([2, 2]) == batches
    assert subset.batches([2, 0]) == len({place // 3 for place in expected if place < 5})
    assert subset.batches([1, 1]) == any(place < 3 for place in expected) + any(
        5 <= place < 9 for place in expected
    )


def test_without_a_limit_all_images_of_all_loaders_are_explained():
    subset = Subset([loader(5, batch_size=3), loader(7, batch_size=4)], max_images=None, seed=0)
    assert [list(subset.of_batch(1, 1, 3)), list(subset.of_batch(0, 0, 3))] == [[0, 1, 2], [0, 1, 2]]
    assert subset.batches([2, 1]) == 3
