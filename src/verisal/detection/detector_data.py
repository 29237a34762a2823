"""Lightning data module of the detector: attacks, masks and splits, made once and then read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, final

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from verisal._numbers import check_range
from verisal.attacks import Attack
from verisal.data.annotated import ImageSplits
from verisal.data.decode import decode_image, resize_image
from verisal.data.files import find_images, left_out_words, no_image, path_text
from verisal.data.guard import ImageDigests, guard_classifier_data
from verisal.data.image_data import Processes, ShareSampler, more_than_a_batch
from verisal.detection.attacked_images import AttackedImages, GroupTable
from verisal.detection.sources import image_source
from verisal.detectors import DetectorFeatures
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import require_softmax
from verisal.models import ClassifierSource, load_classifier
from verisal.types import Batch, Sample, Split

__all__ = ["DetectorData"]

_STAGE_SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("det_fit", "det_val"),
    "validate": ("det_val",),
    "test": ("det_test",),
    "predict": (),
}
_logger = logging.getLogger(__name__)
_REPORTED: dict[str, Split] = {"val": "det_val", "test": "det_test"}


@dataclass(frozen=True)
class FeatureBatch:
    """Stored features of several images, as a detector reads them.

    Attributes:
        features: name to ``(B, ...)``.
        image_index: ``(B,)`` int64, position of the clean image in its split.
        group: ``(B,)`` int64, what was done to the image.
        target: ``(B,)`` float32, 1 for successful attacks.
    """

    features: Mapping[str, Tensor]
    image_index: Tensor
    group: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.group)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Copy of the batch on ``device``."""
        moved = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.features.items()}
        index, group, target = (
            tensor.to(device, non_blocking=non_blocking)
            for tensor in (self.image_index, self.group, self.target)
        )
        return replace(self, features=moved, image_index=index, group=group, target=target)


@final
class TableDataset(Dataset[FeatureBatch]):
    """Reads a whole batch of rows at once; the loader's collate function has nothing left to do."""

    def __init__(self, table: GroupTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> FeatureBatch:
        """One row as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        """The rows ``indices`` as one batch."""
        rows = torch.tensor(indices)
        return FeatureBatch(
            features={name: tensor[rows] for name, tensor in self.table.features.items()},
            image_index=self.table.image_index[rows],
            group=self.table.group[rows],
            target=self.table.target[rows],
        )


@final
class PhotographDataset(Dataset[Sample]):
    """Image files for ``predict``, decoded and brought to the classifier's size."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._paths, self._size = tuple(paths), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Image ``index``; label -1, since none is known."""
        image = resize_image(decode_image(self._paths[index]), self._size)
        nothing = torch.zeros(0, self._size, self._size, dtype=torch.bool)
        return Sample(
            image,
            -1,
            path_text(self._paths[index]),
            torch.zeros(0, dtype=torch.int64),
            nothing,
            torch.zeros(0, 4),
        )


@final
class DetectorData(L.LightningDataModule):
    """Clean, noisy and attacked images with their masks, split by image.

    ``det_fit``, ``det_val`` and ``det_test`` share no image, and none of them trained the classifier; a guard
    compares the images themselves. Everything is made on first use and kept under ``store``; a run that was
    killed continues, and other settings make another store beside it.

    Args:
        classifier: name of a shipped classifier, or path of an export.
        features: which masks, and what else of an image, detectors read.
        fit_attacks: name to attack, for fitting and validation.
        test_attacks: name to attack, for the test. Names become parts of metric names.
        noise: name to noise control, a negative in every split.
        fit_noise_like: attack of ``fit_attacks`` whose per-image L2 norms the Gaussian noise copies.
        test_noise_like: the same of ``test_attacks``.
        fit_count: images of ``det_fit``, all attacked.
        val_count: images of ``det_val``; FPR 1 % needs 1000 that are classified correctly.
        val_attacked_count: how many of them are attacked too.
        test_count: images of ``det_test``, all attacked.
        seed: of scenes, attacks and noise; images on disk have their own.
        store: folder of the stores, a path or a URL.
        batch_size: rows per training step.
        images: files or folders that ``predict`` scores.
        on_error: of a file among them that cannot be decoded: ``raise``, or ``skip`` it with a warning that
            names it.
        source: images on disk to fit, validate and test with, labelled; EmojiScenes without it.

    Raises:
        ConfigError: counts or names that do not fit.
        DataError: the source lacks images or labels.
    """

    def __init__(
        self,
        *,
        fit_attacks: dict[str, Attack],
        test_attacks: dict[str, Attack],
        noise: dict[str, Attack],
        fit_noise_like: str,
        test_noise_like: str,
        features: DetectorFeatures,
        classifier: str | ClassifierSource = "emoji_scenes_64",
        fit_count: int = 400,
        val_count: int = 1100,
        val_attacked_count: int = 200,
        test_count: int = 400,
        seed: int = 0,
        store: str = "data/store",
        batch_size: int = 64,
        images: Sequence[str] = (),
        on_error: Literal["raise", "skip"] = "raise",
        source: ImageSplits | None = None,
    ) -> None:
        super().__init__()
        check_range(
            1,
            fit_count=fit_count,
            val_count=val_count,
            val_attacked_count=val_attacked_count,
            test_count=test_count,
            batch_size=batch_size,
        )
        check_range(0, seed=seed)
        self.classifier = load_classifier(classifier)
        require_softmax(self.classifier, "detection of attacked images")
        # channels_last makes the CPU convolutions of masks and attacks about 1.4 times as fast.
        self.classifier.to(memory_format=torch.channels_last)
        self.features = features
        self._batch_size, self._images, self._on_error = batch_size, tuple(images), on_error
        counts: dict[Split, tuple[int, int]] = {
            "det_fit": (fit_count, fit_count),
            "det_val": (val_count, val_attacked_count),
            "det_test": (test_count, test_count),
        }
        self._scenes = {
            split: AttackedImages(
                self.classifier,
                image_source(source, split, count, classifier=self.classifier, seed=seed),
                attacked_count=attacked,
                attacks=test_attacks if split == "det_test" else fit_attacks,
                noise=noise,
                noise_like=test_noise_like if split == "det_test" else fit_noise_like,
                features=features,
                keep_failed=split != "det_fit",
                seed=seed,
                root=store,
            )
            for split, (count, attacked) in counts.items()
        }
        self._tables: dict[Split, GroupTable] = {}
        self._digests: dict[Split, ImageDigests] = {}
        self._photographs: PhotographDataset | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the gated stages."""
        return self.classifier.stages

    @property
    def positive_weight(self) -> float:
        """Weight of a fitted positive that makes both classes count the same."""
        target = self.table("det_fit").target[self._fitted_rows()]
        return float((1 - target).sum() / target.sum())

    def card(self) -> dict[str, object]:
        """What a detector's checkpoint must agree with."""
        return {
            "class_names": list(self.classifier.class_names),
            "image_size": self.classifier.image_size,
            "stages": list(self.stages),
            "classifier": state_hash(self.classifier),
            "features": self.features.settings(),
        }

    def setup(self, stage: str) -> None:
        """Make what is missing of the stage's splits, each process its share, and read them."""
        if stage == "predict":
            files = _image_files(self._images)
            if self._on_error == "skip":
                files = _readable(files)
            self._photographs = PhotographDataset(files, self.classifier.image_size)
            return
        # All three, whichever the stage reads: another process may have fitted on the others.
        guard_classifier_data(
            {split: partial(self._digests_of, split) for split in self._scenes}, self.classifier
        )
        for split in _STAGE_SPLITS[stage]:
            if split not in self._tables:
                self._scenes[split].fill(self._processes())
                self._tables[split] = self._scenes[split].table(self._feature_names())

    def digests(self, use: str) -> ImageDigests:
        """The clean images of a split, by the name of its use; those to predict are files."""
        if use == "predict":
            if self._photographs is None:
                raise ConfigError("setup('predict') has not run")
            loader = DataLoader(self._photographs, batch_size=16, collate_fn=Batch.collate)
            return ImageDigests.joined(
                [ImageDigests.of(round_to_8bit(batch.images), batch.image_ids) for batch in loader]
            )
        return self._digests_of({"fit": "det_fit", **_REPORTED}[use])

    def _digests_of(self, split: Split) -> ImageDigests:
        if split not in self._digests:
            self._digests[split] = self._scenes[split].digests()
        return self._digests[split]

    def table(self, split: Split) -> GroupTable:
        """All rows of a split that ``setup`` has loaded."""
        return self._tables[split]

    def clean_fit_batch(self) -> FeatureBatch:
        """All clean images of the fit split, for standardising inputs."""
        table = self.table("det_fit")
        rows = (table.group == table.groups.index("clean")).nonzero()[:, 0].tolist()
        return TableDataset(table).__getitems__(rows)

    def image_id(self, split: str, index: int) -> str:
        """Name of a clean image of the ``val`` or ``test`` split."""
        return self._scenes[_REPORTED[split]].image_id(index)

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        """Shuffled rows of the fit split: clean and noisy images, and the attacks that succeeded."""
        rows = self._fitted_rows().tolist()
        dataset = torch.utils.data.Subset(TableDataset(self.table("det_fit")), rows)
        # A short last batch would have poor batch statistics; below one batch it is all there is.
        whole_batches = more_than_a_batch(len(rows), self._batch_size, self._processes())
        return DataLoader(
            dataset, batch_size=self._batch_size, shuffle=True, drop_last=whole_batches, collate_fn=_whole
        )

    def val_dataloader(self) -> DataLoader[FeatureBatch]:
        """All rows of the validation split."""
        return self._evaluation_loader("det_val")

    def test_dataloader(self) -> DataLoader[FeatureBatch]:
        """All rows of the test split."""
        return self._evaluation_loader("det_test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The photographs."""
        if self._photographs is None:
            raise ConfigError("setup('predict') has not run")
        sampler = ShareSampler(self._photographs, self._processes())
        return DataLoader(self._photographs, batch_size=16, sampler=sampler, collate_fn=Batch.collate)

    def _fitted_rows(self) -> Tensor:
        """Rows of the fit split that are trained on: all but failed attacks, which are neither class."""
        table = self.table("det_fit")
        failed = torch.tensor([table.roles[name] == "failed" for name in table.groups])
        return (~failed[table.group]).nonzero()[:, 0]

    def _evaluation_loader(self, split: Split) -> DataLoader[FeatureBatch]:
        dataset = TableDataset(self.table(split))
        sampler = ShareSampler(dataset, self._processes())
        return DataLoader(dataset, batch_size=256, sampler=sampler, collate_fn=_whole)

    def _feature_names(self) -> list[str]:
        stages, made = len(self.stages), self.features
        return [
            *made.mask_names(stages),
            *made.gated_names(stages),
            *made.activation_names(stages),
            *made.gradient_names(),
            *made.scalar_names(),
            "image",
        ]

    def _processes(self) -> Processes:
        return Processes.of(self.trainer)


def _whole(batch: Any) -> FeatureBatch:  # noqa: ANN401 - Lightning's loaders promise a list of samples
    whole: FeatureBatch = batch
    return whole


def _image_files(sources: Sequence[str]) -> list[Path]:
    if not sources:
        raise ConfigError("predict needs images: add --data.images='[PATH, ...]' (files or folders)")
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = find_images(source)
            if not found.paths:
                raise no_image(source, found.left_out)
            if words := left_out_words(found.left_out):
                _logger.warning("%s: %s", source, words)
            files += found.paths
        elif source.is_file():
            files.append(source)
        else:
            raise DataError(f"image {source} does not exist")
    return files


def _readable(files: Sequence[Path]) -> list[Path]:
    kept: list[Path] = []
    for path in files:
        try:
            decode_image(path)
        except DataError as error:
            _logger.warning("left out: %s", error)
        else:
            kept.append(path)
    if not kept:
        raise DataError(f"none of the {len(files)} images can be decoded")
    return kept
