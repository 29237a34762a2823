"""Lightning data module of the transfer study: many attacks in families, measured by many detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from verisal._numbers import check_range
from verisal.attacks import Attack
from verisal.data.annotated import ImageSplits
from verisal.data.guard import guard_classifier_data
from verisal.data.image_data import Processes, ShareSampler
from verisal.detection.attacked_images import AttackedImages, GroupTable
from verisal.detection.families import Families
from verisal.detection.sources import image_source
from verisal.detectors import Measurement
from verisal.errors import ConfigError
from verisal.fingerprint import state_hash
from verisal.functional.outputs import require_softmax
from verisal.models import ClassifierSource, load_classifier
from verisal.store import FeatureStore

__all__ = ["TransferData"]

Part = Literal["det_fit", "det_val", "det_test"]
_PARTS: tuple[Part, ...] = ("det_fit", "det_val", "det_test")


@final
class TransferData(L.LightningDataModule):
    """Clean, noisy and attacked images of three splits, and what detectors measure of them.

    Attacks of the fit split are those that some fit names; the test split has all; the validation split is
    clean alone, since nothing but thresholds is taken from it. Images, and what each measurement gives, are
    computed once and kept under ``store``, where the detectors' scores are kept too: a study that was killed
    goes on, and one that adds a detector computes that detector.

    Args:
        attacks: name to attack.
        families: family to the names of its attacks; every attack belongs to one.
        fits: name of a fit to the attacks that detectors are fitted on.
        noise: name to a noise control or benign corruption, a negative in fit and test.
        noise_like: attack whose L2 norm per image the Gaussian noise ``noise_l2`` copies; must be fitted.
        merged: families that the stricter columns count as one.
        classifier: name of a shipped classifier, or path of an export.
        fit_noise: which of ``noise`` detectors are fitted on, besides ``noise_l2``.
        fit_count: images of ``det_fit``, all attacked.
        val_count: images of ``det_val``; FPR 1 % needs 1000 that are classified correctly.
        test_count: images of ``det_test``, all attacked.
        seed: of scenes, attacks and noise; images on disk have their own.
        store: folder of the stores, a path or a URL.
        source: images on disk, labelled; EmojiScenes without it.

    Raises:
        ConfigError: names that do not fit each other.
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
        merged: Sequence[str] = (),
        fit_noise: Sequence[str] = (),
        classifier: str | ClassifierSource = "emoji_scenes_64",
        fit_count: int = 360,
        val_count: int = 1100,
        test_count: int = 300,
        seed: int = 0,
        store: str = "data/store",
        source: ImageSplits | None = None,
    ) -> None:
        super().__init__()
        check_range(1, fit_count=fit_count, val_count=val_count, test_count=test_count)
        check_range(0, seed=seed)
        self.families = Families(families, fits, tuple(merged))
        grouped = {name for names in families.values() for name in names}
        if grouped != set(attacks):
            raise ConfigError(
                f"every attack must stand in one family; without a family: {sorted(set(attacks) - grouped)},"
                f" not defined: {sorted(grouped - set(attacks))}"
            )
        fitted = {name for names in fits.values() for name in names}
        if unknown := sorted(set(fit_noise) - set(noise)):
            raise ConfigError(f"fit_noise names {unknown}; noise has {sorted(noise)}")
        if noise_like not in fitted:
            raise ConfigError(f"noise_like must be a fitted attack, {sorted(fitted)}, found {noise_like!r}")
        self.classifier = load_classifier(classifier)
        require_softmax(self.classifier, "detection of attacked images")
        # channels_last makes the CPU convolutions of masks and attacks about 1.4 times as fast.
        self.classifier.to(memory_format=torch.channels_last)
        self._made: dict[Part, tuple[Mapping[str, Attack], Mapping[str, Attack], str | None]] = {
            "det_fit": (
                {name: attack for name, attack in attacks.items() if name in fitted},
                {name: noise[name] for name in fit_noise},
                noise_like,
            ),
            "det_val": ({}, {}, None),
            "det_test": (attacks, noise, noise_like),
        }
        self._seed, self._root = seed, store
        counts = dict(zip(_PARTS, (fit_count, val_count, test_count), strict=True))
        self._sources = {
            part: image_source(source, part, count, classifier=self.classifier, seed=seed)
            for part, count in counts.items()
        }
        self._cells, self._processes = range(0), Processes()
        self._key = {
            "classifier": state_hash(self.classifier),
            "counts": list(counts.values()),
            "attacks": {name: attack.settings() for name, attack in attacks.items()},
            "noise": {name: attack.settings() for name, attack in noise.items()},
            "fit_noise": sorted(fit_noise),
            "noise_like": noise_like,
            "seed": seed,
        }
        if source is not None:
            self._key["images"] = [dict(images.identity()) for images in self._sources.values()]

    def images(self, part: Part, measurement: Measurement) -> AttackedImages:
        """Images of a split with a measurement of them; nothing is computed yet."""
        attacks, noise, noise_like = self._made[part]
        return AttackedImages(
            self.classifier,
            self._sources[part],
            attacked_count=len(self._sources[part]),
            attacks=attacks,
            noise=noise,
            noise_like=noise_like,
            features=measurement,
            keep_failed=part == "det_test",
            seed=self._seed,
            root=self._root,
        )

    def measure(self, measurements: Sequence[Measurement], processes: Processes) -> None:
        """Check the splits, then compute what is missing of all of them, each process its share.

        Raises:
            DataError: a clean image stands in two splits, or trained the classifier.
        """
        guard_classifier_data(
            {part: self.images(part, measurements[0]).digests for part in _PARTS}, self.classifier
        )
        for measurement in measurements:
            for part in _PARTS:
                self.images(part, measurement).fill(processes)

    def plan(self, cells: int, processes: Processes) -> None:
        """Say how many cells there are for the test to go through, and who takes part."""
        self._cells, self._processes = range(cells), processes

    def test_dataloader(self) -> DataLoader[int]:
        """Numbers of this process's cells, one a batch."""
        sampler = ShareSampler(self._cells, self._processes)
        return DataLoader(self._cells, batch_size=1, sampler=sampler)  # type: ignore[arg-type]  # a range will do

    def table(self, part: Part, measurement: Measurement) -> GroupTable:
        """Rows of a split that :meth:`measure` has made, with all that the measurement gives."""
        return self.images(part, measurement).table(None)

    def image_id(self, part: Part, index: int) -> str:
        """Name of a clean image of a split."""
        return self._sources[part].image_id(index)

    def labels(self, part: Part, indices: Tensor) -> Tensor:
        """True classes ``(N,)`` of clean images of a split, by their positions."""
        images = self._sources[part]
        return torch.tensor([images[index].label for index in indices.tolist()], dtype=torch.int64)

    def score_store(self, name: str, key: Mapping[str, Any]) -> FeatureStore:
        """Where scores of one fitted detector are kept; ``key`` says how it was made and fitted."""
        return FeatureStore(self._root, key={**self._key, **key}, prefix=f"scores-{name}", shard_size=1)

    def scores(self, store: FeatureStore, compute: Callable[[], dict[str, Tensor]]) -> None:
        """Compute and keep one fitted detector's scores, unless they are there."""
        if not store.complete:
            store.fill(lambda _: {name: value[None] for name, value in compute().items()}, 1, progress=False)
