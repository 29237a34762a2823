"""Claims about input perturbations: how maps, areas and rankings change with baselines and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Final, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap, ranking_agreement, ranking_stability
from verisal.functional.statistics.ranking import diagonal_effect
from verisal.results import Score
from verisal_studies.scores import KINDS, RemovalScores, cell, difference_of, mean_of
from verisal_studies.study import Finding, Verdict, verdict_of

GENERATORS: Final = ("rise", "occlusion", "extremal")
_GROUP: Final = " baselines"
# A deterministic method has floor 1, and any change at all lies below that.
_ALIKE: Final = 0.9
_HALF: Final = 0.5
_CHANCE_OF_AREAS, _CHANCE_OF_RANKINGS = 0.1, 0.05
_RULE_OF_MAPS: Final = (
    "the 95 % interval of the median pairwise Spearman similarity lies below that of the same setting run"
    f" twice; for methods without random numbers, whose floor is 1, below {_ALIKE:g}"
)
_RULE_OF_RANKINGS: Final = (
    "the 95 % interval of Kendall's tau-b between the two rankings lies below the middle 95 % of what each"
    f" ranking reaches with itself on resampled images; in part if for more than {_CHANCE_OF_RANKINGS:.0%}"
)


@dataclass(frozen=True)
class Divergence:
    """Likeness of the maps of some settings.

    Attributes:
        name: of the settings.
        similarity: per image the median Spearman similarity over pairs of settings, mean over images.
        floor: of the same setting run twice.
        control: of the settings to random maps.
        repeats: pairs that the floor was measured with; 0 if it is 1 by definition.
    """

    name: str
    similarity: Score
    floor: Score
    control: Score
    repeats: int

    @property
    def diverges(self) -> bool:
        """Below the floor's interval, and also below 0.9 where the floor is 1 by definition."""
        below = self.similarity.high < self.floor.low
        return below and (self.repeats > 0 or self.similarity.high < _ALIKE)

    @property
    def words(self) -> str:
        """Name, similarity and floor."""
        floor = cell(self.floor) if self.repeats else "1"
        return f"{self.name} {cell(self.similarity)} (floor {floor})"


def maps_by_baseline(removal: RemovalScores) -> list[Divergence]:
    """Divergence of every generator's maps over the distinct neutral baselines.

    Raises:
        ConfigError: fewer than two such baselines.
    """
    if len(removal.neutral) < 2:
        raise ConfigError(
            f"the study compares neutral baselines, found only {removal.neutral}; give at least two"
        )
    divergences = []
    for generator in GENERATORS:
        row = f"{generator}{_GROUP}"
        known = removal.scores.names(row, ".* ~ .*")
        pairs = []
        for one, other in combinations((f"{generator}_{name}" for name in removal.neutral), 2):
            # A pair is named in the order of its group.
            turned = f"map_agreement/{other} ~ {one}"
            pairs.append((row, turned if turned in known else f"map_agreement/{one} ~ {other}"))
        similarity = mean_of(removal.scores.stacked(pairs).quantile(0.5, dim=0))
        divergences.append(_divergence(removal, row, generator, similarity))
    return divergences


def axes(removal: RemovalScores) -> list[Divergence]:
    """Divergence along every hyperparameter: all groups of maps that are not those by baseline.

    Raises:
        ConfigError: there is none.
    """
    rows = [row for row in removal.scores.rows("map_agreement/floor") if not row.endswith(_GROUP)]
    if not rows:
        raise ConfigError(
            "the study reads the agreement of maps along hyperparameters, which the evaluation lacks; add the"
            " callback MapAgreement with a group per hyperparameter"
        )
    return [
        _divergence(removal, row, row, removal.scores.mean(row, "map_agreement/similarity")) for row in rows
    ]


def maps_of_neutral(divergences: Sequence[Divergence]) -> Finding:
    """Maps changed by neutral baselines, of :func:`maps_by_baseline`."""
    return Finding(
        "baselines that are neutral by the classifier's own probability still change the maps",
        f"for all generators, {_RULE_OF_MAPS}; in part if for some",
        verdict_of([axis.diverges for axis in divergences]),
        "; ".join(axis.words for axis in divergences),
    )


def hyperparameters(divergences: Sequence[Divergence]) -> Finding:
    """Maps that diverge along hyperparameters, of :func:`axes`."""
    apart = [axis.words for axis in divergences if axis.diverges]
    alike = [axis.words for axis in divergences if not axis.diverges]
    return Finding(
        "the choice of hyperparameters makes maps diverge",
        f"along every hyperparameter, {_RULE_OF_MAPS}; in part if along some",
        verdict_of([axis.diverges for axis in divergences]),
        f"{len(apart)} of {len(divergences)} diverge"
        + (f": {'; '.join(apart)}" if apart else "")
        + (f"; these do not: {'; '.join(alike)}" if alike else ""),
    )


def metric_values(removal: RemovalScores) -> Finding:
    """Metric values changed by neutral baselines."""
    differences, between = _area_differences(removal)
    apart = sum(one.low > 0 or one.high < 0 for one in differences)
    share = apart / len(differences)
    sizes = torch.tensor([abs(one.value) for one in differences])
    return Finding(
        "neutral baselines change metric values",
        "of all paired differences of areas between two neutral baselines (every method, insertion and"
        f" deletion) at least {_HALF:.0%} have an interval without 0; in part if more than"
        f" {_CHANCE_OF_AREAS:.0%}, where chance alone gives about 5%",
        verdict_of([share >= _HALF, share > _CHANCE_OF_AREAS]),
        f"{apart} of {len(differences)} differences ({share:.0%}); median size {sizes.median():z.3f}, largest"
        f" {sizes.max():z.3f}; between two methods under one baseline the median is {between:z.3f}",
    )


def _area_differences(removal: RemovalScores) -> tuple[list[Score], float]:
    """Paired differences between neutral baselines, and the median difference of means between methods."""
    methods = removal.methods(GENERATORS)
    differences: list[Score] = []
    between: list[Tensor] = []
    for kind in KINDS:
        areas = removal.areas(kind, methods, removal.neutral)
        means = areas.nanmean(dim=2)
        between += [(means[:, i] - means[:, j]).abs() for i, j in combinations(range(len(methods)), 2)]
        pairs = combinations(areas, 2)
        differences += [difference_of(row) for one, other in pairs for row in one - other]
    return differences, float(torch.cat(between).median()) if between else torch.nan


def _divergence(removal: RemovalScores, row: str, name: str, similarity: Score) -> Divergence:
    floor, control = (removal.scores.mean(row, f"map_agreement/{key}") for key in ("floor", "control"))
    repeats = round(removal.scores.reported(row, "map_agreement/repeats").value)
    if not repeats:
        # By definition, not measured.
        floor = replace(floor, low=floor.value, high=floor.value)
    return Divergence(name, similarity, floor, control, repeats)


@final
class Rankings:
    """Rankings of the methods by every metric setting, against each other.

    Args:
        removal: of the evaluation.

    Attributes:
        methods: that are ranked.
        settings: names of the metric settings.

    Raises:
        ConfigError: fewer than four methods.
    """

    def __init__(self, removal: RemovalScores) -> None:
        self.methods, self._baselines = removal.methods(GENERATORS), removal.distinct
        if len(self.methods) < 4:
            raise ConfigError(
                f"rankings need at least four methods besides the controls, found {self.methods}"
            )
        benefits: dict[str, Tensor] = {}
        for kind, sign in KINDS.items():
            areas = removal.areas(kind, self.methods, self._baselines)
            benefits |= {
                f"{kind}[{name}]": sign * own for name, own in zip(self._baselines, areas, strict=True)
            }
        for order, sign in (("morf", -1), ("lerf", 1)):
            name = removal.scores.name(self.methods[0], rf"road_{order}\[.*/probability")
            values = removal.scores.stacked([(row, name) for row in self.methods])
            benefits[name.partition("/")[0]] = sign * values
        undefined = torch.stack([own.isnan().any(dim=0) for own in benefits.values()]).any(dim=0)
        self.benefits = {name: own[:, ~undefined] for name, own in benefits.items()}
        self.settings = list(benefits)

    @cached_property
    def stability(self) -> dict[str, Score]:
        """Agreement of every ranking with itself on resampled images."""
        return {name: ranking_stability(own, Bootstrap()) for name, own in self.benefits.items()}

    @cached_property
    def agreement(self) -> dict[tuple[str, str], Score]:
        """Kendall's tau-b of every pair of settings."""
        return {
            (one, other): ranking_agreement(self.benefits[one], self.benefits[other], Bootstrap())["kendall"]
            for one, other in combinations(self.settings, 2)
        }

    @property
    def matrix(self) -> Tensor:
        """``(settings, settings)`` of Kendall's tau-b, 1 on the diagonal."""
        values = torch.eye(len(self.settings), dtype=torch.float64)
        for (i, j), score in zip(combinations(range(len(values)), 2), self.agreement.values(), strict=True):
            values[i, j] = values[j, i] = score.value
        return values

    @cached_property
    def removal_orders(self) -> dict[str, tuple[Score, bool]]:
        """Baseline, or ROAD, to agreement of the MoRF and LeRF rankings, and True if they differ."""
        # With one baseline the area of LeRF is that of insertion.
        pairs = {name: (f"deletion[{name}]", f"insertion[{name}]") for name in self._baselines}
        pairs["ROAD"] = (self.settings[-2], self.settings[-1])
        return {
            name: (
                ranking_agreement(self.benefits[morf], self.benefits[lerf], Bootstrap())["kendall"],
                self._differ(lerf, morf),
            )
            for name, (morf, lerf) in pairs.items()
        }

    def change(self) -> Finding:
        """Rankings that change between metric settings."""
        differing = sum(self._differ(*pair) for pair in self.agreement)
        values = torch.tensor([one.value for one in self.agreement.values()])
        floor = torch.tensor([one.value for one in self.stability.values()])
        lowest = min(self.agreement, key=lambda pair: self.agreement[pair].value)
        return Finding(
            "rankings of methods change with the metric's settings",
            f"for more than {_HALF:.0%} of the pairs of settings {_RULE_OF_RANKINGS}",
            _verdict_of_rankings(differing / len(self.agreement)),
            f"{differing} of {len(self.agreement)} pairs; tau-b median {values.median():z.2f}, lowest"
            f" {cell(self.agreement[lowest])} (`{lowest[0]}` and `{lowest[1]}`); a ranking with itself on"
            f" resampled images {floor.median():z.2f}; on a single image two methods swap places with"
            f" probability {cell(self._swaps())}",
        )

    def orders_differ(self) -> Finding:
        """Rankings by MoRF and LeRF that differ under one and the same baseline."""
        orders = self.removal_orders.values()
        differing = sum(differ for _, differ in orders)
        values = torch.tensor([agreement.value for agreement, _ in orders])
        return Finding(
            "removing the most relevant pixels first (MoRF) and the least relevant ones first (LeRF) rank"
            " methods differently",
            f"for more than {_HALF:.0%} of the baselines, counting ROAD, {_RULE_OF_RANKINGS}",
            _verdict_of_rankings(differing / len(orders)),
            f"{differing} of {len(orders)}; tau-b from {values.min():z.2f} to {values.max():z.2f}, median"
            f" {values.median():z.2f}",
        )

    def _differ(self, one: str, other: str) -> bool:
        """True if two settings rank the methods more differently than resampled images make either."""
        pair = (one, other) if (one, other) in self.agreement else (other, one)
        return self.agreement[pair].high < min(self.stability[one].low, self.stability[other].low)

    def _swaps(self) -> Score:
        """Share of the pairs of methods that swap their order on an image, mean over pairs of settings."""
        i, j = torch.triu_indices(len(self.methods), len(self.methods), 1)
        signs = [(own[i] - own[j]).sign() for own in self.benefits.values()]
        shares = [(one * other < 0).double().mean(dim=0) for one, other in combinations(signs, 2)]
        return mean_of(torch.stack(shares).mean(dim=0))


def _verdict_of_rankings(share: float) -> Verdict:
    return verdict_of([share > _HALF, share > _CHANCE_OF_RANKINGS])


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
        """Mean where map and curve share a baseline, minus the mean elsewhere."""
        return diagonal_effect(self.benefits, Bootstrap())

    @property
    def interaction(self) -> Tensor:
        """``(S, S)`` means with the row and column effects removed: the part due to the pairing."""
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


def diagonals(removal: RemovalScores) -> list[Diagonal]:
    """Those of every generator and curve, over the distinct baselines."""
    names = removal.distinct
    every = []
    for generator in GENERATORS:
        for kind, sign in KINDS.items():
            areas = removal.areas(kind, [f"{generator}_{name}" for name in names], names)
            benefits = sign * areas.transpose(0, 1)
            kept = ~benefits.isnan().any(dim=0).any(dim=0)
            every.append(Diagonal(generator, kind, tuple(names), benefits[..., kept]))
    return every


def own_baseline(pairings: Sequence[Diagonal]) -> Finding:
    """Maps that score best when judged with the baseline that made them."""
    return Finding(
        "a map made with a baseline scores best when it is judged with that baseline",
        "for every generator, in insertion and in deletion, the mean area where map and metric share a"
        " baseline is better than where they do not, interval above 0; in part if for some",
        verdict_of([pairing.effect.low > 0 for pairing in pairings]),
        "; ".join(
            f"{pairing.generator}, {pairing.kind} {cell(pairing.effect)}, best with its own in {pairing.wins}"
            f" of {len(pairing.baselines)}"
            for pairing in pairings
        ),
    )
