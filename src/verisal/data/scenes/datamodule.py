"""Lightning data modules of the embedded data."""

from __future__ import annotations

from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from verisal._numbers import check_range
from verisal.data.guard import ImageDigests
from verisal.data.scenes.emoji import LARGEST_SCENE, SMALLEST_SCENE, EmojiScenes
from verisal.data.shares import Processes, ShareSampler, more_than_a_batch
from verisal.errors import ConfigError
from verisal.types import Batch, Sample, Split

__all__ = ["SceneData"]

_TEST_COUNT = 4_000


@final
class RenderedScenes(Dataset[Sample]):
    """Scenes rendered once and kept as 8-bit images, for epochs that read each of them many times.

    Args:
        scenes: what is rendered.
        num_workers: processes that render.
        objects: whether classes, masks and boxes of the objects are kept; training does not read them.
    """

    def __init__(self, scenes: EmojiScenes, *, num_workers: int, objects: bool) -> None:
        loader: DataLoader[Any] = DataLoader(
            scenes, batch_size=64, num_workers=num_workers, collate_fn=Batch.collate
        )
        images, labels, self._ids = [], [], []
        self._objects: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in loader:
            images.append((batch.images * 255).round().to(torch.uint8))
            labels.append(batch.labels)
            self._ids += batch.image_ids
            if objects:
                self._objects += zip(batch.object_labels, batch.object_masks, batch.boxes, strict=True)
        self._images, self._labels = torch.cat(images), torch.cat(labels)
        self._empty = (
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, scenes.size, scenes.size, dtype=torch.bool),
            torch.zeros(0, 4),
        )

    def __len__(self) -> int:
        return len(self._labels)

    def digests(self) -> ImageDigests:
        """What the images are known by."""
        return ImageDigests.of(self._images, self._ids)

    def __getitem__(self, index: int) -> Sample:
        """Image and label, with its objects where they are kept."""
        image = self._images[index] / 255
        objects = self._objects[index] if self._objects else self._empty
        return Sample(image, int(self._labels[index]), self._ids[index], *objects)


@final
class SceneData(L.LightningDataModule):
    """EmojiScenes: ``cls_train`` to train, ``val_split`` to validate, ``det_test`` to test.

    Args:
        train_count: training scenes, rendered once.
        val_count: validation scenes.
        test_count: test scenes; None for 4000, or for the validation's own where both read ``det_test``.
        val_split: part of the data that validation reads; the classifier's own one by default.
        image_size: side in pixels.
        seed: of the data set.
        batch_size: images per step.
        num_workers: processes that render.

    Raises:
        ConfigError: ``det_test`` to validate and to test, with different counts.
    """

    def __init__(
        self,
        *,
        train_count: int = 24_000,
        val_count: int = 2_000,
        test_count: int | None = None,
        val_split: Literal["cls_val", "det_val", "det_test"] = "cls_val",
        image_size: int = 64,
        seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 2,
    ) -> None:
        super().__init__()
        check_range(1, train_count=train_count, val_count=val_count, test_count=test_count)
        check_range(1, batch_size=batch_size)
        check_range(0, seed=seed, num_workers=num_workers)
        check_range(SMALLEST_SCENE, LARGEST_SCENE, image_size=image_size)
        if test_count is None:
            test_count = val_count if val_split == "det_test" else _TEST_COUNT
        if val_split == "det_test" and val_count != test_count:
            raise ConfigError(
                "validation and test read the same scenes, so val_count and test_count must be equal; found"
                f" {val_count} and {test_count}; leave test_count out"
            )
        self.val_split: Split = val_split
        self.counts: dict[Split, int] = {
            "cls_train": train_count,
            val_split: val_count,
            "det_test": test_count,
        }
        self.image_size, self.seed = image_size, seed
        self.batch_size, self.num_workers = batch_size, num_workers
        self.class_names = EmojiScenes("cls_train", 1, seed=seed, size=image_size).class_names
        self._rendered: dict[Split, RenderedScenes] = {}

    def setup(self, stage: str) -> None:
        """Render the splits that the stage reads."""
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("cls_train", self.val_split),
            "validate": (self.val_split,),
            "test": ("det_test",),
            "predict": ("det_test",),
        }
        for split in splits[stage]:
            self._render(split)

    def _render(self, split: Split) -> RenderedScenes:
        if split not in self._rendered:
            scenes = EmojiScenes(split, self.counts[split], seed=self.seed, size=self.image_size)
            self._rendered[split] = RenderedScenes(
                scenes, num_workers=self.num_workers, objects=split != "cls_train"
            )
        return self._rendered[split]

    def digests(self, use: str) -> ImageDigests:
        """The scenes that ``fit``, ``val`` or ``test`` reads."""
        splits: dict[str, Split] = {"fit": "cls_train", "val": self.val_split, "test": "det_test"}
        return self._render(splits[use]).digests()

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training scenes."""
        scenes = self._rendered["cls_train"]
        return DataLoader(
            scenes,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=more_than_a_batch(len(scenes), self.batch_size, Processes.of(self.trainer)),
            collate_fn=Batch.collate,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation scenes in order."""
        return self._loader(self.val_split)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test scenes in order."""
        return self._loader("det_test")

    def _loader(self, split: Split) -> DataLoader[Any]:
        scenes = self._rendered[split]
        sampler = ShareSampler(scenes, Processes.of(self.trainer))
        return DataLoader(scenes, batch_size=self.batch_size, sampler=sampler, collate_fn=Batch.collate)
