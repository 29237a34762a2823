"""Trained detectors as runs, checkpoints and exports keep them, and the alarm that one of them raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.checkpoint import CARD_KEY, load_checkpoint, load_export
from verisal.detectors import Detector
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash
from verisal.models import Classifier

EXPORT = "model.safetensors"
"""File name of an export's tensors; the card beside it has the suffix ``.json``."""

_RATES = ("FPR 5 %", "FPR 1 %")


@final
@dataclass(frozen=True)
class Verdicts:
    """One entry per image.

    Attributes:
        scores: higher is more adversarial.
        alarms: True if the score is above the threshold.
        words: both as a reader wants them.
    """

    scores: tuple[float, ...]
    alarms: tuple[bool, ...]
    words: tuple[str, ...]


@final
@dataclass(frozen=True)
class Alarm:
    """A fitted detector beside the classifier that it was fitted for, with its threshold."""

    detector: Detector
    classifier: Classifier
    threshold: float

    def __call__(self, images: Tensor) -> Verdicts:
        """Judge ``images (B, 3, H, W)`` in [0, 1]."""
        with torch.no_grad():
            judged = self.detector.judge(self.detector.measurement(self.classifier, images))
        scores = tuple(judged.tolist())
        alarms = tuple(score > self.threshold for score in scores)
        return Verdicts(scores, alarms, tuple(self._words(score) for score in scores))

    def _words(self, score: float) -> str:
        if score != score:
            return "NO VERDICT: the detector has no score for this image"
        said = "ALARM: adversarial" if score > self.threshold else "no alarm"
        return f"{said}, score {score:z.2f} (alarm above {self.threshold:z.2f})"


@final
@dataclass(frozen=True)
class DetectorFile:
    """Everything that scoring an image needs besides the classifier.

    Attributes:
        path: of the file, for messages.
        card: of the task.
        settings: name of the ``head``, and the recipes of all ``detectors`` by row.
        tensors: what was learned, ``detectors.<row>.<name>``, and the thresholds of the rows.
    """

    path: Path
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    __repr__ = brief

    def thresholds(self) -> dict[str, dict[str, float | None]]:
        """Row to false positive rate to threshold; None where clean validation images were too few."""
        columns = zip(
            self.card["rows"],
            self.tensors["thresholds"].tolist(),
            self.tensors["supported"].tolist(),
            strict=True,
        )
        return {
            row: {rate: at if known else None for rate, at, known in zip(_RATES, values, flags, strict=True)}
            for row, values, flags in columns
        }

    def detector(self, row: str, device: torch.device | str = "cpu") -> Detector:
        """The fitted detector of a row.

        Raises:
            CheckpointError: a class that files may not name, settings that do not belong to the card, or a
                state that is not the detector's.
        """
        try:
            detector = Detector.from_recipe(self.settings["detectors"][row])
            if detector.state_settings() != self.card["detectors"][row]:
                raise ConfigError("the settings beside it make another detector than was trained")
            start = f"detectors.{row}."
            detector.restore(
                {n.removeprefix(start): t.to(device) for n, t in self.tensors.items() if n.startswith(start)}
            )
        except ConfigError as error:
            raise CheckpointError(f"{self.path}, {row}: {error}") from None
        return detector

    def alarm(self, classifier: Classifier) -> Alarm:
        """The detector of the head with its threshold for FPR 5 %.

        Raises:
            CheckpointError: as of :meth:`detector`; or made for another classifier.
            ConfigError: no threshold.
        """
        self._check_classifier(classifier)
        head = self.settings["head"]
        threshold = self.thresholds()[head][_RATES[0]]
        if threshold is None:
            raise ConfigError(
                f"{self.path} has no threshold for FPR 5 %: it was trained with too few clean validation"
                " images; train with a larger data.val_count"
            )
        return Alarm(self.detector(head, classifier.mean.device), classifier, threshold)

    def _check_classifier(self, classifier: Classifier) -> None:
        card = self.card
        names, known = list(classifier.class_names), card.get("class_names", [])
        size, stages = classifier.image_size, list(classifier.stages)
        different = [
            words
            for words, differs in (
                (f"{len(known)} class names, others than the {len(names)} of this one", known != names),
                (f"images of {card.get('image_size')} px, not {size}", card.get("image_size") != size),
                (f"stages {card.get('stages')}, not {stages}", card.get("stages") != stages),
                ("other weights", card.get("classifier") != state_hash(classifier)),
            )
            if differs
        ]
        if different:
            raise CheckpointError(
                f"{self.path} was trained beside another classifier: {'; '.join(different)};"
                " give --classifier the one that its run used"
            )


def trained_file(path: Path) -> Path:
    """The file with the weights in a run's or an export's folder, or the file itself.

    Raises:
        ConfigError: nothing of the kind.
    """
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; give the folder of a run that `verisal fit` wrote, or of an export by"
            " `verisal export`"
        )
    inside = (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", path / EXPORT)
    files = [path] if path.is_file() else [file for file in inside if file.is_file()]
    if not files or files[0].suffix not in (".ckpt", ".safetensors"):
        raise ConfigError(
            f"{path} is no run, checkpoint (.ckpt) or export (.safetensors); give the folder that"
            " `verisal fit` or `verisal export` wrote"
        )
    return files[0]


def read_detector(path: Path) -> DetectorFile:
    """Read the detectors of a run, of one of its checkpoints, or of an export.

    Raises:
        ConfigError: no such file.
        CheckpointError: a damaged file, one of another task, or one of an earlier version.
    """
    file = trained_file(path)
    if file.suffix == ".safetensors":
        tensors, told = load_export(file)
        card, settings = told.get("checkpoint", {}).get("card", {}), told.get("settings", {})
        kind = told.get("network")
    else:
        told = load_checkpoint(file)
        card, settings = told.get(CARD_KEY, {}), told.get("hyper_parameters", {})
        tensors, kind = told.get("state_dict", {}), None
    if card.get("task") != "detector":
        raise CheckpointError(
            f"{file} holds no detector but {card.get('task', kind or 'something without a card')!r};"
            " give a run of configs/detector.yaml"
        )
    if "detectors" not in settings:
        raise CheckpointError(
            f"{file} is of an earlier version, whose detectors were kept otherwise; train again"
        )
    return DetectorFile(file, card, settings, tensors)
