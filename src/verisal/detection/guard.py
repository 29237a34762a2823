"""A classifier and its alarm in one module, to be put where the classifier stood."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from verisal.detection.alarm import Alarm
from verisal.detection.detector_file import load_alarm
from verisal.detectors import Detector, Logits, LogitTrees, Moved, ShiftedLogits, View, ViewLogits, Vote
from verisal.detectors.statistical import LogisticDetector
from verisal.detectors.untrained import UntrainedDetector
from verisal.errors import ConfigError
from verisal.functional.networks import staged_network
from verisal.functional.outputs import ask, logits_of
from verisal.functional.scopes import frozen
from verisal.models import Classifier, ClassifierSource, load_classifier
from verisal.saliency import EvidenceMasks, GradCAM, Saliency
from verisal.types import check_images


@final
class Guarded(NamedTuple):
    """What a guard says, one entry per image.

    Attributes:
        logits: ``(B, K)`` of the classifier.
        scores: ``(B,)`` of the alarm; NaN where it has none.
        alarms: ``(B,)`` bool, True if the score is above the threshold.
    """

    logits: Tensor
    scores: Tensor
    alarms: Tensor


@final
class Guard(nn.Module):
    """A classifier that says with each answer whether the image looks attacked.

    It takes the place of the classifier: images in, logits, scores and alarms out. Where the alarm reads
    logits alone, all of its views go through the network in one batch, and the answer to the image itself is
    one of them; otherwise classifier and alarm are asked in turn. Weights and modes of the network
    stay as they are. No gradient passes through it.

    An alarm is a statistical test, not a lock: somebody who knows it can get around it, and it goes off for
    about the share of honest images that it was fitted for.

    Args:
        classifier: that is guarded; by default that of the alarm. A network that is not a
            :class:`.Classifier` is made one, if it says how it normalises.
        alarm: fitted, or the path of its file, of a run or of an export.
        saliency: what shows where the evidence of an answer lies; :class:`.EvidenceMasks` by default, and
            :class:`.GradCAM` for classifiers of one stage.

    Raises:
        ConfigError: no classifier beside a file, or another classifier than the alarm was fitted beside.
        CheckpointError: a file that is none of an alarm, or of another classifier.
    """

    def __init__(
        self,
        classifier: nn.Module | ClassifierSource | str | None,
        alarm: Alarm | Path | str,
        *,
        saliency: Saliency | None = None,
    ) -> None:
        super().__init__()
        if classifier is None:
            if not isinstance(alarm, Alarm):
                raise ConfigError(
                    f"the file {alarm} holds no classifier; give Guard the one that the alarm was fitted"
                    " beside"
                )
            classifier = alarm.classifier
        elif not isinstance(classifier, nn.Module):
            classifier = load_classifier(classifier)
        known = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        self.alarm = alarm.beside(known) if isinstance(alarm, Alarm) else load_alarm(alarm, known)
        self.classifier = known
        self.saliency = saliency
        self._views = _views(self.alarm.detector)

    def forward(self, images: Tensor) -> Guarded:
        """Judge ``images (B, C, H, W)`` in [0, 1].

        Raises:
            DataError: images of another shape, dtype or range.
        """
        check_images(images)
        with torch.no_grad():
            if self._views is None:
                scores, alarms = self.alarm(images)
                with frozen(self.classifier):
                    return Guarded(ask(self.classifier, images), scores, alarms)
            with frozen(self.classifier):
                logits = ask(self.classifier, torch.cat([images, *(view(images) for view in self._views)]))
            measured = _measured(logits, self._names, len(images))
            scores = self.alarm.detector.judge(measured)
            return Guarded(measured["logits"], scores, scores > self.alarm.threshold)

    def where(self, images: Tensor) -> Tensor:
        """``(B, 1, H, W)`` in [0, 1]: where the evidence for the predicted class of each image lies.

        For an image that rang, the class is the one that an attacker may have wanted, and a patch stands out.
        """
        check_images(images)
        with torch.no_grad(), frozen(self.classifier):
            predicted = ask(self.classifier, images).argmax(dim=1)
        method = self.saliency
        if method is None:
            method = EvidenceMasks() if len(self.classifier.stages) > 1 else GradCAM()
        return method(self.classifier, images, predicted).saliency

    def one_pass(self) -> nn.Module:
        """A module of plain tensor operations that gives the same logits, scores and alarms.

        For :func:`torch.export.export` and what reads its programs, which then need not import verisal. It
        takes float images of the size that it is exported with, checks nothing, and answers with a tuple.

        Raises:
            ConfigError: an alarm that asks for more than the logits of views.
        """
        detector = self.alarm.detector
        if self._views is None:
            raise ConfigError(
                f"{type(detector).__name__} on {type(detector.measurement).__name__} asks the classifier for"
                " more than logits, and cannot be exported; fit an alarm with LearnedConsistency,"
                " ViewConsistency, LogitTrees, a Vote of these or an untrained detector that reads Logits,"
                " ShiftedLogits or ViewLogits"
            )
        staged_network(self.classifier, "an exported guard")
        return _OnePass(self.classifier, detector, self._views, self._names, self.alarm.threshold).eval()

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of the measured logits, the image's own first."""
        measurement = self.alarm.detector.measurement
        if isinstance(measurement, ShiftedLogits):
            return ("logits", "shifted/logits")
        return ("logits", *(f"{view.name}/logits" for view in self._views or ()))


@final
class _OnePass(nn.Module):
    """What :meth:`Guard.one_pass` gives."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        views: Sequence[View],
        names: Sequence[str],
        threshold: float,
    ) -> None:
        super().__init__()
        # A copy, so that the mode of the network itself stays as it is.
        self.network = copy.deepcopy(classifier.network)
        self.mean, self.std = nn.Buffer(classifier.mean.clone()), nn.Buffer(classifier.std.clone())
        self._detector, self._views, self._names = copy.deepcopy(detector), tuple(views), tuple(names)
        self._threshold = threshold
        # As buffers they go along to other devices, and into the exported program.
        state = self._detector.state()
        self._learned = tuple(state)
        for number, tensor in enumerate(state.values()):
            self.register_buffer(f"learned_{number}", tensor.clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(B, K)``, scores ``(B,)`` and alarms ``(B,)``."""
        if self._learned:
            buffers = {name: self.get_buffer(f"learned_{n}") for n, name in enumerate(self._learned)}
            self._detector.restore(buffers)
        seen = torch.cat([images, *(view(images) for view in self._views)])
        logits = logits_of(self.network((seen - self.mean) / self.std))
        # By the size of the first axis, not by len(), which would fix it in an exported program.
        measured = _measured(logits, self._names, images.shape[0])
        scores = self._detector.judge(measured)
        return measured["logits"], scores, scores > self._threshold


def _views(detector: Detector) -> tuple[View, ...] | None:
    """The views whose logits a detector reads; None if it reads something else."""
    asked = detector.voters if isinstance(detector, Vote) else (detector,)
    if not all(isinstance(one, LogisticDetector | LogitTrees | UntrainedDetector) for one in asked):
        return None
    measurement = detector.measurement
    if isinstance(measurement, Logits):
        return ()
    if isinstance(measurement, ShiftedLogits):
        return (Moved(1, 1),)
    return measurement.seen if isinstance(measurement, ViewLogits) else None


def _measured(logits: Tensor, names: Sequence[str], count: int) -> dict[str, Tensor]:
    return dict(zip(names, logits.view(len(names), count, logits.shape[1]).unbind(), strict=True))
