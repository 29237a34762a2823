"""Attacks on classifier and detector together, as part of the transfer study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.attacks import AdaptivePGD, Defence, FeatureMatching
from verisal.detection.end_to_end import end_to_end, nearest_of_other_class, strongest
from verisal.detectors import Detector, DetectorFeatures
from verisal.errors import ConfigError
from verisal.fingerprint import Configured
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import ask
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.models import Classifier
from verisal.results import Score, ScoreName
from verisal.saliency.gates.differentiable import DifferentiableGates
from verisal.types import check_range

_CHUNK = 24


@final
@dataclass(frozen=True, kw_only=True)
class AdaptiveSuite(Configured):
    """Adaptive attacks that share one way through the masks.

    Args:
        gates: how gradients pass through the masks.
        eps: radii of the Linf balls, in [0, 1] pixel units.
        steps: gradient steps per restart.
        restarts: starts per attack.
        weights: of the alarm, one attack of cross-entropy plus weighted alarm for each.
        matching: whether features of a clean image of another class are imitated too.

    Raises:
        ConfigError: no eps.
    """

    gates: DifferentiableGates
    eps: tuple[float, ...]
    steps: int = 100
    restarts: int = 5
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    matching: bool = True

    def __post_init__(self) -> None:
        if not self.eps:
            raise ConfigError("an adaptive suite needs radii above 0, found no eps")
        check_range(0, above=True, eps=self.eps)
        check_range(1, steps=self.steps, restarts=self.restarts)
        check_range(0, weights=self.weights)

    def attacks(self, eps: float) -> dict[str, AdaptivePGD]:
        """Name to attack, of one radius."""
        made = AdaptivePGD.suite(
            eps=eps, steps=self.steps, restarts=self.restarts, weights=tuple(self.weights)
        )
        if self.matching:
            matching = AdaptivePGD(aim=FeatureMatching(), eps=eps, steps=self.steps, restarts=self.restarts)
            made = (*made, matching)
        return {attack.aim.name: attack for attack in made}


def attack_defence(
    attack: AdaptivePGD,
    gates: DifferentiableGates,
    detector: Detector,
    classifier: Classifier,
    *,
    images: Tensor,
    labels: Tensor,
    image_ids: Sequence[str],
    pool: Tensor,
    seed: int,
) -> dict[str, Tensor]:
    """Attack classifier and detector, and ask the detector itself about the result.

    Args:
        attack: what is done.
        gates: how gradients pass through the masks; the detector that judges optimises them in full.
        detector: fitted, and reading :class:`DetectorFeatures`.
        classifier: beside it.
        images: ``(B, C, H, W)`` uint8, classified correctly.
        labels: ``(B,)`` int64.
        image_ids: B names.
        pool: ``(N, C, H, W)`` uint8, clean images to imitate.
        seed: of the restarts.

    Returns:
        ``image`` uint8, ``fooled`` bool, ``score`` of the detector and ``stand_in``, what the attack took for
        it, both float64.

    Raises:
        ConfigError: a detector that reads something other than :class:`DetectorFeatures`.
    """
    made = detector.measurement
    if not isinstance(made, DetectorFeatures):
        raise ConfigError(
            f"adaptive attacks differentiate DetectorFeatures; the detector reads {type(made).__name__}"
        )

    def alarm(seen: Tensor) -> Tensor:
        return detector.judge(made.differentiable(classifier, seen, gates=gates, gradient=False))

    def embed(seen: Tensor) -> Tensor:
        return classifier.stage_outputs(seen).activations[-1].mean(dim=(2, 3))

    clean, guides = images.float() / 255, None
    if isinstance(attack.aim, FeatureMatching):
        with torch.no_grad():
            pool01 = pool.float() / 255
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
    return scores, tuple(notes)
