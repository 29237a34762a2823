"""The Lightning data module of images, of a data set on disk or of EmojiScenes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, final

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from verisal.data.annotated import AnnotatedImages, DiskSplit, ImagesLike, ImageSplits
from verisal.data.guard import ImageDigests
from verisal.data.scenes.composed import ComposedImages, Composition
from verisal.data.scenes.emoji import LARGEST_SCENE, SMALLEST_SCENE, EmojiScenes
from verisal.errors import ConfigError
from verisal.functional.adversarial import round_to_8bit
from verisal.models import Classifier, ClassifierSource, load_classifier
from verisal.models.bounds import UNIT
from verisal.progress import at_work, progress_bar
from verisal.types import Batch, Sample, Split, check_range


class _Ranked(Protocol):
    """A trainer, as far as it is asked."""

    @property
    def global_rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_range(1, world_size=self.world_size)
        check_range(0, self.world_size - 1, rank=self.rank)

    @classmethod
    def of(cls, trainer: _Ranked | None) -> Self:
        """This process among those of a trainer; alone without one."""
        return cls() if trainer is None else cls(trainer.global_rank, trainer.world_size)


def more_than_a_batch(count: int, batch_size: int, processes: Processes) -> bool:
    """True if a process's share of training rows is more than one batch, so that a short last one may go."""
    return math.ceil(count / processes.world_size) > batch_size


@final
class ShareSampler(DistributedSampler[int]):
    """Every ``world_size``-th row in order, without padding, so that no row is counted twice.

    A process beyond the number of rows gets a copy of one: whoever had none would leave out the end of the
    epoch, at which the others wait. Tables know rows by their names and drop the copy.

    A ``DistributedSampler`` by name only: Lightning wraps a sampler of any other kind in one of its own,
    which would share out this process's share once more and lose the rest.
    """

    def __init__(self, dataset: Sized, processes: Processes) -> None:
        rank, world_size = processes.rank, processes.world_size
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]  # reads its length
        count = len(dataset)
        self._rows = range(rank % max(1, count) if rank >= count else rank, count, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


_ON_DISK: dict[Split, DiskSplit] = {
    "cls_train": "fit",
    "cls_val": "val",
    "det_val": "val",
    "det_test": "test",
}
_SCENES = {"fit": 24_000, "val": 2_000, "test": 4_000}
# Of scenes that are read twice: more are rendered again.
_FEW_BYTES = 2**26


@final
class RenderedScenes(Dataset[Sample]):
    """Scenes rendered once and kept as 8-bit images, for epochs that read each of them many times.

    Training does not read the ``objects``, their classes, masks and boxes.
    """

    def __init__(self, scenes: EmojiScenes, *, num_workers: int, objects: bool) -> None:
        images: list[Tensor] = []
        labels: list[Tensor] = []
        self.image_ids: list[str] = []
        self._size = scenes.size
        self._objects: list[tuple[NDArray[Any], NDArray[np.uint8], NDArray[Any]]] = []
        for batch in _in_order(scenes, num_workers, "rendering"):
            images.append(round_to_8bit(batch.images))
            labels.append(batch.labels)
            self.image_ids += batch.image_ids
            if objects:
                # Pixels in bits, and arrays, which are smaller than tensors: many scenes are kept.
                self._objects += [
                    (kinds.numpy(), np.packbits(masks.flatten(1).numpy(), axis=1), boxes.numpy())
                    for kinds, masks, boxes in zip(
                        batch.object_labels, batch.object_masks, batch.boxes, strict=True
                    )
                ]
        self.images, self._labels = torch.cat(images), torch.cat(labels)
        nothing = torch.zeros(0, scenes.size, scenes.size, dtype=torch.bool)
        self._none = (torch.zeros(0, dtype=torch.int64), nothing, torch.zeros(0, 4))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """Image and label, with its objects where they are kept."""
        objects = self._unpacked(index) if self._objects else self._none
        return Sample(self.images[index] / 255, int(self._labels[index]), self.image_ids[index], *objects)

    def _unpacked(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        kinds, bits, boxes = self._objects[index]
        pixels = np.unpackbits(bits, axis=1, count=self._size**2).reshape(-1, self._size, self._size)
        return torch.from_numpy(kinds), torch.from_numpy(pixels.astype(bool)), torch.from_numpy(boxes)


@final
class PassingScenes(Dataset[Sample]):
    """Scenes rendered whenever they are read, for one epoch that reads each of them once: none is kept."""

    def __init__(self, scenes: EmojiScenes) -> None:
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        """Image, label and objects."""
        return self._scenes[index]


@final
class ImageData(L.LightningDataModule):
    """Images of ``cls_train`` to train, of ``val_split`` to validate, and of ``det_test`` to test.

    On disk these are ``fit``, ``val`` (for ``det_val`` too) and ``test`` of the data set. Scenes are rendered
    once and kept for a fit, and as they are read for one epoch of another stage.

    Args:
        splits: the data set on disk, how it is divided and how it is read; None for EmojiScenes.
        composition: how scenes are made of the images on disk, such as mosaics, which are then read in their
            place, and which the counts are of; None for the images themselves.
        classifier: its name, path or source, or the classifier itself; images on disk get its size, channels
            and classes. None for a classifier that is yet to be trained: images then get ``image_size`` and
            ``channels``, and the classes are those of the data set. Scenes need none.
        fit_count: number of images to train on, the first ones; None for all, or for 24000 scenes.
        val_count: the same of those to validate; None for all, or for 2000 scenes.
        test_count: the same of those to test; None for those of the validation where both read ``det_test``,
            else for all, or for 4000 scenes.
        val_split: what validation reads; of the scenes the classifier's own split by default.
        image_size: side of a scene in pixels, or of images on disk without a classifier.
        channels: of images on disk without a classifier; scenes have 3.
        seed: of the scenes; images on disk have their own.
        batch_size: images per step.
        num_workers: processes that decode or render; None for two, or fewer where torch computes on fewer
            than three threads: one of them, at least, is left to computing.

    Raises:
        ConfigError: scenes of other channels than 3 or of a size out of range; ``det_test`` to validate and
            to test, with different counts; a composition of nothing on disk.
    """

    def __init__(
        self,
        splits: ImageSplits | None = None,
        *,
        composition: Composition | None = None,
        classifier: str | ClassifierSource | Classifier | None = None,
        fit_count: int | None = None,
        val_count: int | None = None,
        test_count: int | None = None,
        val_split: Literal["cls_val", "det_val", "det_test"] = "cls_val",
        image_size: int = 64,
        channels: int = 3,
        seed: int = 0,
        batch_size: int = 16,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        check_range(1, fit_count=fit_count, val_count=val_count, test_count=test_count)
        check_range(1, batch_size=batch_size, image_size=image_size, channels=channels)
        check_range(0, seed=seed, num_workers=num_workers)
        if splits is None:
            if composition is not None:
                raise ConfigError("composition makes scenes of images on disk; give splits, where they lie")
            check_range(SMALLEST_SCENE, LARGEST_SCENE, image_size=image_size)
            check_range(3, 3, channels=channels)
            fit_count, val_count = fit_count or _SCENES["fit"], val_count or _SCENES["val"]
            test_count = test_count or (None if val_split == "det_test" else _SCENES["test"])
            names = EmojiScenes("cls_train", 1, size=image_size).class_names
            self._like: Classifier | ImagesLike = ImagesLike(class_names=names, image_size=image_size)
        elif classifier is None:
            names = splits.class_names()
            self._like = ImagesLike(class_names=names, image_size=image_size, channels=channels)
        else:
            self._like = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
        like = self._like
        self.class_names, self.image_size, self.channels = like.class_names, like.image_size, like.channels
        if val_split == "det_test":
            test_count = test_count or val_count
            if val_count != test_count:
                raise ConfigError(
                    "validation and test read the same images, so val_count and test_count must be equal;"
                    f" found {val_count} and {test_count}; leave test_count out"
                )
        self._on_disk, self._composition, self._seed = splits, composition, seed
        self._splits: dict[str, Split] = {"fit": "cls_train", "val": val_split, "test": "det_test"}
        self._counts: dict[Split, int | None] = {
            "cls_train": fit_count,
            val_split: val_count,
            "det_test": test_count,
        }
        self.batch_size, self._num_workers = batch_size, num_workers
        self._images: dict[Split, _Images] = {}
        self._digests: dict[Split, ImageDigests] = {}

    @property
    def num_workers(self) -> int:
        """Processes that decode or render."""
        # The threads of each of several processes are known after this has been made.
        return min(2, torch.get_num_threads() - 1) if self._num_workers is None else self._num_workers

    def setup(self, stage: str) -> None:
        """List or render what the stage reads; with ``on_error: skip``, look at images on disk too."""
        uses = {"fit": ("fit", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
        for use in uses[stage]:
            self._read(self._splits[use], often=stage == "fit")

    def _read(self, split: Split, *, often: bool = False) -> _Images:
        known = self._images.get(split)
        if known is None or (often and isinstance(known, PassingScenes)):
            count, made = self._counts[split], self._composition
            if self._on_disk is not None:
                photographs = AnnotatedImages(
                    self._on_disk, _ON_DISK[split], classifier=self._like, count=None if made else count
                )
                self._images[split] = made.of(photographs, count=count) if made else photographs
            else:
                scenes = EmojiScenes(split, count or 0, seed=self._seed, size=self.image_size)
                objects = split != "cls_train"
                self._images[split] = (
                    RenderedScenes(scenes, num_workers=self.num_workers, objects=objects)
                    if often
                    else PassingScenes(scenes)
                )
        return self._images[split]

    def example(self) -> tuple[str, Tensor] | None:
        """Name and image ``(C, H, W)`` in [0, 1] of the first test image; None where a picture is no such."""
        sample = self._read(self._splits["test"])[0]
        pictured = self.channels in (1, 3) and getattr(self._like, "bounds", UNIT) == UNIT
        return (sample.image_id, sample.image) if pictured else None

    def digests(self, use: str) -> ImageDigests:
        """The images that ``fit``, ``val`` or ``test`` reads; the first time they are all decoded for it."""
        split = self._splits[use]
        if split not in self._digests:
            few = (self._counts[split] or 0) * 3 * self.image_size**2 <= _FEW_BYTES
            images = self._read(split, often=few)
            if isinstance(images, RenderedScenes):
                self._digests[split] = ImageDigests.of(images.images, images.image_ids)
            else:
                batches = _in_order(images, self.num_workers, "comparing")
                parts = [ImageDigests.of(round_to_8bit(batch.images), batch.image_ids) for batch in batches]
                self._digests[split] = ImageDigests.joined(parts)
        return self._digests[split]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled images to train on."""
        return self._loader("fit", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Images to validate, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Images to test, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Images to test, in order."""
        return self._loader("test")

    def _loader(self, use: str, *, shuffle: bool = False) -> DataLoader[Any]:
        images, processes = self._images[self._splits[use]], Processes.of(self.trainer)
        return DataLoader(
            images,
            batch_size=self.batch_size,
            shuffle=shuffle,
            sampler=None if shuffle else ShareSampler(images, processes),
            drop_last=shuffle and more_than_a_batch(len(images), self.batch_size, processes),
            num_workers=0 if isinstance(images, RenderedScenes | PassingScenes) else self.num_workers,
            collate_fn=Batch.collate,
        )


_Images = AnnotatedImages | ComposedImages | RenderedScenes | PassingScenes


def _in_order(images: Dataset[Sample], num_workers: int, doing: str) -> Iterator[Batch]:
    """Batches of all images; within a command it is shown how far that is."""
    count = len(images)  # type: ignore[arg-type]  # all of them have a length
    loader = DataLoader(images, batch_size=64, num_workers=num_workers, collate_fn=Batch.collate)
    with progress_bar(f"{doing} {count} images", count, done=0, shown=at_work()) as advance:
        for batch in loader:
            yield batch
            advance(len(batch))
