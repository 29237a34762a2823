"""Which images are explained where an evaluation reads more than one loader."""

import pytest
import torch

from helpers.explaining_toys import Brightness, Task, loader, trainer
from verisal.callbacks import SaliencyPanels
from verisal.callbacks._loaders import batches_with_rows, chosen_rows
from verisal.functional.seeding import derive_seed


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 4, 12, 50])
def test_images_are_drawn_among_those_of_all_loaders(seed, most):
    loaders = [loader(5, batch_size=3), loader(7, batch_size=4)]
    chosen = chosen_rows(loaders, max_images=most, seed=seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
    expected = sorted(torch.randperm(12, generator=generator)[:most].tolist())
    found, batches = [], 0
    for number, (batch_size, sizes, start) in enumerate([(3, (3, 2), 0), (4, (4, 3), 5)]):
        for batch in range(len(sizes)):
            rows = chosen[number][batch]
            found += [start + batch * batch_size + row for row in rows]
            batches += bool(rows)
    assert found == expected
    assert batches_with_rows(chosen, [2, 2]) == batches
    assert batches_with_rows(chosen, [2, 0]) == len({place // 3 for place in expected if place < 5})
    assert batches_with_rows(chosen, [1, 1]) == any(place < 3 for place in expected) + any(
        5 <= place < 9 for place in expected
    )


def test_without_a_limit_all_images_of_all_loaders_are_explained():
    loaders = [loader(5, batch_size=3), loader(7, batch_size=4)]
    assert chosen_rows(loaders, max_images=None, seed=0) is None
    assert batches_with_rows(None, [2, 1]) == 3
    callback = SaliencyPanels({"brightness": Brightness()}, max_images=None)
    trainer(callback).validate(TwoLoaders(), loaders, verbose=False)
    ids = {f"toy/{index:03d}" for index in range(7)}
    assert len(callback.evaluation.panels) == 5 + 7
    assert {panel.image_id for panel in callback.evaluation.panels} == ids


class TwoLoaders(Task):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass
