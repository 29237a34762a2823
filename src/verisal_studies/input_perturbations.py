"""The study of input perturbations, after Brunke, Agrawal and George: baselines and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from verisal.functional.baselines import recommended_baselines
from verisal.pictures import Pixels
from verisal.results import Evaluation, SaliencyPanel
from verisal_studies.baseline_choice import image_agreement
from verisal_studies.figures import dots_pixels, map_table_pixels, matrices_pixels
from verisal_studies.perturbation_claims import (
    GENERATORS,
    Diagonal,
    Divergence,
    Rankings,
    axes,
    diagonals,
    hyperparameters,
    maps_by_baseline,
    maps_of_neutral,
    metric_values,
    own_baseline,
)
from verisal_studies.scores import KINDS, RemovalScores, cell, difference_of, mean_of, quoted, table
from verisal_studies.study import Finding, Study, StudyResult


@final
class InputPerturbations(Study):
    """Effects of baselines, hyperparameters and metric settings on maps, areas and rankings.

    Reads ``BaselineNeutrality`` and, with the same baselines, ``PerturbationCurves`` of the methods that are
    ranked and of maps named ``<generator>_<baseline>`` for the generators ``rise``, ``occlusion`` and
    ``extremal``; ``MapAgreement`` with a group ``<generator> baselines`` of these and a group for each
    hyperparameter; ROAD in both orders of the ranked methods; a ``SaliencyPanel`` of the maps, if any.

    References:
        brunke2020
    """

    page = "input_perturbations"

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Six claims, and the evidence."""
        removal = RemovalScores(evaluation)
        generators, changes = maps_by_baseline(removal), axes(removal)
        rankings, pairings = Rankings(removal), diagonals(removal)
        findings = (
            maps_of_neutral(generators),
            metric_values(removal),
            hyperparameters(changes),
            rankings.change(),
            rankings.orders_differ(),
            own_baseline(pairings),
        )
        setting = {
            "images": str(next(iter(rankings.benefits.values())).shape[1]),
            "baselines": quoted(removal.baselines),
            "neutral, without duplicates": quoted(removal.neutral),
            "hyperparameters": ", ".join(axis.name for axis in changes),
            "methods that are ranked": str(len(rankings.methods)),
            "metric settings": f"{len(rankings.settings)} ({len(rankings.agreement)} pairs)",
            "intervals": "95 %, bootstrap over images; none is corrected for the number of comparisons",
            **self.setting,
        }
        values = {
            "limit": removal.limit,
            "generators": _divergences("generator", generators, "1 (no random numbers)"),
            "neutrality": _neutrality(removal),
            **{kind: _areas(removal, kind) for kind in KINDS},
            "changes": _divergences("hyperparameter", changes, "1"),
            "methods": quoted(rankings.methods),
            "rankings": _rankings(rankings),
            "orders": _orders(rankings),
            "pairings": _pairings(pairings, removal.neutral),
            "recommended": _recommended(removal),
        }
        figures = _map_figure(removal) | {
            "axes": _axes_figure(changes),
            "rankings": _ranking_figure(rankings),
            **{f"own_baseline_{kind}": _pairing_figure(pairings, kind) for kind in KINDS},
        }
        return self.judged(
            findings, summary=_summary(findings), setting=setting, values=values, figures=figures
        )


def _summary(findings: Sequence[Finding]) -> str:
    claims: dict[str, list[str]] = {}
    for finding in findings:
        claims.setdefault(finding.verdict, []).append(finding.claim)
    return " ".join(
        f"{verdict[:1].upper()}{verdict[1:]}: {'; '.join(own)}." for verdict, own in sorted(claims.items())
    )


def _neutrality(removal: RemovalScores) -> str:
    keys = ("query_probability", "max_probability", "entropy", "change")
    rows = {}
    for name in removal.baselines:
        neutral = removal.is_neutral(name)
        word = "n/a" if neutral is None else "yes" if neutral else "no"
        if name in removal.same_as:
            word = f"equals `{removal.same_as[name]}` here"
        rows[name] = [*(cell(removal.scores.mean(name, f"neutrality/{key}")) for key in keys), word]
    return table(["baseline", "I1", "I2, largest", "I2, entropy", "I3", "neutral"], rows)


def _divergences(head: str, divergences: Sequence[Divergence], stated: str) -> str:
    rows = []
    for divergence in divergences:
        floor = cell(divergence.floor) if divergence.repeats else stated
        word = "yes" if divergence.diverges else "no"
        rows.append([divergence.name, cell(divergence.similarity), floor, cell(divergence.control), word])
    return table([head, "similarity", "same setting twice", "random maps", "diverges"], rows)


def _map_figure(removal: RemovalScores) -> dict[str, Pixels]:
    """Maps of the first image that has all of them."""
    panels = [panel for panel in removal.scores.evaluation.panels if isinstance(panel, SaliencyPanel)]
    names = {kind: {name: f"{kind}_{name}" for name in removal.baselines} for kind in GENERATORS}
    for panel in sorted(panels, key=lambda panel: panel.image_id):
        if all(name in panel.maps for own in names.values() for name in own.values()):
            pixels = map_table_pixels(
                panel.image,
                {kind: {name: panel.maps[full] for name, full in own.items()} for kind, own in names.items()},
                title="One image, three generators: maps by baseline image",
                caption="Maps from 0 (dark) to their own maximum (bright). RISE draws new masks each time.",
            )
            return {"maps": pixels}
    return {}


def _areas(removal: RemovalScores, kind: str) -> str:
    methods = removal.methods(GENERATORS)
    means = removal.areas(kind, methods, removal.distinct).nanmean(dim=2).T
    rows = {
        row: [*(f"{value:z.3f}" for value in own), f"{own.max() - own.min():z.3f}"]
        for row, own in zip(methods, means, strict=True)
    }
    return table(["", *(f"`{name}`" for name in removal.distinct), "largest minus smallest"], rows)


def _axes_figure(changes: Sequence[Divergence]) -> Pixels:
    return dots_pixels(
        {
            axis.name: {
                "other settings": axis.similarity,
                "same setting again": axis.floor,
                "random maps": axis.control,
            }
            for axis in changes
        },
        title="How alike maps stay when one hyperparameter changes (1: the same map)",
        label="Spearman similarity, median over pairs of settings, mean over images with 95 % interval",
    )


def _ranking_figure(rankings: Rankings) -> Pixels:
    return matrices_pixels(
        {f"{len(rankings.methods)} methods": rankings.matrix},
        rankings.settings,
        title="Agreement of the rankings of methods between metric settings",
        labels=("metric setting", "metric setting"),
        scale="Kendall's tau-b (1: the same ranking, -1: the opposite)",
        limits=(-1.0, 1.0),
    )


def _rankings(rankings: Rankings) -> str:
    others = (rankings.matrix.sum(dim=1) - 1) / (len(rankings.settings) - 1)
    rows = {}
    for place in others.argsort(descending=True, stable=True).tolist():
        name = rankings.settings[place]
        rows[name] = [f"{others[place]:z.2f}", cell(rankings.stability[name])]
    return table(["setting", "with the others", "with itself"], rows)


def _orders(rankings: Rankings) -> str:
    rows = (
        [name if name == "ROAD" else f"`{name}`", cell(agreement), "yes" if differ else "no"]
        for name, (agreement, differ) in rankings.removal_orders.items()
    )
    return table(["baseline", "tau-b", "rank differently"], rows)


def _pairing_figure(pairings: Sequence[Diagonal], kind: str) -> Pixels:
    limit = max(float(pairing.interaction.abs().max()) for pairing in pairings)
    return matrices_pixels(
        {pairing.generator: pairing.interaction for pairing in pairings if pairing.kind == kind},
        pairings[0].baselines,
        title=f"Do maps score better when {kind} uses their own baseline? (blue: better than expected)",
        labels=("baseline of the map", "baseline of the metric"),
        scale="area beyond row and column mean",
        limits=(-limit, limit),
    )


def _pairings(pairings: Sequence[Diagonal], neutral: Sequence[str]) -> str:
    rows = []
    for pairing in pairings:
        among = cell(pairing.among(neutral).effect) if len(neutral) > 1 else "n/a"
        wins = f"{pairing.wins} of {len(pairing.baselines)}"
        rows.append([pairing.generator, pairing.kind, cell(pairing.effect), among, wins])
    header = ["generator", "curve", "own baseline minus others", "among neutral ones", "own baseline is best"]
    return table(header, rows)


def _recommended(removal: RemovalScores) -> str:
    """The default baselines of the curves, judged on images that had no part in the choice."""
    names = [baseline.name for baseline in recommended_baselines()]
    missing = [name for name in names if name not in removal.distinct]
    if missing:
        return f"Not judged here: {missing} were not measured."
    methods = removal.methods(GENERATORS)
    benefits = removal.benefits(methods, removal.distinct)
    together = image_agreement(benefits, [removal.distinct.index(name) for name in names])
    rows = [["all of them", cell(mean_of(together)), ""]]
    better = 0
    for place, name in enumerate(removal.distinct):
        alone = image_agreement(benefits, [place])
        more = difference_of(together - alone)
        better += more.low > 0
        rows.append([f"`{name}` alone", cell(mean_of(alone)), cell(more)])
    spread = []
    for kind in KINDS:
        areas = removal.areas(kind, methods, names)
        spread.append(f"{kind} {cell(mean_of((areas.amax(dim=0) - areas.amin(dim=0)).mean(dim=0)))}")
    return (
        f"By default, `PerturbationCurves` averages over {quoted(names)}, which were"
        " [chosen](baseline_choice.md) on other scenes by how the methods rank on each image when areas are"
        " averaged over these and over all baselines. On the scenes of this page they are better than"
        f" {better} of {len(removal.distinct)} single baselines (Kendall's tau-b per image), with the"
        " interval of the difference above 0.\n\n"
        + table(["baselines", "agreement with the ranking by all", "all of them minus this one"], rows)
        + "\n\nLargest minus smallest area of an image among them, mean over methods and images: "
        + f"{', '.join(spread)}."
    )
