"""The first samples of anybody's data set or loader."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, SubsetRandomSampler

from helpers.batch_formats import OWN, SIZE, samples
from verisal.callbacks.formats.batches import as_batch, read
from verisal.callbacks.formats.first_samples import collate_like, first_samples
from verisal.errors import ConfigError
from verisal.models import Normalization
from verisal.types import Batch


class Pairs(Dataset):
    """Images of 40 grey levels with numbers; without an end of its own."""

    def __init__(self, target=int):
        self.target = target

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((3, *SIZE), index / 51), self.target(index)


class Stream(IterableDataset):
    """The same, one after the other."""

    def __iter__(self):
        pairs = Pairs()
        return (pairs[index] for index in range(40))


def batch_of(raw, reader=None):
    return as_batch(read(raw, reader), Normalization((0.0,), (1.0,)))


def _boxes(index):
    boxes = torch.tensor([[0.0, 0, 4, 4 + number] for number in range(index % 3)]).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.arange(index % 3)}


def _grey(batch: Batch) -> list[int]:
    return (batch.images[:, 0, 0, 0] * 51).round().int().tolist()


@pytest.mark.parametrize(
    "source",
    [
        Pairs(),
        Stream(),
        DataLoader(Pairs(), batch_size=4),
        DataLoader(Pairs(), batch_size=4, num_workers=2, persistent_workers=True),
        DataLoader(Stream(), batch_size=4),
        DataLoader(Pairs(), batch_size=None, collate_fn=lambda pair: (pair[0][None], [pair[1]])),
        DataLoader(Pairs(), batch_size=4, sampler=DistributedSampler(Pairs(), 2, 1, shuffle=True)),
        [Pairs()[index] for index in range(40)],
        [(torch.full((2, 3, *SIZE), index / 51), [index, index]) for index in range(40)],
    ],
    ids=["data", "stream", "loader", "workers", "streams", "unbatched", "processes", "samples", "batches"],
)
def test_the_first_samples_come_in_order(source):
    batch = first_samples(source, 6, batch_of)
    assert batch.labels.tolist() == _grey(batch)
    assert batch.labels.tolist() in (list(range(6)), [0, 0, 1, 1, 2, 2])


def test_a_loader_s_own_sampler_chooses_and_always_the_same():
    loader = DataLoader(Pairs(), batch_size=4, sampler=SubsetRandomSampler(range(20, 40)))
    torch.manual_seed(1)
    first = first_samples(loader, 6, batch_of)
    torch.manual_seed(2)
    assert _grey(first) == _grey(first_samples(loader, 6, batch_of))
    assert set(_grey(first)) <= set(range(20, 40))


def test_no_global_random_number_is_drawn():
    class Noisy(Pairs):
        def __getitem__(self, index):
            image = torch.rand(3, *SIZE) * random.random() * np.random.rand()  # noqa: S311
            return image, index

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first_samples(DataLoader(Noisy(), shuffle=True), 3, batch_of)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def test_fewer_samples_than_asked_for():
    assert len(first_samples(Pairs(), 100, batch_of)) == 40
    assert len(first_samples(DataLoader(Pairs(), batch_size=32), 33, batch_of)) == 33


def test_targets_of_detection_in_any_number():
    source = Pairs(_boxes)
    zipped = DataLoader(source, batch_size=4, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))
    for given in (source, zipped):
        batch = first_samples(given, 40, batch_of)
        assert [len(boxes) for boxes in batch.boxes] == [index % 3 for index in range(40)]
        assert batch.labels.tolist() == [index % 3 - 1 for index in range(40)]


def test_data_sets_are_collated_as_the_evaluation_s_own():
    found = []

    def reader(batch):
        found.append(type(batch))
        numbers = [len(target["labels"]) if isinstance(target, dict) else int(target) for target in batch[1]]
        return batch[0], numbers

    collate = collate_like(DataLoader(Pairs()), reader=reader)
    batch = first_samples(Pairs(_boxes), 5, partial(batch_of, reader=reader), collate=collate)
    assert batch.labels.tolist() == [0, 1, 2, 0, 1]
    batch = first_samples(Pairs(), 3, partial(batch_of, reader=reader), collate=collate)
    assert batch.labels.tolist() == [0, 1, 2]
    assert found == [tuple, list]

    def swapped(pairs):
        return [pair[1] for pair in pairs], torch.stack([pair[0] for pair in pairs])

    collate = collate_like(DataLoader(Pairs(), collate_fn=swapped), reader=None)
    assert collate is swapped
    assert first_samples(Pairs(), 3, batch_of, collate=collate).labels.tolist() == [0, 1, 2]
    assert first_samples(samples(), 3, batch_of, collate=collate).image_ids == OWN.image_ids
    assert collate_like(DataLoader(Pairs()), reader=None) is None
    assert collate_like(DataLoader(Pairs(), collate_fn=Batch.collate), reader=None) is None
    assert collate_like([1], reader=None) is None


def test_our_own_samples():
    own = first_samples(samples(), 2, batch_of)
    assert own.image_ids == OWN.image_ids[:2]
    assert torch.equal(own.object_masks[1], OWN.object_masks[1])


def test_nothing_to_read_is_said():
    with pytest.raises(ConfigError, match="found list without any"):
        first_samples([], 3, batch_of)
    with pytest.raises(ConfigError, match="expected a data set or a loader of samples, found int"):
        first_samples(3, 3, batch_of)
    sizes = [(torch.rand(1, 3, 8, width), [0]) for width in (8, 9)]
    with pytest.raises(ConfigError, match=r"equally large, found \(3, 8, 8\) and \(3, 8, 9\)"):
        first_samples(sizes, 2, batch_of)
