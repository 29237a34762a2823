"""Lightning data module of detectors: attacked images and measurements of three splits, made once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from verisal.attacks import Attack
from verisal.data.annotated import AnnotatedImages, DiskSplit, ImageSplits
from verisal.data.decode import resize_image
from verisal.data.dicom import Window, check_window
from verisal.data.files import find_images, left_out_words, no_image, path_text
from verisal.data.guard import ImageDigests, guard_classifier_data
from verisal.data.image_data import Processes, ShareSampler, more_than_a_batch
from verisal.data.reading import ChannelRule, ImageReader
from verisal.data.scenes.emoji import EmojiScenes
from verisal.detection.attacked_images import AttackedImages
from verisal.detection.families import Families, checked_names
from verisal.detection.groups import CLEAN, GroupTable, ImageSource
from verisal.detection.table import highest_threshold
from verisal.detectors import Measurement
from verisal.detectors.measurements import measure_each
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import require_softmax
from verisal.models import Classifier, ClassifierSource, load_classifier
from verisal.models.bounds import UNIT
from verisal.models.sources.zoo import side_or_both
from verisal.progress import work
from verisal.store import FeatureStore
from verisal.types import Batch, Sample, Split, check_range

SPLITS: dict[Split, DiskSplit] = {"det_fit": "fit", "det_val": "val", "det_test": "test"}
"""Splits of a detector, and what reports and images on disk call them."""

_logger = logging.getLogger(__name__)


@final
class PhotographDataset(Dataset[Sample]):
    """Image files for ``predict``, decoded and brought to the classifier's size."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], reader: ImageReader) -> None:
        self._paths, self._size, self._reader = tuple(paths), size, reader

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        """Image ``index``; label -1, since none is known."""
        path, size = self._paths[index], self._size
        nothing = torch.zeros(0, dtype=torch.int64)
        masks, boxes = torch.zeros(0, *size, dtype=torch.bool), torch.zeros(0, 4)
        return Sample(resize_image(self._reader(path), size), -1, path_text(path), nothing, masks, boxes)


@final
class DetectorData(L.LightningDataModule):
    """Clean, noisy and attacked images of three splits, and what is measured of them.

    The splits share no image, and none of their images trained the classifier; a guard compares the images
    themselves. ``det_fit`` and ``det_val`` are attacked by what some fit names, ``det_test`` by everything.
    What is measured is asked for by the task's detectors. Images, measurements and scores are made on first
    use and kept under ``store``: a run that was killed goes on, and other settings make another store.

    Args:
        attacks: name to attack. Names become parts of metric names.
        families: family to the names of its attacks; every attack belongs to one.
        fits: name of a fit to the attacks that detectors are fitted on.
        noise: name to a noise control or benign corruption, a negative.
        noise_like: fitted attack whose per-image L2 norms the Gaussian noise ``noise_l2`` copies.
        test_noise_like: the attack that it copies in the test; None for the same. A list makes noise for
            each of its attacks, ``noise_l2_<attack>``, mostly of norms that were not fitted, and its score
            against that noise, ``auroc_against_noise``.
        fit_noise: which of ``noise`` detectors are fitted on and validated with, besides ``noise_l2``; None
            for all. The test has all.
        threshold_noise: names of ``noise`` for which thresholds hold as well: all validation images are
            changed by them, too, and the highest threshold counts.
        near_border: how many images near the decision border detectors are fitted on beside every fitted
            attacked image, 0 to 3; see :class:`.AttackedImages`. They cost five forward passes each and what
            is measured of them, and no attack more. They are neither validated nor tested with.
        merged: families that the stricter columns count as one.
        classifier: name of a shipped classifier, or path of an export.
        fit_count: images of ``det_fit``, all attacked.
        val_count: images of ``det_val``; FPR 1 % needs 1000 that are classified correctly.
        val_attacked_count: how many of them are attacked and made noisy too; 0 for thresholds alone.
        test_count: images of ``det_test``, all made noisy: what false alarms are counted on.
        test_attacked_count: how many of them are attacked; None for all. Attacks take most of the time.
        seed: of scenes, attacks and noise; images on disk have their own.
        store: folder of the stores, a path or a URL.
        batch_size: rows per training step.
        images: files or folders that ``predict`` scores.
        on_error: of a file among them that cannot be decoded: ``raise``, or ``skip`` it with a warning that
            names it.
        channel_rule: what is done with a file among ``images`` that has other channels than the classifier
            takes; see :class:`.ImageReader`. ``source`` has its own.
        window: of DICOM files among ``images``; see :class:`.ImageReader`.
        source: images on disk to fit, validate and test with, labelled; EmojiScenes without it.

    Raises:
        ConfigError: counts or names that do not fit.
        DataError: the source lacks images or labels.
    """

    def __init__(
        self,
        *,
        attacks: dict[str, Attack],
        families: dict[str, list[str]],
        fits: dict[str, list[str]],
        noise: dict[str, Attack],
        noise_like: str,
        test_noise_like: str | Sequence[str] | None = None,
        fit_noise: Sequence[str] | None = None,
        threshold_noise: Sequence[str] = (),
        near_border: int = 0,
        merged: Sequence[str] = (),
        classifier: str | ClassifierSource = "emoji_scenes_64",
        fit_count: int = 360,
        val_count: int = 1100,
        val_attacked_count: int = 200,
        test_count: int = 300,
        test_attacked_count: int | None = None,
        seed: int = 0,
        store: str = "data/store",
        batch_size: int = 64,
        images: Sequence[str] = (),
        on_error: Literal["raise", "skip"] = "raise",
        channel_rule: ChannelRule | None = None,
        window: Window | None = None,
        source: ImageSplits | None = None,
    ) -> None:
        super().__init__()
        check_range(1, fit_count=fit_count, val_count=val_count, test_count=test_count, batch_size=batch_size)
        check_range(0, val_attacked_count=val_attacked_count, near_border=near_border, seed=seed)
        test_attacked_count = test_count if test_attacked_count is None else test_attacked_count
        check_range(1, test_attacked_count=test_attacked_count)
        if window not in (None, "file"):
            check_window(window)
        self.families = Families(families, fits, tuple(merged))
        fitted = checked_names(
            attacks, families, fits, noise, noise_like, [*(fit_noise or ()), *threshold_noise]
        )
        self.classifier = load_classifier(classifier)
        require_softmax(self.classifier, "detection of attacked images")
        # channels_last makes the CPU convolutions of masks and attacks about 1.4 times as fast.
        self.classifier.to(memory_format=torch.channels_last)
        self._batch_size, self._images, self._on_error = batch_size, tuple(images), on_error
        self._reader = ImageReader.of(self.classifier, rule=channel_rule, window=window)
        self.threshold_noise = tuple(threshold_noise)
        learned = [*noise] if fit_noise is None else [name for name in noise if name in fit_noise]
        all_noisy = ("det_test", "det_val") if threshold_noise else ("det_test",)
        # Fitted noise is validated beside attacks alone.
        seen: dict[Split, list[str]] = {
            "det_fit": learned,
            "det_val": [*(learned if val_attacked_count else ()), *threshold_noise],
            "det_test": [*noise],
        }
        counts: dict[Split, tuple[int, int]] = {
            "det_fit": (fit_count, fit_count),
            "det_val": (val_count, val_attacked_count),
            "det_test": (test_count, test_attacked_count),
        }
        self._splits = {
            split: AttackedImages(
                self.classifier,
                image_source(source, split, count, classifier=self.classifier, seed=seed),
                attacked_count=attacked,
                noise_count=count if split in all_noisy else attacked,
                attacks=attacks if split == "det_test" else {name: attacks[name] for name in fitted},
                noise={name: noise[name] for name in noise if name in seen[split]},
                noise_like=(test_noise_like or noise_like) if split == "det_test" else noise_like,
                keep_failed=split != "det_fit",
                near_border=near_border if split == "det_fit" else 0,
                seed=seed,
                root=store,
            )
            for split, (count, attacked) in counts.items()
        }
        self._root = store
        self._key = {
            "classifier": state_hash(self.classifier),
            "counts": [list(pair) for pair in counts.values()],
            "attacks": {name: attack.settings() for name, attack in attacks.items()},
            "noise": {name: attack.settings() for name, attack in noise.items()},
            "fit_noise": sorted(learned),
            "noise_like": [noise_like, test_noise_like or noise_like],
            "seed": seed,
        }
        if near_border:
            self._key["near_border"] = near_border
        if threshold_noise:
            self._key["threshold_noise"] = sorted(threshold_noise)
        if source is not None:
            self._key["images"] = [dict(split.source.identity()) for split in self._splits.values()]
        self._groups: dict[Split, GroupTable] = {}
        self._digests: dict[Split, ImageDigests] = {}
        self._photographs: PhotographDataset | None = None
        self._steps: dict[str, int] = {}
        self._asked: list[tuple[Split, tuple[Measurement, ...]]] = []

    def card(self) -> dict[str, object]:
        """Facts that a detector's checkpoint must agree with."""
        return {
            "class_names": list(self.classifier.class_names),
            "image_size": side_or_both(self.classifier),
            "stages": list(self.classifier.stages),
            "classifier": state_hash(self.classifier),
        }

    def setup(self, stage: str) -> None:
        """Check the splits, whichever the stage reads: another process may have fitted on the others."""
        if stage != "predict":
            digests: dict[str, Callable[[], ImageDigests]] = {
                split: partial(self._digests_of, split) for split in self._splits
            }
            guard_classifier_data(digests, self.classifier)
            return
        files = _image_files(self._images)
        if self._on_error == "skip":
            files = _readable(files, self._reader)
        self._photographs = PhotographDataset(files, self.classifier.height_and_width, self._reader)

    def measure(self, splits: Sequence[Split], measurements: Sequence[Measurement]) -> None:
        """Attack and measure what is missing of some splits, each process its share."""
        shown = self.processes.rank == 0
        chosen = [self._splits[split] for split in splits]
        # What refuses the classifier says so before the attacks, which take minutes.
        planned_of = {images: images.steps(measurements) for images in chosen}
        if first := next((images for images, steps in planned_of.items() if steps), None):
            measure_each(measurements, self.classifier, first.source[0].image[None])
        with work([step for steps in planned_of.values() for step in steps], shown=shown) as planned:
            for images in chosen:
                images.fill(self.processes, measurements, progress=planned)
        self._asked += [(split, tuple(measurements)) for split in splits]

    def used_stores(self) -> dict[str, str]:
        """Name of each store that :meth:`measure` has read or made, to its path or URL."""
        found: dict[str, str] = {}
        for split, measurements in self._asked:
            found |= self._splits[split].stores(measurements)
        return found

    def groups(self, split: Split) -> GroupTable:
        """All rows of a split that :meth:`measure` has made; their order is that of every measurement."""
        if split not in self._groups:
            self._groups[split] = self._splits[split].groups()
        return self._groups[split]

    @property
    def threshold_groups(self) -> list[int]:
        """Numbers of the groups of ``det_val`` that thresholds hold for, the clean one first."""
        return [self.groups("det_val").groups.index(name) for name in (CLEAN, *self.threshold_noise)]

    def threshold(self, scores: Tensor, rate: float) -> float | None:
        """Of a row's scores ``(N,)`` of ``det_val``; None where there are too few images for the rate."""
        group = self.groups("det_val").group
        return highest_threshold([scores[group == number] for number in self.threshold_groups], rate)

    def measured(self, split: Split, measurement: Measurement) -> dict[str, Tensor]:
        """Measurements of all rows of a split, read anew at every call."""
        return self._splits[split].measured(measurement)

    def image_id(self, split: Split, index: int) -> str:
        """Name of a clean image of a split."""
        return self._splits[split].image_id(index)

    def example(self) -> tuple[str, Tensor] | None:
        """Name and image ``(C, H, W)`` in [0, 1] of the first test image; None where a picture is no such."""
        sample = self._splits["det_test"].source[0]
        pictured = self.classifier.channels in (1, 3) and self.classifier.bounds == UNIT
        return (sample.image_id, sample.image) if pictured else None

    def digests(self, use: str) -> ImageDigests:
        """The clean images of a split, by the name of its use; those to predict are files."""
        if use != "predict":
            return self._digests_of(next(split for split, name in SPLITS.items() if name == use))
        loader = DataLoader(self._files, batch_size=16, collate_fn=Batch.collate)
        return ImageDigests.joined(
            [ImageDigests.of(round_to_8bit(batch.images), batch.image_ids) for batch in loader]
        )

    def _digests_of(self, split: Split) -> ImageDigests:
        if split not in self._digests:
            self._digests[split] = self._splits[split].digests()
        return self._digests[split]

    def score_store(self, name: str, key: Mapping[str, Any]) -> FeatureStore:
        """Store of the scores of one fitted detector; ``key`` says how it was made and fitted."""
        return FeatureStore(self._root, key={**self._key, **key}, prefix=f"scores-{name}", shard_size=1)

    def scores(self, store: FeatureStore, compute: Callable[[], dict[str, Tensor]]) -> None:
        """Compute and keep one fitted detector's scores, unless they are there."""
        if not store.complete:
            store.fill(lambda _: {name: value[None] for name, value in compute().items()}, 1, progress=False)

    def plan(self, stage: Literal["fit", "test"], steps: int) -> None:
        """Let an epoch of a stage go through so many numbers: of fitted rows, or of the cells of a study."""
        self._steps[stage] = steps

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of the fitted rows, which the task puts in order."""
        count = self._steps["fit"]
        # A short last batch would have poor batch statistics; below one batch it is all there is.
        whole = more_than_a_batch(count, self._batch_size, self.processes)
        return DataLoader(range(count), batch_size=self._batch_size, drop_last=whole)  # type: ignore[arg-type]  # a range will do

    def val_dataloader(self) -> DataLoader[int]:
        """Numbers of the rows of the validation split."""
        return self._loader(len(self.groups("det_val")), 256)

    def test_dataloader(self) -> DataLoader[int]:
        """Numbers of the rows of the test split; those of the cells of a study, one a batch."""
        cells = self._steps.get("test")
        return self._loader(len(self.groups("det_test")), 256) if cells is None else self._loader(cells, 1)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The photographs."""
        sampler = ShareSampler(self._files, self.processes)
        return DataLoader(self._files, batch_size=16, sampler=sampler, collate_fn=Batch.collate)

    @property
    def processes(self) -> Processes:
        """Those that share the work."""
        return Processes.of(self.trainer)

    @property
    def _files(self) -> PhotographDataset:
        if self._photographs is None:
            raise ConfigError("setup('predict') has not run")
        return self._photographs

    def _loader(self, count: int, batch_size: int) -> DataLoader[int]:
        rows = range(count)
        sampler = ShareSampler(rows, self.processes)
        return DataLoader(rows, batch_size=batch_size, sampler=sampler)  # type: ignore[arg-type]  # a range will do


def image_source(
    splits: ImageSplits | None, split: Split, count: int, *, classifier: Classifier, seed: int
) -> ImageSource:
    """The first ``count`` images of a split, as the classifier takes them; scenes without ``splits``."""
    if splits is None:
        return EmojiScenes(split, count, seed=seed, size=classifier.image_size)
    images = AnnotatedImages(splits, SPLITS[split], classifier=classifier, count=count)
    if -1 in images.labels:
        first = images.image_id(images.labels.index(-1))
        raise DataError(
            f"split {images.split} has images without a label, e.g. {first}; attacks need labels: give"
            " classes by folders or annotations"
        )
    return images


def _image_files(sources: Sequence[str]) -> list[Path]:
    if not sources:
        raise ConfigError("predict needs images: add --data.images='[PATH, ...]' (files or folders)")
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            listing = find_images(source)
            if not listing.paths:
                raise no_image(source, listing.left_out)
            if words := left_out_words(listing.left_out):
                _logger.warning("%s: %s", source, words)
            files += listing.paths
        elif source.is_file():
            files.append(source)
        else:
            raise DataError(f"image {source} does not exist")
    return files


def _readable(files: Sequence[Path], reader: ImageReader) -> list[Path]:
    kept: list[Path] = []
    for path in files:
        try:
            reader(path)
        except DataError as error:
            _logger.warning("left out: %s", error)
        else:
            kept.append(path)
    if not kept:
        raise DataError(f"none of the {len(files)} images can be decoded")
    return kept
