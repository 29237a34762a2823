"""Attacks on classifier and detector together, as part of the transfer study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal._checks import as_tuples
from verisal.attacks import AdaptivePGD, Defence, FeatureMatching
from verisal.detection.end_to_end import end_to_end, nearest_of_other_class, strongest
from verisal.detectors import Detector
from verisal.errors import ConfigError
from verisal.fingerprint import Configured, settings_of
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import ask
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.models import Classifier
from verisal.progress import Step, work
from verisal.results import Score, ScoreName
from verisal.saliency.gates.differentiable import DifferentiableGates
from verisal.types import check_range

_CHUNK = 24


@final
@dataclass(frozen=True, kw_only=True)
class AdaptiveSuite(Configured):
    """Adaptive attacks on some rows of a study, in balls of several radii.

    Args:
        gates: how gradients pass through the masks; None for rows that read none.
        eps: radii of the Linf balls, in [0, 1] pixel units.
        steps: gradient steps per restart.
        restarts: starts per attack.
        weights: of the alarm, one attack of cross-entropy plus weighted alarm for each.
        matching: whether features of a clean image of another class are imitated too.
        rows: that are attacked; none for the head of the study.
        settle: the images that no attack has brought past the alarm are attacked again by all with twice the
            steps, until the share of those that were moves by less than this; None for one try of each
            attack. With it an image is finished as soon as it is past the alarm.
        doublings: how often the steps are doubled at most; the outcome has then not settled, which is said.

    Raises:
        ConfigError: no eps, or settings out of range.
    """

    gates: DifferentiableGates | None = None
    eps: tuple[float, ...]
    steps: int = 100
    restarts: int = 5
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    matching: bool = True
    rows: tuple[str, ...] = ()
    settle: float | None = None
    doublings: int = 3

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.eps:
            raise ConfigError("an adaptive suite needs radii above 0, found no eps")
        check_range(0, above=True, eps=self.eps)
        check_range(1, steps=self.steps, restarts=self.restarts)
        check_range(0, weights=self.weights, doublings=self.doublings)
        if self.settle is not None:
            check_range(0, 1, above=True, settle=self.settle)

    def attacks(self, eps: float) -> dict[str, tuple[AdaptivePGD, ...]]:
        """Name to attacks of one radius: each by itself, or all as one where they go on until they settle."""
        made = AdaptivePGD.suite(
            eps=eps, steps=self.steps, restarts=self.restarts, weights=tuple(self.weights)
        )
        if self.matching:
            matching = AdaptivePGD(aim=FeatureMatching(), eps=eps, steps=self.steps, restarts=self.restarts)
            made = (*made, matching)
        return {attack.aim.name: (attack,) for attack in made} if self.settle is None else {"all": made}

    def effort(self) -> dict[str, Any]:
        """What decides, beside the attack itself, what an attack finds."""
        gates = None if self.gates is None else settings_of(self.gates)
        if self.settle is None:
            return {"gates": gates}
        return {"gates": gates, "settle": self.settle, "doublings": self.doublings}


@final
@dataclass(frozen=True)
class Attacked:
    """A fitted row under attack.

    Attributes:
        detector: fitted; its measurement must be differentiable.
        classifier: beside it.
        threshold: above which it rejects an image; None where there are too few clean images for one, and
            attacks then do not go on until they settle.
        pool: ``(N, C, H, W)`` uint8, clean images to imitate.
    """

    detector: Detector
    classifier: Classifier
    threshold: float | None
    pool: Tensor

    __repr__ = brief


def attack_defence(
    attacks: Sequence[AdaptivePGD],
    suite: AdaptiveSuite,
    target: Attacked,
    *,
    images: Tensor,
    labels: Tensor,
    image_ids: Sequence[str],
    seed: int,
    doing: str = "",
) -> dict[str, Tensor]:
    """Attack classifier and detector, and ask the detector itself about the result.

    Args:
        attacks: one, or all of a suite that settles, whose strongest counts for each image.
        suite: of the attacks: how gradients pass through masks, and how long they go on.
        target: what is attacked; masks are found in full by the detector that judges.
        images: ``(B, C, H, W)`` uint8, classified correctly.
        labels: ``(B,)`` int64.
        image_ids: B names.
        seed: of the restarts.
        doing: words of the step that is shown meanwhile; none for nothing.

    Returns:
        ``image`` uint8, ``fooled`` bool, ``score`` of the detector and ``stand_in``, what the attack took for
        it, both float64, ``steps`` int64 of the last try of each image, and ``settled`` bool, the same for
        all: whether the last doubling moved the outcome by less than the suite allows.

    Raises:
        ConfigError: a detector that reads what no gradient passes through.
    """
    settle = None if target.threshold is None else suite.settle
    found: dict[str, Tensor] = {
        "image": images.clone(),
        "fooled": torch.zeros_like(labels, dtype=torch.bool),
        "score": torch.full(labels.shape, torch.nan, dtype=torch.float64),
        "stand_in": torch.full(labels.shape, torch.nan, dtype=torch.float64),
        "steps": torch.zeros_like(labels),
    }
    settled = suite.settle is None
    with work([Step(doing)], shown=bool(doing), lines=False) as planned, planned.step(doing) as running:
        for doubled in range(1 if settle is None else 1 + suite.doublings):
            before = int(_past(found, target.threshold).sum())
            for attack in attacks:
                passed = _past(found, target.threshold)
                left = (~passed).nonzero()[:, 0] if settle else torch.arange(len(labels))
                if not len(left):
                    continue
                steps = attack.steps * 2**doubled
                tried = replace(attack, steps=steps, stop_below=target.threshold if settle else None)
                names = [image_ids[row] for row in left.tolist()]
                note = f"{attack.aim.name}, {steps} steps, {len(left)} images"
                again = _attacked(
                    tried, suite.gates, target, images[left], labels[left], names,
                    seed=seed, heard=partial(running, 0, note),
                )  # fmt: skip
                better = again["fooled"] & ~(again["score"] >= found["score"][left])
                # Where nothing fooled the classifier so far, the last try is kept as it is.
                better |= ~found["fooled"][left]
                for name, tensor in again.items():
                    found[name][left[better]] = tensor[better]
                found["steps"][left] = steps
            moved = int(_past(found, target.threshold).sum()) - before
            if settle and doubled and moved < settle * len(images):
                settled = True
                break
    settled |= bool(settle) and bool(_past(found, target.threshold).all())
    return found | {"settled": torch.full_like(found["fooled"], settled)}


def _past(found: Mapping[str, Tensor], threshold: float | None) -> Tensor:
    """``(B,)`` bool: the classifier errs and nothing rings; without a threshold nobody knows of any."""
    if threshold is None:
        return torch.zeros_like(found["fooled"])
    return found["fooled"] & ~(found["score"] > threshold)


def _attacked(
    attack: AdaptivePGD,
    gates: DifferentiableGates | None,
    target: Attacked,
    images: Tensor,
    labels: Tensor,
    image_ids: Sequence[str],
    *,
    seed: int,
    heard: Callable[[], None],
) -> dict[str, Tensor]:
    detector, classifier, made = target.detector, target.classifier, target.detector.measurement

    def alarm(seen: Tensor) -> Tensor:
        heard()
        return detector.judge(made.differentiable(classifier, seen, gates=gates))

    def embed(seen: Tensor) -> Tensor:
        return classifier.stage_outputs(seen).activations[-1].mean(dim=(2, 3))

    clean, guides = images.float() / 255, None
    if isinstance(attack.aim, FeatureMatching):
        with torch.no_grad():
            pool01 = target.pool.float() / 255
            known, imitated = embed(clean), embed(pool01)
            answers = ask(classifier, pool01).argmax(dim=1)
        guides = pool01[nearest_of_other_class(known, labels, imitated, answers)]
    found = attack(
        Defence(classifier=classifier, alarm=alarm, embed=embed),
        clean,
        labels,
        generator=torch.Generator().manual_seed(derive_seed(seed, attack.aim.name)),
        guides=guides,
        sample_ids=image_ids,
        chunk_size=_CHUNK,
    )
    stored = round_to_8bit(found.images)
    score = detector.score(classifier, stored.float() / 255)
    return {
        "image": stored,
        "fooled": found.fooled,
        "score": score.double(),
        "stand_in": found.score.double(),
    }


def adaptive_scores(
    found: Mapping[tuple[str, float, str], Mapping[str, Tensor]],
    clean_scores: Tensor,
    threshold: float,
    *,
    row: str,
    bootstrap: Bootstrap,
) -> tuple[dict[ScoreName, Score], tuple[str, ...]]:
    """Outcome for the defence, per radius: strongest attack per image, over all and over each suite.

    Args:
        found: suite, eps and attack to what :func:`attack_defence` gave.
        clean_scores: ``(B,)`` of the same images before.
        threshold: of the detector.
        row: name of the detector.
        bootstrap: of the images.

    Returns:
        ``test/<row>/adaptive_<name>/eps_<e>`` for the strongest of all, ``.../eps_<e>_<suite>`` for each
        suite, and sentences that belong beside them.
    """
    scores: dict[ScoreName, Score] = {}
    notes = []
    for eps in sorted({key[1] for key in found}):
        level = f"eps_{eps * 255:g}"
        suites = dict.fromkeys(key[0] for key in found if key[1] == eps)
        for suite in (None, *suites):
            cells = [value for key, value in found.items() if key[1] == eps and suite in (None, key[0])]
            worst = strongest(
                torch.stack([cell["fooled"] for cell in cells]),
                torch.stack([cell["score"] for cell in cells]),
            )
            left = end_to_end(worst.fooled, worst.score, clean_scores, threshold, bootstrap)
            group = level if suite is None else f"{level}_{suite}"
            scores |= {
                ScoreName("test", row, f"adaptive_{name}", group): score for name, score in vars(left).items()
            }
            if suite is None:
                notes.append(f"adaptive attacks on {row}, {left.remark(eps)}")
                restless = [
                    key[0]
                    for key, value in found.items()
                    if key[1] == eps and not bool(value["settled"].all())
                ]
                if restless:
                    notes.append(
                        f"adaptive attacks on {row} at eps {eps * 255:g}/255 had not settled when they were"
                        f" stopped (suite {', '.join(restless)}); more doublings may find more"
                    )
    return scores, tuple(notes)
