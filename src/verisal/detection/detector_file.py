"""Trained detectors as runs, checkpoints, exports and alarms keep them in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.checkpoint import CARD_KEY, IMAGES_KEY, load_checkpoint, load_export, trained_file
from verisal.detection.alarm import Alarm
from verisal.detection.table import RATES
from verisal.detectors import Detector
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash
from verisal.functional.statistics import ScoreSample
from verisal.models import Classifier
from verisal.models.sources.zoo import side_or_both

ALARM = "alarm.safetensors"
"""File name of an alarm in the folder of a run or an export."""


@final
@dataclass(frozen=True)
class DetectorFile:
    """Everything that scoring an image needs besides the classifier.

    Attributes:
        path: of the file, for messages.
        card: of the task.
        settings: name of the ``head``, the recipes of all ``detectors`` by row, and the ``rates`` of false
            alarms that the thresholds are for, those of a run where nothing is said.
        tensors: what was learned, ``detectors.<row>.<name>``, and the thresholds of the rows.
        seen: ``fit`` and ``val`` to digests of the images that were learned from.
    """

    path: Path
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, ...]:
        """Shares of false alarms that the thresholds are for; the first is that of the alarm."""
        return tuple(self.settings.get("rates", RATES))

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
            row: {
                f"FPR {100 * rate:g} %": at if known else None
                for rate, at, known in zip(self.rates, values, flags, strict=True)
            }
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

    def alarm(self, classifier: Classifier, *, other_weights: bool = False) -> Alarm:
        """The detector of the head with its threshold for the first of the rates, FPR 5 % in runs.

        Args:
            classifier: that it is put beside.
            other_weights: take a classifier whose weights or class names are not those of the fit, too.

        Raises:
            CheckpointError: as of :meth:`detector`; or made for another classifier.
            ConfigError: no threshold.
        """
        # One that has seen no image yet takes the size of the file.
        try:
            channels = classifier.channels
        except ConfigError:
            channels = 3
        size = self.card.get("image_size") or 1
        classifier.note_size(torch.empty(0, channels, *(size if isinstance(size, list) else (size, size))))
        own = state_hash(classifier)
        self._check_classifier(classifier, own, other_weights)
        head = self.settings["head"]
        name, threshold = next(iter(self.thresholds()[head].items()))
        if threshold is None:
            raise ConfigError(
                f"{self.path} has no threshold for {name}: it was trained with too few clean validation"
                " images; train with a larger data.val_count"
            )
        return Alarm(
            detector=self.detector(head, classifier.mean.device),
            classifier=classifier,
            threshold=threshold,
            false_alarms=self.rates[0],
            weights=own if own == self.card.get("folded") else self.card.get("classifier", ""),
            seen=self.seen,
            clean_scores=self._clean_scores(head),
        )

    def _clean_scores(self, row: str) -> ScoreSample | None:
        if "clean_scores" not in self.tensors:
            return None
        quantiles = self.tensors["clean_scores"][self.card["rows"].index(row)]
        # Zeros stand for scores that are not known.
        return ScoreSample(quantiles, int(self.tensors["negatives"])) if bool(quantiles.any()) else None

    def _check_classifier(self, classifier: Classifier, own: str, other_weights: bool) -> None:
        card = self.card
        names, known = list(classifier.class_names), card.get("class_names", [])
        size = side_or_both(classifier)
        # Detectors that read no stages name none, and the classifier need not have any.
        stages = list(classifier.stages) if "stages" in card else None
        renamed = len(known) != len(names) or (known != names and not other_weights)
        # The export of a classifier is the same one, in other numbers.
        moved = not other_weights and own not in (card.get("classifier"), card.get("folded"))
        different = [
            words
            for words, differs in (
                (f"{len(known)} class names, others than the {len(names)} of this one", renamed),
                (f"images of {card.get('image_size')} px, not {size}", card.get("image_size") != size),
                (f"stages {card.get('stages')}, not {stages}", card.get("stages") != stages),
                ("other weights", moved),
            )
            if differs
        ]
        if different:
            raise CheckpointError(
                f"{self.path} was trained beside another classifier: {'; '.join(different)};"
                " give the one that its run used (--classifier in a command)"
            )


def read_detector(path: Path) -> DetectorFile:
    """Read the detectors of a run, of one of its checkpoints, or of an export; or the alarm in its folder.

    Raises:
        ConfigError: no such file.
        CheckpointError: a damaged file, one of another task, or one of an earlier version.
    """
    file = path / ALARM if (path / ALARM).is_file() else trained_file(path)
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
            f"{file} holds no detector or alarm (it is of: {card.get('task', kind or 'nothing known')}); give"
            " a run of --config detector, or a run or file with an alarm.safetensors"
        )
    if "detectors" not in settings:
        raise CheckpointError(
            f"{file} is of an earlier version, whose detectors were kept otherwise; train again"
        )
    return DetectorFile(file, card, settings, tensors, told.get(IMAGES_KEY, {}))


def load_alarm(path: Path | str, classifier: nn.Module, *, other_weights: bool = False) -> Alarm:
    """The alarm that :meth:`.Alarm.save` wrote, or that of a detector run or export, beside its classifier.

    Args:
        path: the file, or the folder of a run or an export.
        classifier: the one that it was fitted beside: equal weights, normalisation and class names. A
            network that is no :class:`.Classifier` is made one, if it says how it normalises.
        other_weights: take a classifier with other weights or class names, too, such as a later state of the
            network; :meth:`.Alarm.fits` tells.

    Raises:
        ConfigError: no such file, or a network that does not say how it normalises.
        CheckpointError: a damaged file, one of another task, or one of another classifier.
    """
    classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
    return read_detector(Path(path)).alarm(classifier, other_weights=other_weights)
