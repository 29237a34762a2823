"""A trained detector that judges single images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from verisal.cli._detector_file import DetectorFile, read_detector
from verisal.cli._verdicts import Verdicts
from verisal.errors import CheckpointError
from verisal.fingerprint import state_hash
from verisal.models import Classifier
from verisal.tasks import DetectorTask
from verisal.types import Batch


@final
class DetectorAlarm:
    """The kept networks of a detector, beside the classifier that they were trained for.

    Args:
        task: with its weights.
    """

    def __init__(self, task: DetectorTask) -> None:
        self._task = task

    def __call__(self, images: Tensor, names: Sequence[str]) -> Verdicts:
        """Judge ``images (B, 3, H, W)`` in [0, 1]."""
        nothing = torch.zeros(len(images), dtype=torch.int64)
        with torch.no_grad():
            found = self._task.predict_step(Batch(images, nothing - 1, tuple(names), (), (), ()), 0)
        head = self._task.head
        scores = [float(value) for value in found[f"score/{head}"]]  # type: ignore[arg-type]
        alarms = [bool(value) for value in found["alarm"]]
        at = float(found[f"threshold/{head}"][0])  # type: ignore[arg-type]
        return Verdicts(
            scores=tuple(scores),
            alarms=tuple(alarms),
            words=tuple(_words(score, at, alarm=alarm) for score, alarm in zip(scores, alarms, strict=True)),
        )


def _words(score: float, threshold: float, *, alarm: bool) -> str:
    if score != score:
        return "NO VERDICT: the detector has no score for this image"
    return f"{'ALARM: adversarial' if alarm else 'no alarm'}, score {score:.2f} (alarm above {threshold:.2f})"


def detector_alarm(path: Path, classifier: Classifier) -> DetectorAlarm:
    """The detector in a run, checkpoint or export.

    Args:
        path: of the file, or its folder.
        classifier: the one that the detector was trained beside.

    Raises:
        ConfigError: no such file.
        CheckpointError: no detector, or one of another classifier.
    """
    found = read_detector(path)
    _check_classifier(found, classifier)
    task = DetectorTask(**found.settings)
    task.attach(found.made_features(), classifier)
    missing, strange = task.load_state_dict(dict(found.state), strict=False)
    # An export has no networks in training, only the kept ones.
    if strange or any(not name.startswith("networks.") for name in missing):
        raise CheckpointError(f"{found.path} lacks {missing[:3]} or has unknown weights {strange[:3]}")
    return DetectorAlarm(task.to(classifier.mean.device).eval().requires_grad_(False))


def _check_classifier(found: DetectorFile, classifier: Classifier) -> None:
    own = {
        "class_names": list(classifier.class_names),
        "image_size": classifier.image_size,
        "stages": list(classifier.stages),
        "classifier": state_hash(classifier),
    }
    different = [name for name, value in own.items() if found.card.get(name) != value]
    if different:
        told = {
            "class_names": f"{len(found.card.get('class_names', []))} class names, others than"
            f" the {len(own['class_names'])} of this one",  # type: ignore[arg-type]
            "image_size": f"images of {found.card.get('image_size')} px, not {classifier.image_size}",
            "stages": f"stages {found.card.get('stages')}, not {own['stages']}",
            "classifier": "other weights",
        }
        raise CheckpointError(
            f"{found.path} was trained beside another classifier: {'; '.join(told[n] for n in different)};"
            " give --classifier the one that its run used"
        )
