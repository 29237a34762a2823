"""Lightning data module of images on disk."""

from __future__ import annotations

from typing import Any, Literal, final

import lightning as L
from torch.utils.data import DataLoader

from verisal._numbers import check_range
from verisal.data.annotated import AnnotatedImages, ImageSplits, Part
from verisal.data.guard import ImageDigests
from verisal.data.shares import Processes, ShareSampler, more_than_a_batch
from verisal.functional.adversarial import round_to_8bit
from verisal.models import Classifier, ClassifierSource, load_classifier
from verisal.types import Batch

__all__ = ["ImageData"]


@final
class ImageData(L.LightningDataModule):
    """Images of a data set on disk: ``fit`` to train, ``val`` to validate, ``test`` to test.

    Args:
        splits: the data set, how it is divided and how it is read.
        classifier: its name, path or source, or the classifier itself; images get its size and classes.
        fit_count: number of images of the part, the first ones; None for all.
        val_count: the same of the part that validation reads.
        test_count: the same of the part ``test``.
        val_part: the part that validation reads.
        batch_size: images per step.
        num_workers: processes that decode.
    """

    def __init__(
        self,
        splits: ImageSplits,
        *,
        classifier: str | ClassifierSource | Classifier,
        fit_count: int | None = None,
        val_count: int | None = None,
        test_count: int | None = None,
        val_part: Literal["val", "test"] = "val",
        batch_size: int = 16,
        num_workers: int = 2,
    ) -> None:
        super().__init__()
        check_range(1, fit_count=fit_count, val_count=val_count, test_count=test_count)
        check_range(1, batch_size=batch_size)
        check_range(0, num_workers=num_workers)
        self._splits = splits
        self._classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
        self._counts = {"fit": fit_count, "val": val_count, "test": test_count}
        self._parts: dict[str, Part] = {"fit": "fit", "val": val_part, "test": "test"}
        self.batch_size, self.num_workers = batch_size, num_workers
        self.class_names, self.image_size = self._classifier.class_names, self._classifier.image_size
        self._images: dict[str, AnnotatedImages] = {}
        self._digests: dict[str, ImageDigests] = {}

    def setup(self, stage: str) -> None:
        """List the parts that the stage reads; with ``on_error: skip``, look at their images too."""
        uses = {"fit": ("fit", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
        for use in uses[stage]:
            self._listed(use)

    def _listed(self, use: str) -> AnnotatedImages:
        if use not in self._images:
            self._images[use] = AnnotatedImages(
                self._splits, self._parts[use], classifier=self._classifier, count=self._counts[use]
            )
        return self._images[use]

    def digests(self, use: str) -> ImageDigests:
        """The images that ``fit``, ``val`` or ``test`` reads; the first time they are all decoded for it."""
        if use not in self._digests:
            loader = DataLoader(
                self._listed(use), batch_size=64, num_workers=self.num_workers, collate_fn=Batch.collate
            )
            parts = [ImageDigests.of(round_to_8bit(batch.images), batch.image_ids) for batch in loader]
            self._digests[use] = ImageDigests.joined(parts)
        return self._digests[use]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled images of ``fit``."""
        return self._loader("fit", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Images to validate, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Images of ``test``, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Images of ``test``, in order."""
        return self._loader("test")

    def _loader(self, use: str, *, shuffle: bool = False) -> DataLoader[Any]:
        images, processes = self._images[use], Processes.of(self.trainer)
        return DataLoader(
            images,
            batch_size=self.batch_size,
            shuffle=shuffle,
            sampler=None if shuffle else ShareSampler(images, processes),
            drop_last=shuffle and more_than_a_batch(len(images), self.batch_size, processes),
            num_workers=self.num_workers,
            collate_fn=Batch.collate,
        )
