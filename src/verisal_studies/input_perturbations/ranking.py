"""Claims about rankings of methods, and about maps judged with their own baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Final, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.functional.statistics.ranking import (
    diagonal_effect,
    morf_lerf_agreement,
    ranking_agreement,
    ranking_stability,
)
from verisal.results import Score
from verisal_studies.input_perturbations.claims import GENERATORS
from verisal_studies.removal_scores import KINDS, RemovalScores
from verisal_studies.scores import cell
from verisal_studies.study import Finding, Verdict

__all__ = ["Diagonal", "Rankings", "diagonals", "own_baseline"]

_MOST: Final = 0.5
_CHANCE: Final = 0.05
_RULE: Final = (
    "the 95 % interval of Kendall's tau-b between both rankings lies below the middle 95 % of what each"
    " ranking reaches with itself on resampled images"
)


@final
class Rankings:
    """Rankings of the methods by every metric setting, against each other.

    Args:
        scores: of the evaluation.

    Raises:
        ConfigError: fewer than four methods.
    """

    def __init__(self, scores: RemovalScores) -> None:
        self.methods = scores.methods(GENERATORS)
        if len(self.methods) < 4:
            raise ConfigError(
                f"rankings need at least four methods besides the controls, found {self.methods}"
            )
        found: dict[str, Tensor] = {}
        for kind in KINDS:
            areas = scores.areas(kind, self.methods, scores.distinct)
            sign = 1 if kind == "insertion" else -1
            found |= {f"{kind}[{name}]": sign * one for name, one in zip(scores.distinct, areas, strict=True)}
        for order, sign in (("morf", -1), ("lerf", 1)):
            name = scores.images.one(self.methods[0], partial(_is_road, order))
            found[name.partition("/")[0]] = sign * scores.images.stacked(
                [(row, name) for row in self.methods]
            )
        undefined = torch.stack([one.isnan().any(dim=0) for one in found.values()]).any(dim=0)
        self.baselines = scores.distinct
        self.benefits = {name: one[:, ~undefined] for name, one in found.items()}

    @property
    def settings(self) -> list[str]:
        """Names of the metric settings."""
        return list(self.benefits)

    @cached_property
    def stability(self) -> dict[str, Score]:
        """Agreement of every ranking with itself on resampled images."""
        return {name: ranking_stability(one) for name, one in self.benefits.items()}

    @cached_property
    def agreement(self) -> dict[tuple[str, str], Score]:
        """Kendall's tau-b of every pair of settings."""
        return {
            (one, other): ranking_agreement(self.benefits[one], self.benefits[other])["kendall"]
            for one, other in combinations(self.settings, 2)
        }

    @property
    def matrix(self) -> Tensor:
        """``(settings, settings)`` of Kendall's tau-b, 1 on the diagonal."""
        values = torch.eye(len(self.settings), dtype=torch.float64)
        for (one, other), found in self.agreement.items():
            i, j = self.settings.index(one), self.settings.index(other)
            values[i, j] = values[j, i] = found.value
        return values

    @cached_property
    def swaps(self) -> Score:
        """Share of the pairs of methods that swap their order on an image, mean over pairs of settings."""
        signs = {name: _orders(one) for name, one in self.benefits.items()}
        shares = [
            (signs[one] * signs[other] < 0).double().mean(dim=0)
            for one, other in combinations(self.settings, 2)
        ]
        return bootstrap_mean(torch.stack(shares).mean(dim=0))

    def differ(self, one: str, other: str) -> bool:
        """Whether two settings rank the methods differently, beyond what resampled images do to either."""
        floor = min(self.stability[one].low, self.stability[other].low)
        return self.agreement[one, other].high < floor

    def change(self) -> Finding:
        """Whether rankings change between metric settings."""
        differing = sum(self.differ(*pair) for pair in self.agreement)
        values = torch.tensor([one.value for one in self.agreement.values()])
        floor = torch.tensor([one.value for one in self.stability.values()])
        lowest = min(self.agreement, key=lambda pair: self.agreement[pair].value)
        return Finding(
            "rankings of methods change with the metric's settings",
            f"for more than {_MOST:.0%} of the pairs of settings {_RULE}; in part if for more than"
            f" {_CHANCE:.0%}",
            _verdict(differing / len(self.agreement)),
            f"{differing} of {len(self.agreement)} pairs; tau-b median {values.median():.2f}, lowest"
            f" {cell(self.agreement[lowest])} (`{lowest[0]}` and `{lowest[1]}`); a ranking with itself on"
            f" resampled images {floor.median():.2f}; on one image a pair of methods swaps with chance"
            f" {cell(self.swaps)}",
        )

    def removal_orders(self) -> dict[str, tuple[Score, bool]]:
        """Baseline to agreement of the MoRF and LeRF rankings, and whether they differ."""
        found = {}
        for name in self.baselines:
            # With one baseline the area of LeRF is that of insertion.
            lerf, morf = f"insertion[{name}]", f"deletion[{name}]"
            agreement = morf_lerf_agreement(-self.benefits[morf], self.benefits[lerf])["kendall"]
            found[name] = agreement, self.differ(lerf, morf)
        morf, lerf = (
            next(name for name in self.settings if name.startswith(f"road_{order}"))
            for order in ("morf", "lerf")
        )
        agreement = morf_lerf_agreement(-self.benefits[morf], self.benefits[lerf])["kendall"]
        found["ROAD"] = agreement, self.differ(morf, lerf)
        return found

    def orders_differ(self) -> Finding:
        """Whether MoRF and LeRF disagree under one and the same baseline."""
        found = self.removal_orders()
        differing = sum(one for _, one in found.values())
        values = torch.tensor([one.value for one, _ in found.values()])
        return Finding(
            "removing the most relevant pixels first (MoRF) and the least relevant ones first (LeRF) rank"
            " methods differently",
            f"for more than {_MOST:.0%} of the baselines, and ROAD, {_RULE}; in part if for more than"
            f" {_CHANCE:.0%}",
            _verdict(differing / len(found)),
            f"{differing} of {len(found)}; tau-b from {values.min():.2f} to {values.max():.2f}, median"
            f" {values.median():.2f}",
        )


@dataclass(frozen=True)
class Diagonal:
    """Maps of one generator by baseline, judged with every baseline.

    Attributes:
        generator: of the maps.
        kind: of the curve.
        baselines: of maps and of the curve.
        benefits: ``(baselines of maps, baselines of the curve, n)``, higher is better.
    """

    generator: str
    kind: str
    baselines: tuple[str, ...]
    benefits: Tensor

    @cached_property
    def effect(self) -> Score:
        """Mean where both share a baseline, minus the mean elsewhere."""
        return diagonal_effect(self.benefits)

    @property
    def interaction(self) -> Tensor:
        """``(S, S)`` means without those of rows and columns: what is left for the pairing."""
        means = self.benefits.nanmean(dim=2)
        return means - means.mean(dim=0, keepdim=True) - means.mean(dim=1, keepdim=True) + means.mean()

    def among(self, some: Sequence[str]) -> Diagonal:
        """The same for some of the baselines only."""
        kept = [place for place, name in enumerate(self.baselines) if name in some]
        names = tuple(self.baselines[place] for place in kept)
        return Diagonal(self.generator, self.kind, names, self.benefits[kept][:, kept])

    @property
    def wins(self) -> int:
        """Baselines of the curve for which the maps made with it are the best."""
        means = self.benefits.nanmean(dim=2)
        best = means.argmax(dim=0)
        # A column with a mean that is not a number has no best.
        return int(((best == torch.arange(len(best))) & ~means.isnan().any(dim=0)).sum())


def diagonals(scores: RemovalScores) -> list[Diagonal]:
    """Of every generator and curve, over the distinct baselines."""
    names = scores.distinct
    found = []
    for generator in GENERATORS:
        rows = [f"{generator}_{name}" for name in names]
        for kind in KINDS:
            sign = 1 if kind == "insertion" else -1
            benefits = sign * scores.areas(kind, rows, names).transpose(0, 1)
            kept = ~benefits.isnan().any(dim=0).any(dim=0)
            found.append(Diagonal(generator, kind, tuple(names), benefits[..., kept]))
    return found


def own_baseline(found: Sequence[Diagonal]) -> Finding:
    """Whether maps score best when judged with the baseline that made them."""
    held = [one.effect.low > 0 for one in found]
    verdict: Verdict = "holds" if all(held) else "holds in part" if any(held) else "does not hold here"
    return Finding(
        "a map made with a baseline scores best when it is judged with that baseline",
        "for every generator, in insertion and in deletion, the mean area where map and metric share a"
        " baseline is better than where they do not, interval above 0; in part if for some",
        verdict,
        "; ".join(
            f"{one.generator}, {one.kind} {cell(one.effect)}, best with its own {one.wins} of"
            f" {len(one.baselines)}"
            for one in found
        ),
    )


def _is_road(order: str, score: str) -> bool:
    return score.startswith(f"road_{order}[") and score.endswith("/probability")


def _orders(benefits: Tensor) -> Tensor:
    """``(pairs of methods, n)``: sign of the difference."""
    i, j = torch.triu_indices(len(benefits), len(benefits), 1)
    return (benefits[i] - benefits[j]).sign()


def _verdict(share: float) -> Verdict:
    if share > _MOST:
        return "holds"
    return "holds in part" if share > _CHANCE else "does not hold here"
