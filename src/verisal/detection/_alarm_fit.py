"""Fit of an alarm to images in memory: division, attacks, measurement, threshold and report."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from torch import Tensor

from verisal.attacks import FGSM, PGD, Attack, SignNoise, named_attacks
from verisal.attacks.names import Attacks
from verisal.data.guard import ImageDigests, different, guard_classifier_data
from verisal.data.image_data import Processes
from verisal.detection.attacked_images import AttackedImages
from verisal.detection.groups import GroupTable
from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.table import detection_curves, detection_histogram, detection_report
from verisal.detection.words import detection_summary
from verisal.detectors import Detector, default_detector
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import scoring
from verisal.functional.seeding import content_ids, derive_seed
from verisal.functional.statistics import Bootstrap, ScoreSample, negatives_needed, threshold_at_fpr
from verisal.models import Classifier
from verisal.progress import work
from verisal.results import Evaluation, Score
from verisal.types import Labels, Sample, check_images, check_range, query_classes

_PARTS = ("fit", "val", "test")


@final
@dataclass(frozen=True)
class Fitted:
    """What a fit gives; see :class:`.Alarm`."""

    detector: Detector
    threshold: float
    seen: Mapping[str, Tensor]
    clean_scores: ScoreSample
    report: Evaluation


@final
class LabelledImages:
    """Images in memory as one split of labelled images.

    Args:
        split: name of the split.
        images: ``(N, C, H, W)`` in [0, 1], in 8-bit levels.
        labels: ``(N,)`` int64.
        class_names: of the classifier.
    """

    def __init__(self, split: str, images: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> None:
        self.split, self.class_names = split, class_names
        self._images, self._labels = images, labels
        self._ids = content_ids(images)

    def digests(self) -> ImageDigests:
        """Digests of all images."""
        return ImageDigests.of(round_to_8bit(self._images), self._ids)

    def identity(self) -> Mapping[str, Any]:
        """The images and labels themselves."""
        return {"tensors": state_hash({"images": self._images, "labels": self._labels})}

    def image_id(self, index: int) -> str:
        """Digest of the pixels."""
        return self._ids[index]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        """Image ``index`` with its label; nothing is known of objects in it."""
        image, label = self._images[index], int(self._labels[index])
        masks = torch.zeros(0, *image.shape[1:], dtype=torch.bool)
        none = torch.zeros(0, dtype=torch.int64)
        return Sample(image, label, self._ids[index], none, masks, torch.zeros(0, 4))


def fit_detector(
    classifier: Classifier,
    images: Tensor,
    labels: Labels,
    *,
    detector: Detector | None,
    attacks: Attacks | None,
    unseen: Attacks,
    noise: Attacks | None,
    near_border: int,
    false_alarms: float,
    ratios: tuple[float, float, float],
    seed: int,
    store: Path | str | None,
    progress: bool,
    rank: int,
    world_size: int,
) -> Fitted:
    """The detector fitted, its threshold and its report; arguments are those of :meth:`.Alarm.fit`."""
    require_softmax(classifier, "an alarm")
    negatives_needed(false_alarms)
    processes = Processes(rank, world_size)
    if world_size > 1 and store is None:
        raise ConfigError(
            "several processes share the work of an alarm in a folder that all of them see; give store="
        )
    # A copy: another fit of the same object must not change this one.
    detector = default_detector() if detector is None else copy.deepcopy(detector)
    suite = _Suite.of(attacks, unseen, noise)
    divided = _divided(images, labels, classifier, ratios, seed=seed)
    guard_classifier_data({f"det_{part}": source.digests for part, source in divided.items()}, classifier)
    with ExitStack() as scopes:
        root = scopes.enter_context(TemporaryDirectory(prefix="verisal-")) if store is None else store
        splits = {
            part: suite.split(part, source, classifier, near_border=near_border, seed=seed, root=root)
            for part, source in divided.items()
        }
        # One pass over clean images tells whether they are enough; attacks and measurements may take hours.
        shown, clean_first = progress and rank == 0, splits["val"].steps()
        steps = [step for split in splits.values() for step in split.steps([detector.measurement])]
        steps = [*clean_first, *(step for step in steps if step not in clean_first)]
        with work(steps, shown=shown) as planned:
            splits["val"].fill(processes, progress=planned)
            _check_enough(splits["val"].groups(), false_alarms, ratios)
            for split in splits.values():
                split.fill(processes, [detector.measurement], progress=planned)
        _learn(detector, splits["fit"], tuple(suite.attacks), seed=seed)
        clean = _clean_scores(detector, splits["val"])
        threshold = _threshold(clean, false_alarms)
        report = _report(detector, splits["test"], suite, threshold, false_alarms, seed=seed)
    seen = {part: different(divided[part].digests().values) for part in ("fit", "val")}
    return Fitted(detector, threshold, seen, ScoreSample.of(clean), report)


@final
@dataclass(frozen=True)
class _Suite:
    """Attacks that are fitted, attacks that are not, and noise."""

    attacks: Mapping[str, Attack]
    unseen: Mapping[str, Attack]
    noise: Mapping[str, Attack]

    @classmethod
    def of(cls, attacks: Attacks | None, unseen: Attacks, noise: Attacks | None) -> _Suite:
        default = (FGSM(4 / 255), FGSM(8 / 255), PGD(2 / 255), PGD(4 / 255))
        attacks = default if attacks is None else attacks
        if not attacks:
            raise ConfigError("attacks must name at least one attack to learn from, such as FGSM(4 / 255)")
        # Draws follow a name, so that what is only reported on must not change those of the fit.
        fitted, others = named_attacks(attacks), named_attacks(unseen)
        if not isinstance(attacks, Mapping) and not isinstance(unseen, Mapping):
            others = dict(list(named_attacks([*attacks, *unseen]).items())[len(attacks) :])
        if both := sorted(set(fitted) & set(others)):
            raise ConfigError(f"attacks and unseen share the names {both}; give names that differ")
        if noise is None:
            sizes = [float(getattr(attack, "eps", 0)) for attack in fitted.values() if attack.norm == "linf"]
            noise = {"sign_noise": SignNoise(max(sizes, default=0) or 4 / 255)}
        return cls(fitted, others, named_attacks(noise))

    def split(
        self,
        part: str,
        source: LabelledImages,
        classifier: Classifier,
        *,
        near_border: int,
        seed: int,
        root: Path | str,
    ) -> AttackedImages:
        """The images of a part; those of the threshold stay clean."""
        return AttackedImages(
            classifier,
            source,
            attacked_count=0 if part == "val" else len(source),
            attacks={**self.attacks, **self.unseen} if part == "test" else self.attacks,
            noise=self.noise,
            noise_like=list(self.attacks)[-1],
            keep_failed=part == "test",
            near_border=near_border if part == "fit" else 0,
            seed=seed,
            root=root,
        )


def _divided(
    images: Tensor, labels: Labels, classifier: Classifier, ratios: Sequence[float], *, seed: int
) -> dict[str, LabelledImages]:
    """The parts by the content of the images, so that copies of one image stay together."""
    check_images(images)
    check_range(0, ratios=ratios)
    if len(ratios) != 3 or min(ratios) <= 0:
        raise ConfigError(f"ratios must be three proportions of fit, validation and test, found {ratios}")
    images = (round_to_8bit(images).float() / 255).cpu()
    labels = query_classes(labels, len(images), images.device, what="labels")
    if len(images) == 0:
        raise DataError("an alarm is fitted on images, found none")
    # The size of the images, and what they are of, may be known to a classifier by its first pass alone.
    with scoring(classifier, images.device):
        ask(classifier, images[:1])
    names = content_ids(images)
    places = torch.tensor([derive_seed(seed, "part", name) / 2**63 for name in names], dtype=torch.float64)
    ends = torch.tensor(list(ratios), dtype=torch.float64).cumsum(0) / sum(ratios)
    part_of = torch.bucketize(places, ends[:-1])
    divided = {}
    for number, part in enumerate(_PARTS):
        rows = (part_of == number).nonzero()[:, 0]
        if len(rows) == 0:
            raise DataError(f"of {len(images)} images none is left for the part {part!r}; give more images")
        divided[part] = LabelledImages(part, images[rows], labels[rows], classifier.class_names)
    return divided


def _learn(detector: Detector, split: AttackedImages, attacks: Sequence[str], *, seed: int) -> None:
    groups, measured = split.groups(), split.measured(detector.measurement)
    rows = groups.fitted(attacks)
    read = {name: tensor[rows] for name, tensor in measured.items()}
    images = groups.image_index[rows]
    detector.fit(read, groups.adversarial[rows], groups.clean[rows], images=images, seed=seed)


def _check_enough(groups: GroupTable, rate: float, ratios: Sequence[float]) -> None:
    """Raise ``ConfigError`` if the clean images that the classifier gets right are too few for the rate."""
    needed, right, count = negatives_needed(rate), int(groups.clean.sum()), len(groups)
    if right >= needed:
        return
    share = ratios[1] / sum(ratios)
    total = f", some {math.ceil(needed * count / right / share)} in all at this accuracy" if right else ""
    raise ConfigError(
        f"false_alarms={rate:g} needs {needed} clean images that the classifier gets right in the part that"
        f" sets the threshold; found {right} among its {count} ({100 * share:g} % of all, the second of"
        f" ratios={tuple(ratios)}); give more images{total}, a larger second ratio or larger false_alarms"
    )


def _clean_scores(detector: Detector, split: AttackedImages) -> Tensor:
    table = _scored(detector, split)
    return table.of_group(split.groups().groups.index("clean")).row_scores(0)


def _threshold(scores: Tensor, rate: float) -> float:
    at = threshold_at_fpr(scores, rate)
    if at is None:
        raise ConfigError(
            f"false_alarms={rate:g} needs scores of {negatives_needed(rate)} clean images; the detector gave"
            f" {int(scores.isfinite().sum())} of {len(scores)} a score; give more images, or another detector"
        )
    return at


def _scored(detector: Detector, split: AttackedImages) -> DetectionTable:
    groups = split.groups()
    scores = DetectionScores(["alarm"])
    judged = detector.judge(split.measured(detector.measurement))
    scores.update(judged[:, None], groups.image_index, groups.group)
    table: DetectionTable = scores.compute()
    return table


def _report(
    detector: Detector, split: AttackedImages, suite: _Suite, threshold: float, rate: float, *, seed: int
) -> Evaluation:
    groups, table, row = split.groups(), _scored(detector, split), type(detector).__name__
    names = dict(enumerate(groups.groups))
    at = {row: {rate: threshold}}
    scores = detection_report(
        table, split="test", rows=[row], groups=names, roles=groups.roles, thresholds=at,
        bootstrap=Bootstrap(2000, seed=seed), rates=(rate,),
    )  # fmt: skip
    return Evaluation(
        split="test",
        scores=scores,
        counts=groups.counts(),
        curves=detection_curves(table, rows=[row], groups=names, roles=groups.roles),
        histograms=(
            detection_histogram(table, row=0, name=row, groups=names, roles=groups.roles, thresholds=at[row]),
        ),
        notes=(f"kinds of attacks that the alarm never saw before: {', '.join(suite.unseen)}",)
        if suite.unseen
        else (),
        summary=detection_summary(
            scores, split="test", rows=[row], head=row, attacks=[*suite.attacks, *suite.unseen], rate=rate
        ),
    )


def table_text(report: Evaluation, title: str) -> str:
    """A report as lines of text: per group its images, the share that is reported, and the AUROC.

    Args:
        report: of :func:`fit_detector`.
        title: first line.
    """
    found = {(name.metric, name.part): score for name, score in report.scores.items()}
    lines = [title, f"{'group':<24}{'images':>7}  {'reported':<22}AUROC against clean"]
    for group, count in report.counts.items():
        rates = [
            _interval(score) for (metric, part), score in found.items() if part == group and _is_rate(metric)
        ]
        auroc = found.get(("auroc", group))
        if count:
            lines.append(
                f"{group:<24}{count:>7}  {rates[0]:<22}{'' if auroc is None else _interval(auroc)}".rstrip()
            )
    return "\n".join([*lines, *report.notes])


def _is_rate(metric: str) -> bool:
    return metric in ("fpr", "alarm_rate") or metric.startswith("tpr_at_fpr")


def _interval(score: Score) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
