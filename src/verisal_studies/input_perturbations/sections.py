"""The evidence of the study of input perturbations: tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from verisal.functional.baselines.random import recommended_baselines
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.results import Evaluation, SaliencyPanel
from verisal_studies.figures import dots_pixels, map_table_pixels, matrices_pixels
from verisal_studies.input_perturbations.baseline_choice import image_agreement
from verisal_studies.input_perturbations.claims import GENERATORS, Divergence
from verisal_studies.input_perturbations.ranking import Diagonal, Rankings
from verisal_studies.removal_scores import KINDS, RemovalScores
from verisal_studies.scores import cell, table
from verisal_studies.study import Section, StudyFigure

__all__ = [
    "area_section",
    "axis_section",
    "diagonal_section",
    "map_section",
    "ranking_section",
    "recommended_section",
]

_MORE: Final = {
    "insertion": "insertion (with one baseline its area is that of LeRF), higher is better",
    "deletion": "deletion (MoRF), lower is better",
}


def map_section(found: Evaluation, scores: RemovalScores, generators: Sequence[Divergence]) -> Section:
    """What every baseline says to the classifier, and what it does to the maps."""
    rows = [
        [
            f"`{name}`",
            *(
                cell(scores.images.mean(name, f"neutrality/{key}"))
                for key in ("query_probability", "max_probability", "entropy", "change")
            ),
            _neutral_word(scores, name),
        ]
        for name in scores.baselines
    ]
    maps = [
        [one.name, cell(one.similarity), cell(one.floor) if one.repeats else "1 (no random numbers)",
         cell(one.control), "yes" if one.diverges else "no"]
        for one in generators
    ]  # fmt: skip
    text = (
        "Maps of the same image and generator over the distinct neutral baselines, median Spearman similarity"
        " of all pairs:\n\n"
        + table(["generator", "similarity", "same setting twice", "random maps", "diverges"], maps)
        + "\n\nEvery setting of RISE draws masks of its own, so that two settings share no more than two"
        " runs of one setting do.\n\nWhat the classifier makes of the baseline"
        f" images. Neutral is one whose mean I1 is at most {scores.limit:.4f} (1/K, or 0.01 where that is"
        " more), as far as its interval can tell: an image that shows the same for all classes has a mean I1"
        " of exactly 1/K when classes are equally frequent. I1 is the probability of the image's class on"
        " the baseline image, I2 its largest probability and the entropy over log K, I3 the change when half"
        " of the cells of a 7-row grid are replaced:\n\n"
        + table(["baseline", "I1", "I2, largest", "I2, entropy", "I3", "neutral"], rows)
        + "\n\nEvery generator takes every baseline. `inpaint` and `linear` depend on the mask, so that they"
        " are filled anew for every mask and have no neutrality of their own; the gradient of extremal"
        " perturbation does not pass through the filling. `other` is a scene of another class."
    )
    return Section("Maps by baseline", text, _map_figure(found, scores))


def area_section(scores: RemovalScores) -> Section:
    """Mean areas of every method with every baseline."""
    methods, parts = scores.methods(GENERATORS), []
    for kind in KINDS:
        means = scores.areas(kind, methods, scores.distinct).nanmean(dim=2).T
        rows = [
            [f"`{row}`", *(f"{value:.3f}" for value in values), f"{values.max() - values.min():.3f}"]
            for row, values in zip(methods, means, strict=True)
        ]
        header = ["", *(f"`{name}`" for name in scores.distinct), "largest minus smallest"]
        parts.append(f"Mean areas, {_MORE[kind]}:\n\n{table(header, rows)}")
    return Section("Metric values by baseline", "\n\n".join(parts))


def axis_section(axes: Sequence[Divergence]) -> Section:
    """Divergence along hyperparameters."""
    rows = [
        [one.name, cell(one.similarity), cell(one.floor) if one.repeats else "1", cell(one.control),
         "yes" if one.diverges else "no"]
        for one in axes
    ]  # fmt: skip
    pixels = dots_pixels(
        {
            one.name: {
                "other settings": one.similarity,
                "same setting again": one.floor,
                "random maps": one.control,
            }
            for one in axes
        },
        title="How alike maps stay when one hyperparameter changes (1: the same map)",
        label="Spearman similarity, median over pairs of settings, mean over images with 95 % interval",
    )
    text = (
        table(["hyperparameter", "similarity", "same setting twice", "random maps", "diverges"], rows)
        + "\n\nThe settings are in the study's configuration. Where nothing is drawn at random, the same"
        " setting gives the same map, and any change counts as below the floor; there a similarity of at"
        " least 0.9 is still called alike. Fewer masks of RISE are the first of more masks, which makes"
        " these maps more alike."
    )
    figure = StudyFigure("axes", "similarity of maps along every hyperparameter, beside its floor", pixels)
    return Section("Maps by hyperparameter", text, (figure,))


def ranking_section(rankings: Rankings) -> Section:
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
    order = others.argsort(descending=True, stable=True).tolist()
    alone = [
        [
            f"`{rankings.settings[place]}`",
            f"{others[place]:.2f}",
            cell(rankings.stability[rankings.settings[place]]),
        ]
        for place in order
    ]
    removal = [
        [name if name == "ROAD" else f"`{name}`", cell(agreement), "yes" if differ else "no"]
        for name, (agreement, differ) in rankings.removal_orders().items()
    ]
    text = (
        f"Methods: {', '.join(f'`{name}`' for name in rankings.methods)}. Every setting's mean agreement"
        " with the other settings, beside its agreement with itself on resampled images (middle 95 %):\n\n"
        + table(["setting", "with the others", "with itself"], alone)
        + "\n\nMoRF against LeRF:\n\n"
        + table(["baseline", "tau-b", "rank differently"], removal)
    )
    figure = StudyFigure("rankings", "heat map of Kendall's tau-b between metric settings", pixels)
    return Section("Rankings of methods by metric setting", text, (figure,))


def diagonal_section(found: Sequence[Diagonal], neutral: Sequence[str]) -> Section:
    """What is left for the pairing of a map's baseline with the metric's."""
    figures, limit = [], max(float(one.interaction.abs().max()) for one in found)
    for kind in KINDS:
        pixels = matrices_pixels(
            {one.generator: one.interaction for one in found if one.kind == kind},
            found[0].baselines,
            title=f"Do maps score better when {kind} uses their own baseline? (blue: better than expected)",
            labels=("baseline of the map", "baseline of the metric"),
            scale="area beyond row and column mean",
            limits=(-limit, limit),
        )
        figures.append(StudyFigure(f"own_baseline_{kind}", f"{kind} by baseline of map and metric", pixels))
    rows = [
        [
            one.generator,
            one.kind,
            cell(one.effect),
            cell(one.among(neutral).effect) if len(neutral) > 1 else "n/a",
            f"{one.wins} of {len(one.baselines)}",
        ]
        for one in found
    ]
    text = (
        "Mean area where map and metric share a baseline, minus the mean elsewhere, turned so that more is"
        " better; and for how many baselines of the metric the maps made with it are the best:\n\n"
        + table(
            ["generator", "curve", "own baseline minus others", "among neutral ones", "own baseline is best"],
            rows,
        )
    )
    return Section("Maps judged with their own baseline", text, tuple(figures))


def recommended_section(scores: RemovalScores) -> Section:
    """How the default of the curves does on images that had no part in its choice."""
    names = [baseline.name for baseline in recommended_baselines()]
    missing = [name for name in names if name not in scores.distinct]
    if missing:
        return Section("Recommended baselines", f"Not judged here: {missing} were not measured.")
    benefits = scores.benefits(scores.methods(GENERATORS), scores.distinct)
    places = [scores.distinct.index(name) for name in names]
    together = image_agreement(benefits, places)
    rows = [["all of them", cell(bootstrap_mean(together)), ""]]
    words = []
    for name in scores.distinct:
        alone = image_agreement(benefits, [scores.distinct.index(name)])
        more = bootstrap_mean(together - alone, kind="difference")
        words.append(more.low > 0)
        rows.append([f"`{name}` alone", cell(bootstrap_mean(alone)), cell(more)])
    spread = [f"{kind} {cell(bootstrap_mean(_range(scores, kind, names)))}" for kind in KINDS]
    text = (
        f"`PerturbationCurves` averages over {', '.join(f'`{name}`' for name in names)} unless told"
        " otherwise: [chosen](baseline_choice.md) on other scenes by how the methods rank on each image when"
        " areas are averaged over these and over all baselines. On the scenes of this page (Kendall's tau-b"
        f" per image): better than {sum(words)} of {len(words)} single baselines with the interval of the"
        " difference above 0.\n\n"
        + table(["baselines", "agreement with the ranking by all", "all of them minus this one"], rows)
        + "\n\nLargest minus smallest area of an image among them, mean over methods and images: "
        + ", ".join(spread) + "."
    )  # fmt: skip
    return Section("Recommended baselines", text)


def _range(scores: RemovalScores, kind: str, names: Sequence[str]) -> torch.Tensor:
    areas = scores.areas(kind, scores.methods(GENERATORS), names)
    return (areas.amax(dim=0) - areas.amin(dim=0)).mean(dim=0)


def _neutral_word(scores: RemovalScores, name: str) -> str:
    if name in scores.same_as:
        return f"is `{scores.same_as[name]}` here"
    neutral = scores.is_neutral(name)
    return "n/a" if neutral is None else "yes" if neutral else "no"


def _map_figure(found: Evaluation, scores: RemovalScores) -> tuple[StudyFigure, ...]:
    panels = sorted(
        (panel for panel in found.panels if isinstance(panel, SaliencyPanel)), key=lambda one: one.image_id
    )
    wanted = {row: [f"{row}_{name}" for name in scores.baselines] for row in GENERATORS}
    for panel in panels:
        if all(name in panel.maps for names in wanted.values() for name in names):
            rows = {
                row: dict(zip(scores.baselines, (panel.maps[name] for name in names), strict=True))
                for row, names in wanted.items()
            }
            pixels = map_table_pixels(
                panel.image,
                rows,
                title="One image, three generators: maps by baseline image",
                caption="Maps from 0 (dark) to their own maximum (bright). RISE draws new masks each time.",
            )
            return (StudyFigure("maps", "maps of one image by generator and baseline", pixels),)
    return ()
