"""Which images are explained where an evaluation reads more than one loader."""

import pytest
import torch

from helpers.explaining_toys import Brightness, Task, loader, trainer
from verisal.callbacks import SaliencyPanels
from verisal.callbacks.explaining.subset import Everything, subset_of
from verisal.functional.seeding import derive_seed


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 4, 12, 50])
def test_images_are_drawn_among_those_of_all_loaders(seed, most):
    loaders = [loader(5, batch_size=3), loader(7, batch_size=4)]
    chosen = subset_of(loaders, max_images=most, seed=seed)
    if most >= 12:
        assert isinstance(chosen, Everything)
        return
    generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
    expected = sorted(torch.randperm(12, generator=generator)[:most].tolist())
    found, batches = [], 0
    for number, (batch_size, sizes, start) in enumerate([(3, (3, 2), 0), (4, (4, 3), 5)]):
        for batch in range(len(sizes)):
            rows = chosen.rows(number, batch, unread)
            found += [start + batch * batch_size + row for row in rows]
            batches += bool(rows)
    assert found == expected
    assert chosen.steps([2, 2]) == batches
    assert chosen.steps([2, 0]) == len({place // 3 for place in expected if place < 5})
    assert chosen.steps([1, 1]) == any(place < 3 for place in expected) + any(
        5 <= place < 9 for place in expected
    )


def test_without_a_limit_all_images_of_all_loaders_are_explained():
    loaders = [loader(5, batch_size=3), loader(7, batch_size=4)]
    everything = subset_of(loaders, max_images=None, seed=0)
    assert isinstance(everything, Everything)
    assert everything.steps([2, 1]) == 3
    callback = SaliencyPanels({"brightness": Brightness()}, max_images=None)
    trainer(callback).validate(TwoLoaders(), loaders, verbose=False)
    ids = {f"toy/{index:03d}" for index in range(7)}
    assert len(callback.evaluation.panels) == 5 + 7
    assert {panel.image_id for panel in callback.evaluation.panels} == ids


def unread():
    raise AssertionError("positions alone say which rows they are")


class TwoLoaders(Task):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass
