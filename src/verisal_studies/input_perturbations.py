"""The study of input perturbations, after Brunke, Agrawal and George: baselines and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from verisal.functional.baselines.random import recommended_baselines
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
from verisal_studies.removal_scores import KINDS, RemovalScores
from verisal_studies.scores import cell, difference_of, mean_of, quoted, table
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult

_COMMANDS: Final = (
    "verisal validate --config configs/study/input_perturbations.yaml --trainer.devices 2 --trainer.strategy"
    " ddp",
)
_CURVES: Final = {
    "insertion": "insertion (with one baseline its area is that of LeRF), higher is better",
    "deletion": "deletion (MoRF), lower is better",
}


@final
class InputPerturbations(Study):
    """Effects of baselines, hyperparameters and metric settings on maps, areas and rankings.

    Reads ``BaselineNeutrality`` and, with the same baselines, ``PerturbationCurves`` of the methods that are
    ranked and of maps named ``<generator>_<baseline>`` for the generators ``rise``, ``occlusion`` and
    ``extremal``; ``MapAgreement`` with a group ``<generator> baselines`` of these and a group for each
    hyperparameter; ROAD in both orders of the ranked methods; a ``SaliencyPanel`` of the maps, if any.

    Args:
        setting: what else to say of it, name to value.
        commands: that make the page again.

    References:
        brunke2020
    """

    title = "Input perturbations"
    claim = (
        "Baseline images that are neutral to a classifier still change perturbation maps and their"
        " evaluation; many choices of hyperparameters make perturbation maps diverge; such methods disagree"
        " and are not robust, neither as generators of maps nor as metrics (Brunke, Agrawal and George,"
        " 2020). The claims are tested here with settings of our own; no table of the paper is repeated."
    )

    def __init__(
        self, *, setting: Mapping[str, str] | None = None, commands: Sequence[str] = _COMMANDS
    ) -> None:
        super().__init__(setting or {}, commands)

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Six claims, and the evidence."""
        scores = RemovalScores(evaluation)
        generators, changes = maps_by_baseline(scores), axes(scores)
        rankings, pairings = Rankings(scores), diagonals(scores)
        findings = (
            maps_of_neutral(generators),
            metric_values(scores),
            hyperparameters(changes),
            rankings.change(),
            rankings.orders_differ(),
            own_baseline(pairings),
        )
        setting = {
            "images": str(next(iter(rankings.benefits.values())).shape[1]),
            "baselines": quoted(scores.baselines),
            "neutral, each once": quoted(scores.neutral),
            "hyperparameters": ", ".join(one.name for one in changes),
            "methods that are ranked": str(len(rankings.methods)),
            "metric settings": f"{len(rankings.settings)} ({len(rankings.agreement)} pairs)",
            "intervals": "95 %, bootstrap over images; none is corrected for the number of comparisons",
            **self.setting,
        }
        sections = (
            _maps(scores, generators),
            _areas(scores),
            _axes(changes),
            _rankings(rankings),
            _pairings(pairings, scores.neutral),
            _recommended(scores),
        )
        return self.judged(findings, sections, summary=_summary(findings), setting=setting)


def _summary(findings: Sequence[Finding]) -> str:
    claims: dict[str, list[str]] = {}
    for finding in findings:
        claims.setdefault(finding.verdict, []).append(finding.claim)
    return " ".join(
        f"{verdict[:1].upper()}{verdict[1:]}: {'; '.join(own)}." for verdict, own in sorted(claims.items())
    )


def _maps(scores: RemovalScores, generators: Sequence[Divergence]) -> Section:
    """What every baseline says to the classifier, and what it does to the maps."""
    keys = ("query_probability", "max_probability", "entropy", "change")
    neutrality = {
        name: [
            *(cell(scores.scores.mean(name, f"neutrality/{key}")) for key in keys),
            _neutral_word(scores, name),
        ]
        for name in scores.baselines
    }
    text = (
        "Maps of the same image and generator over the distinct neutral baselines, median Spearman similarity"
        f" of all pairs:\n\n{_divergences('generator', generators, '1 (no random numbers)')}\n\nEvery setting"
        " of RISE draws masks of its own, so that two settings share no more than two runs of one setting"
        " do.\n\nWhat the classifier makes of the baseline images. A baseline is neutral if its mean I1 is at"
        f" most {scores.limit:.4f} (1/K, or 0.01 where that is more), as far as its interval can tell: an"
        " image that shows the same for all classes has a mean I1 of exactly 1/K when classes are equally"
        " frequent. I1 is the probability of the image's class on the baseline image, I2 its largest"
        " probability and the entropy over log K, I3 the change when half of the cells of a 7-row grid are"
        " replaced:\n\n"
        + table(["baseline", "I1", "I2, largest", "I2, entropy", "I3", "neutral"], neutrality)
        + "\n\nEvery generator takes every baseline. `inpaint` and `linear` depend on the mask, so that they"
        " are filled anew for every mask and have no neutrality of their own; the gradient of extremal"
        " perturbation does not pass through the filling. `other` is a scene of another class."
    )
    return Section("Maps by baseline", text, _map_figure(scores))


def _divergences(head: str, divergences: Sequence[Divergence], stated: str) -> str:
    rows = (
        [
            one.name,
            cell(one.similarity),
            cell(one.floor) if one.repeats else stated,
            cell(one.control),
            "yes" if one.diverges else "no",
        ]
        for one in divergences
    )
    return table([head, "similarity", "same setting twice", "random maps", "diverges"], rows)


def _neutral_word(scores: RemovalScores, name: str) -> str:
    if name in scores.same_as:
        return f"is `{scores.same_as[name]}` here"
    neutral = scores.is_neutral(name)
    return "n/a" if neutral is None else "yes" if neutral else "no"


def _map_figure(scores: RemovalScores) -> tuple[StudyFigure, ...]:
    """Maps of the first image that has all of them."""
    panels = [panel for panel in scores.scores.evaluation.panels if isinstance(panel, SaliencyPanel)]
    for panel in sorted(panels, key=lambda panel: panel.image_id):
        names = {one: {name: f"{one}_{name}" for name in scores.baselines} for one in GENERATORS}
        if all(name in panel.maps for own in names.values() for name in own.values()):
            pixels = map_table_pixels(
                panel.image,
                {one: {name: panel.maps[full] for name, full in own.items()} for one, own in names.items()},
                title="One image, three generators: maps by baseline image",
                caption="Maps from 0 (dark) to their own maximum (bright). RISE draws new masks each time.",
            )
            return (StudyFigure("maps", "maps of one image by generator and baseline", pixels),)
    return ()


def _areas(scores: RemovalScores) -> Section:
    """Mean areas of every method with every baseline."""
    methods, parts = scores.methods(GENERATORS), []
    header = ["", *(f"`{name}`" for name in scores.distinct), "largest minus smallest"]
    for kind, words in _CURVES.items():
        means = scores.areas(kind, methods, scores.distinct).nanmean(dim=2).T
        rows = {
            row: [*(f"{value:.3f}" for value in own), f"{own.max() - own.min():.3f}"]
            for row, own in zip(methods, means, strict=True)
        }
        parts.append(f"Mean areas, {words}:\n\n{table(header, rows)}")
    return Section("Metric values by baseline", "\n\n".join(parts))


def _axes(changes: Sequence[Divergence]) -> Section:
    """Divergence along hyperparameters."""
    pixels = dots_pixels(
        {
            one.name: {
                "other settings": one.similarity,
                "same setting again": one.floor,
                "random maps": one.control,
            }
            for one in changes
        },
        title="How alike maps stay when one hyperparameter changes (1: the same map)",
        label="Spearman similarity, median over pairs of settings, mean over images with 95 % interval",
    )
    text = (
        f"{_divergences('hyperparameter', changes, '1')}\n\nThe settings are in the study's configuration."
        " Where nothing is drawn at random, the same setting gives the same map, and any change counts as"
        " below the floor; there a similarity of at least 0.9 is still called alike. A smaller number of"
        " masks of RISE is the beginning of a larger one, which makes these maps more alike."
    )
    figure = StudyFigure("axes", "similarity of maps along every hyperparameter, beside its floor", pixels)
    return Section("Maps by hyperparameter", text, (figure,))


def _rankings(rankings: Rankings) -> Section:
    """Kendall's tau-b between all settings, and between MoRF and LeRF."""
    matrix = rankings.matrix
    pixels = matrices_pixels(
        {f"{len(rankings.methods)} methods": matrix},
        rankings.settings,
        title="Agreement of the rankings of methods between metric settings",
        labels=("metric setting", "metric setting"),
        scale="Kendall's tau-b (1: the same ranking, -1: the opposite)",
        limits=(-1.0, 1.0),
    )
    others = (matrix.sum(dim=1) - 1) / (len(matrix) - 1)
    alone = {}
    for place in others.argsort(descending=True, stable=True).tolist():
        name = rankings.settings[place]
        alone[name] = [f"{others[place]:.2f}", cell(rankings.stability[name])]
    removal = (
        [name if name == "ROAD" else f"`{name}`", cell(agreement), "yes" if differ else "no"]
        for name, (agreement, differ) in rankings.removal_orders.items()
    )
    text = (
        f"Methods: {quoted(rankings.methods)}. Every setting's mean agreement with the other settings, beside"
        " its agreement with itself on resampled images (middle 95 %):\n\n"
        + table(["setting", "with the others", "with itself"], alone)
        + "\n\nMoRF against LeRF:\n\n"
        + table(["baseline", "tau-b", "rank differently"], removal)
    )
    figure = StudyFigure("rankings", "heat map of Kendall's tau-b between metric settings", pixels)
    return Section("Rankings of methods by metric setting", text, (figure,))


def _pairings(pairings: Sequence[Diagonal], neutral: Sequence[str]) -> Section:
    """What is left for the pairing of a map's baseline with the metric's."""
    figures, limit = [], max(float(one.interaction.abs().max()) for one in pairings)
    for kind in KINDS:
        pixels = matrices_pixels(
            {one.generator: one.interaction for one in pairings if one.kind == kind},
            pairings[0].baselines,
            title=f"Do maps score better when {kind} uses their own baseline? (blue: better than expected)",
            labels=("baseline of the map", "baseline of the metric"),
            scale="area beyond row and column mean",
            limits=(-limit, limit),
        )
        figures.append(StudyFigure(f"own_baseline_{kind}", f"{kind} by baseline of map and metric", pixels))
    rows = (
        [
            one.generator,
            one.kind,
            cell(one.effect),
            cell(one.among(neutral).effect) if len(neutral) > 1 else "n/a",
            f"{one.wins} of {len(one.baselines)}",
        ]
        for one in pairings
    )
    header = ["generator", "curve", "own baseline minus others", "among neutral ones", "own baseline is best"]
    text = (
        "Mean area where map and metric share a baseline, minus the mean elsewhere, signed so that more is"
        " better; and for how many baselines of the metric the maps made with it are the best:\n\n"
        + table(header, rows)
    )
    return Section("Maps judged with their own baseline", text, tuple(figures))


def _recommended(scores: RemovalScores) -> Section:
    """How the default of the curves does on images that had no part in its choice."""
    names, title = [baseline.name for baseline in recommended_baselines()], "Recommended baselines"
    missing = [name for name in names if name not in scores.distinct]
    if missing:
        return Section(title, f"Not judged here: {missing} were not measured.")
    methods = scores.methods(GENERATORS)
    benefits = scores.benefits(methods, scores.distinct)
    together = image_agreement(benefits, [scores.distinct.index(name) for name in names])
    rows = [["all of them", cell(mean_of(together)), ""]]
    better = 0
    for place, name in enumerate(scores.distinct):
        alone = image_agreement(benefits, [place])
        more = difference_of(together - alone)
        better += more.low > 0
        rows.append([f"`{name}` alone", cell(mean_of(alone)), cell(more)])
    spread = []
    for kind in KINDS:
        areas = scores.areas(kind, methods, names)
        spread.append(f"{kind} {cell(mean_of((areas.amax(dim=0) - areas.amin(dim=0)).mean(dim=0)))}")
    text = (
        f"`PerturbationCurves` averages over {quoted(names)} unless told otherwise:"
        " [chosen](baseline_choice.md) on other scenes by how the methods rank on each image when areas are"
        " averaged over these and over all baselines. On the scenes of this page (Kendall's tau-b per image):"
        f" better than {better} of {len(scores.distinct)} single baselines with the interval of the"
        " difference above 0.\n\n"
        + table(["baselines", "agreement with the ranking by all", "all of them minus this one"], rows)
        + "\n\nLargest minus smallest area of an image among them, mean over methods and images: "
        + f"{', '.join(spread)}."
    )
    return Section(title, text)
