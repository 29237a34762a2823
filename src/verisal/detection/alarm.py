"""The alarm: a fitted detector beside its classifier, with the threshold above which an image is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from verisal.attacks.names import Attacks
from verisal.checkpoint import IMAGES_KEY, save_export
from verisal.detectors import Detector
from verisal.detectors.states import states_of
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash
from verisal.functional.statistics import Drift, ScoreSample
from verisal.models import Classifier
from verisal.models.sources.trained import folded_hash
from verisal.models.sources.zoo import side_or_both
from verisal.results import Evaluation
from verisal.types import Labels, check_images


@final
class Verdicts(NamedTuple):
    """One entry per image.

    Attributes:
        scores: ``(B,)``; higher is more adversarial, NaN where the detector has no score. The scale is
            the detector's own, often log odds, which have no bounds: only the threshold gives it a meaning.
        alarms: ``(B,)`` bool, True if the score is above the threshold.
    """

    scores: Tensor
    alarms: Tensor


@final
@dataclass(frozen=True, eq=False, repr=False)
class Alarm:
    """A fitted detector beside the classifier that it watches, with its threshold.

    Attributes:
        detector: what scores.
        classifier: whose images are judged.
        threshold: an image is reported if its score is above it; on the scale of the scores.
        false_alarms: share of clean validation images that the threshold lets be reported.
        weights: hash of the classifier's weights at the time of the fit.
        seen: ``fit`` and ``val`` to digests ``(N,)`` int64 of the images that the detector learned from and
            that the threshold was taken from.
        clean_scores: what is kept of the scores that the threshold was taken from; None for an alarm from a
            file of an earlier version.
        report: what it finds on images of neither; None for an alarm from a file.
    """

    detector: Detector
    classifier: Classifier
    threshold: float
    false_alarms: float = 0.05
    weights: str = ""
    seen: Mapping[str, Tensor] = field(default_factory=dict)
    clean_scores: ScoreSample | None = None
    report: Evaluation | None = None

    @classmethod
    def fit(
        cls,
        classifier: nn.Module,
        images: Tensor,
        labels: Labels,
        *,
        detector: Detector | None = None,
        attacks: Attacks | None = None,
        unseen: Attacks = (),
        noise: Attacks | None = None,
        near_border: int = 3,
        false_alarms: float = 0.05,
        ratios: tuple[float, float, float] = (0.3, 0.5, 0.2),
        seed: int = 0,
        store: Path | str | None = None,
        progress: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> Alarm:
        """Fit a detector to a classifier, on images that the classifier was not trained on.

        The images are divided by their content into three parts. The first is attacked and made noisy, and
        the detector learns to tell attacked images that fool the classifier from clean and noisy ones. The
        threshold comes from clean images of the second that the classifier gets right, which are not
        attacked. The third is attacked by everything, and only reported on: :attr:`report`, :meth:`table`.
        All images are rounded to 8 bits, as files would hold them.

        Args:
            classifier: that is to be watched; left as it is. A network that is no :class:`.Classifier` is
                made one, if it says how it normalises.
            images: ``(N, C, H, W)`` float32 in [0, 1]. For the default of 5 % false alarms some 450 are
                needed, 200 of them for the threshold.
            labels: N whole numbers, the true classes.
            detector: what learns, of which a copy is fitted; :func:`.default_detector` by default, which
                reads the logits of the image and of eight changed copies.
            attacks: that it learns from, a list or name to attack; FGSM at 4 and 8 / 255 and PGD at 2 and
                4 / 255 by default. Small budgets carry over best.
            unseen: attacks that are only reported on: what it is worth on what it was not fitted on.
            noise: controls and corruptions that raise no alarm, a list or name to attack; random signs as
                large as the largest Linf attack by default. Gaussian noise as large as that of the last
                attack always belongs to them.
            near_border: how many images just over the decision border it learns from beside each attacked
                image, 0 to 3: attacks that are not fitted may stop there. See :func:`.near_border`.
            false_alarms: allowed share of clean images that are reported.
            ratios: proportions of the three parts: to learn from, for the threshold, to report on.
            seed: of the division, of attacks and noise, and of the fit.
            store: folder in which attacked images and measurements are kept, so that another fit on them is
                fast; None for a temporary one.
            progress: show a bar for each attack and measurement; where standard error is no terminal, a line
                for each that takes more than a second.
            rank: of this process among several that fit the same alarm; each attacks and measures its share,
                and all get the whole.
            world_size: number of these processes, which have a ``store`` in common.

        Raises:
            DataError: images that are none, or on which no attack succeeds.
            ConfigError: settings out of range, a network that does not say how it normalises, several
                processes without a store, or too few images for the threshold, which one pass over them tells
                before anything is attacked.
        """
        # Imported here: judging needs neither Lightning nor torchmetrics, which take seconds.
        from verisal.detection._alarm_fit import fit_detector

        classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        fitted = fit_detector(
            classifier,
            images,
            labels,
            detector=detector,
            attacks=attacks,
            unseen=unseen,
            noise=noise,
            near_border=near_border,
            false_alarms=false_alarms,
            ratios=ratios,
            seed=seed,
            store=store,
            progress=progress,
            rank=rank,
            world_size=world_size,
        )
        return cls(
            classifier=classifier,
            false_alarms=false_alarms,
            weights=state_hash(classifier),
            detector=fitted.detector,
            threshold=fitted.threshold,
            seen=fitted.seen,
            clean_scores=fitted.clean_scores,
            report=fitted.report,
        )

    def __call__(self, images: Tensor) -> Verdicts:
        """Judge ``images (B, C, H, W)`` in [0, 1].

        Raises:
            DataError: images of another shape, dtype or range.
        """
        check_images(images)
        with torch.no_grad():
            measured = self.detector.measurement(self.classifier, images)
            # What was learned may lie elsewhere than the images, as a classifier may.
            learned = next(iter(self.detector.state().values()), images)
            scores = self.detector.judge({name: part.to(learned.device) for name, part in measured.items()})
        scores = scores.to(images.device)
        return Verdicts(scores, scores > self.threshold)

    def drift(self, scores: Tensor) -> Drift | None:
        """How far scores ``(n,)`` of images are from those that the threshold was taken from.

        Where it has ``drifted``, the images are of another kind than those (another camera, other
        preprocessing, noise), or many of them are attacked, and the threshold need not keep to its share of
        false alarms.
        None for an alarm from a file of an earlier version, and without scores.
        """
        return None if self.clean_scores is None else self.clean_scores.drift(scores)

    def words(self, scores: Tensor) -> tuple[str, ...]:
        """Scores ``(B,)`` and what follows from them, as a reader wants them."""
        return tuple(self._said(score) for score in scores.tolist())

    def _said(self, score: float) -> str:
        if score != score:
            return "NO VERDICT: the detector has no score for this image"
        said = "ALARM: looks adversarial" if score > self.threshold else "no alarm"
        return f"{said}, score {score:z.2f} (alarm above {self.threshold:z.2f})"

    def beside(self, classifier: Classifier) -> Alarm:
        """The same detector and threshold beside another classifier, or the same with other weights.

        The threshold and what was learned belong to the weights of the fit; :meth:`fits` tells.

        Raises:
            ConfigError: a classifier with another number of classes, or other stages where they are read.
        """
        own, stages = self.classifier, self.detector.measurement.needs_stages
        # One that has seen no image yet takes the size that the alarm was fitted at.
        classifier.note_size(torch.empty(0, own.channels, *own.height_and_width))
        if own.num_classes != classifier.num_classes or (stages and own.stages != classifier.stages):
            expected, found = (
                f"{one.num_classes} classes" + (f" and the stages {list(one.stages)}" if stages else "")
                for one in (own, classifier)
            )
            raise ConfigError(
                f"this alarm was fitted beside a classifier of {expected}, found {found}; fit an alarm to"
                " this classifier"
            )
        return replace(self, classifier=classifier)

    def fits(self) -> bool:
        """True if the classifier has the weights and the normalisation that the alarm was fitted on."""
        return state_hash(self.classifier) == self.weights

    def table(self) -> str:
        """The :attr:`report` as lines of text: per group of images, how many are reported, and the AUROC.

        Raises:
            ConfigError: an alarm from a file, which has no report.
        """
        if self.report is None:
            raise ConfigError("this alarm has no report, as it comes from a file; Alarm.fit makes one")
        from verisal.detection._alarm_fit import table_text

        return table_text(self.report, str(self))

    def save(self, path: Path | str) -> None:
        """Write ``path``, a ``.safetensors`` file, and a card beside it; :func:`.load_alarm` reads both.

        ``verisal explain --detector PATH --classifier ...`` takes it, too.

        Raises:
            CheckpointError: another kind of file, or one that cannot be written.
        """
        target = Path(path)
        if target.suffix != ".safetensors":
            raise CheckpointError(f"an alarm is kept in a .safetensors file, found {target}; name it so")
        row = type(self.detector).__name__
        card = {
            "task": "detector",
            "class_names": list(self.classifier.class_names),
            "image_size": side_or_both(self.classifier),
            "classifier": self.weights,
            "rows": [row],
            "detectors": {row: self.detector.state_settings()},
        }
        if self.fits() and (folded := folded_hash(self.classifier)):
            card["folded"] = folded
        if self.detector.measurement.needs_stages:
            card["stages"] = list(self.classifier.stages)
        settings = {
            "head": row,
            "detectors": {row: self.detector.recipe()},
            "rates": [self.false_alarms],
        }
        state = states_of({row: self.detector})
        state["thresholds"] = torch.tensor([[self.threshold]], dtype=torch.float64)
        state["supported"] = torch.tensor([[True]])
        if self.clean_scores is not None:
            state["clean_scores"] = self.clean_scores.quantiles[None]
            state["negatives"] = torch.tensor(self.clean_scores.size)
        told = {
            "network": "detectors",
            "checkpoint": {"card": card},
            "settings": settings,
            "origin": {"verisal": version("verisal")},
            IMAGES_KEY: dict(self.seen),
        }
        save_export(target, state, told)

    def __repr__(self) -> str:
        """Detector, threshold and false alarms."""
        return (
            f"{type(self.detector).__name__}, alarm above {self.threshold:.4g}:"
            f" {100 * self.false_alarms:g} % of clean validation images"
        )
