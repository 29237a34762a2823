"""The first samples of anybody's data set or loader."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, SubsetRandomSampler

from helpers.batch_formats import CLASSES, OWN, SIZE, samples
from verisal.callbacks._first_samples import first_samples
from verisal.errors import ConfigError
from verisal.types import Batch


class Nothing:
    """No normalisation."""

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        return images


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
    batch = first_samples(source, 6, Nothing())
    assert batch.labels.tolist() == _grey(batch)
    assert batch.labels.tolist() in (list(range(6)), [0, 0, 1, 1, 2, 2])


def test_a_loader_s_own_sampler_chooses_and_always_the_same():
    loader = DataLoader(Pairs(), batch_size=4, sampler=SubsetRandomSampler(range(20, 40)))
    torch.manual_seed(1)
    first = first_samples(loader, 6, Nothing())
    torch.manual_seed(2)
    assert _grey(first) == _grey(first_samples(loader, 6, Nothing()))
    assert set(_grey(first)) <= set(range(20, 40))


def test_no_global_random_number_is_drawn():
    class Noisy(Pairs):
        def __getitem__(self, index):
            image = torch.rand(3, *SIZE) * random.random() * np.random.rand()  # noqa: S311
            return image, index

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first_samples(DataLoader(Noisy(), shuffle=True), 3, Nothing())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def test_fewer_samples_than_asked_for():
    assert len(first_samples(Pairs(), 100, Nothing())) == 40
    assert len(first_samples(DataLoader(Pairs(), batch_size=32), 33, Nothing())) == 33


def test_targets_of_detection_in_any_number():
    source = Pairs(_boxes)
    zipped = DataLoader(source, batch_size=4, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))
    for given in (source, zipped):
        batch = first_samples(given, 40, Nothing())
        assert [len(boxes) for boxes in batch.boxes] == [index % 3 for index in range(40)]
        assert batch.labels.tolist() == [index % 3 - 1 for index in range(40)]


def test_a_function_of_the_user_s_is_given_batches():
    found = []

    def reader(batch):
        found.append(type(batch))
        return batch[0], [len(target["labels"]) for target in batch[1]]

    assert first_samples(Pairs(_boxes), 5, Nothing(), reader=reader).labels.tolist() == [0, 1, 2, 0, 1]

    def numbers(batch):
        found.append(type(batch))
        return batch[0], batch[1] + 1

    assert first_samples(Pairs(), 3, Nothing(), reader=numbers).labels.tolist() == [1, 2, 3]
    assert found == [tuple, list]


def test_our_own_samples_and_words_as_labels():
    own = first_samples(samples(), 2, Nothing())
    assert own.image_ids == OWN.image_ids[:2]
    assert torch.equal(own.object_masks[1], OWN.object_masks[1])
    words = [(image, CLASSES[2]) for image in OWN.images]
    assert first_samples(words, 3, Nothing(), class_names=CLASSES).labels.tolist() == [2, 2, 2]


def test_nothing_to_read_is_said():
    with pytest.raises(ConfigError, match="found list without any"):
        first_samples([], 3, Nothing())
    with pytest.raises(ConfigError, match="expected a data set or a loader, found int"):
        first_samples(3, 3, Nothing())
    sizes = [(torch.rand(1, 3, 8, width), [0]) for width in (8, 9)]
    with pytest.raises(ConfigError, match=r"equally large, found \(3, 8, 8\) and \(3, 8, 9\)"):
        first_samples(sizes, 2, Nothing())
