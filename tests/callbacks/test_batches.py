"""Batches of strangers' loaders, read as our own."""

import torch

from helpers.explaining_toys import Samples
from verisal.callbacks._batches import as_batch, read
from verisal.types import Batch


class Halves:
    """Normalised by mean 0.5 and deviation 0.25."""

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        return images * 0.25 + 0.5


def test_own_batches_come_back_as_they_are():
    own = Batch.collate([Samples(3)[index] for index in range(3)])
    assert as_batch(read(own), Halves()) is own


def test_images_with_labels():
    images = Samples(3).images
    batch = as_batch(read([(images - 0.5) / 0.25, torch.tensor([2, 0, 1])]), Halves())
    torch.testing.assert_close(batch.images, images, rtol=0, atol=1e-6)
    assert batch.labels.tolist() == [2, 0, 1]
    assert len(set(batch.image_ids)) == 3
    assert [len(labels) for labels in batch.object_labels] == [0, 0, 0]
