"""The study of maps that answer what was asked, after Wang et al. 2020."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

from torch import Tensor

from verisal.results import Evaluation, SaliencyPanel, Score
from verisal_studies.figures import answer_maps_pixels, dots_pixels, rank_lines_pixels, tradeoff_pixels
from verisal_studies.reliable_claims import (
    ABSENT,
    DELETION,
    ENERGY,
    EXCESS,
    FALSE,
    RESPONSE,
    RIGHT,
    SMALL,
    VANISHED,
    Evidence,
    ReliableRows,
    findings,
    summary,
)
from verisal_studies.scores import FIDELITY, cell, quoted, table
from verisal_studies.study import Section, Study, StudyFigure, StudyResult

_D_WSOL: Final = (
    "c0 is the true class, c1 the second most likely, c2 a random one outside the five most likely, c3 the"
    " least likely; c1 to c3 are absent from the image, and where one is annotated, the image is left out for"
    " it. D1 is the share of images whose box for the absent class is right for the true object, at a"
    " threshold on the map's own range (rel) or on that of the map of c0 (abs); D2 the sum of the raw map"
    " over that of c0; D3 the Spearman similarity of the two maps, n/a where one is empty; D4 the share of"
    " present classes, of scenes with several, whose map and box are on their own object. Read the controls"
    " first: `random` and `centre` know no query. D2 alone proves nothing: a map that vanishes, or a method"
    " that says nothing, lowers it too."
)
_NOISE: Final = {"excess": "excess", "fall": "fall blurred", "mirrored_fall": "fall mirrored"}
_CLASSES: Final = {"c0": "predicted", "rank2": "second", "last": "least likely"}


@final
class ReliableSaliency(Study):
    """Answers of methods that are asked for absent classes, hierarchical masks against earlier methods.

    Reads ``DisturbedLocalization``, ``ClassRanks``, ``GateNoise`` and ``SaliencyMetrics`` (smoothness, energy
    inside, fidelity, deletion).

    Args:
        title: of the page.
        commands: that make the page again.
        setting: what was measured on what, name to value.
        note: a sentence about the queries of this data set.
        rows: of the evaluation, by their part in the study.

    References:
        wang2020haf
    """

    claim = (
        "Asked to explain a class that is not the most likely one, earlier methods give nearly the same map"
        " for every class or scattered patterns, a *false response*. Causes are attributions that vanish and"
        " adversarial noise. If the network's output is kept while a mask is learned, the mask of an absent"
        " class stays empty; fusing the masks of several layers smooths them. Only the abstract of the paper"
        " was read: objective, protocol and numbers here are ours; none of the paper's numbers is repeated."
    )

    def __init__(
        self,
        *,
        title: str,
        commands: Sequence[str],
        setting: Mapping[str, str],
        note: str = "",
        rows: ReliableRows | None = None,
    ) -> None:
        super().__init__(setting, commands)
        self.title, self.note, self.rows = title, note, rows or ReliableRows()

    def result(self, evaluation: Evaluation) -> StudyResult:
        """The claims, judged by intervals."""
        evidence, names = Evidence(evaluation), self.rows
        judged = tuple(findings(evidence, names))
        images = evidence.disturbed(names.masks[0], "accuracy_c0").n
        queries = evidence.present(names.masks[0]).n
        setting = {
            **self.setting,
            "counted": f"{images} images classified correctly, {queries} queries of present classes",
            "methods": quoted(names.asked),
            "intervals": "95 %, percentile bootstrap over images, 2000 resamples; differences are paired",
        }
        sections = (
            _answers(evidence, names, self.note),
            _reliability(evidence, names),
            _vanishing(evidence, names),
            _smoothness(evidence, names),
            _noise(evidence, names),
            _comparisons(len(evidence.comparisons)),
        )
        return self.judged(judged, sections, summary=summary(evidence, names), setting=setting)


def _answers(evidence: Evidence, names: ReliableRows, note: str) -> Section:
    responses, rows = {}, {}
    for row in names.asked:
        own = {query: evidence.disturbed(row, f"response_ratio_{query}") for query in ABSENT}
        same_as = [evidence.disturbed(row, f"spearman_{query}") for query in ABSENT]
        responses[_plain(row)] = own
        answered = ", ".join(
            f"{query}{' (same map)' if same else ''}"
            for query, (any_, same) in evidence.false_responses(row).items()
            if any_
        )
        rows[row] = [*map(cell, (*own.values(), *same_as)), answered or "none"]
    pixels = dots_pixels(
        responses,
        title="Asked for a class that is not there: response of the raw map (low is good)",
        label="raw map's sum for the absent class / for the true class, (open: beyond 2)",
        line=1.0,
        high=2.0,
    )
    words = "Response of every method to three absent classes as a share of its response to the true one"
    header = ["", *(f"D2 {query} ↓" for query in ABSENT), *(f"D3 {query} ↓" for query in ABSENT), "answers"]
    return Section(
        "Answers to absent classes",
        f"{_D_WSOL} {note}\n\n{table(header, rows)}",
        (StudyFigure("response", words, pixels), *_maps(evidence)),
    )


def _maps(evidence: Evidence) -> Iterator[StudyFigure]:
    """Maps by class rank of the first image that has them."""
    for panel in evidence.scores.evaluation.panels:
        if isinstance(panel, SaliencyPanel) and all(", " in name for name in panel.maps):
            rows: dict[str, dict[str, Tensor]] = {}
            for name, values in panel.maps.items():
                method, _, query = name.rpartition(", ")
                rows.setdefault(_plain(method), {})[query] = values
            title = "Raw maps by the rank of the class asked for; each row on one scale"
            yield StudyFigure(
                "maps_by_rank",
                "Raw maps of one image for classes that are less and less likely, each row on one scale",
                answer_maps_pixels(panel.image, rows, title=title),
            )
            return


def _reliability(evidence: Evidence, names: ReliableRows) -> Section:
    queries = [f"{form} {query}" for form in ("rel", "abs") for query in ABSENT]
    rows = {}
    for row in names.asked:
        missed = ", ".join(evidence.missed(row))
        empty = (evidence.disturbed(row, f"n_empty_{query}").value for query in ("c0", *ABSENT))
        rows[row] = [
            cell(evidence.disturbed(row, "accuracy_c0")),
            *(cell(evidence.disturbed(row, f"flr_{query.replace(' ', '_')}")) for query in queries),
            cell(evidence.present(row)),
            " / ".join(f"{count:g}" for count in empty),
            f"no: {missed}" if missed else "yes",
        ]
    header = ["", "Acc(c0) ↑", *(f"D1 {query} ↓" for query in queries), "D4 ↑", "empty", "reliable"]
    whole = cell(evidence.disturbed(names.masks[0], "whole_image_c0"))
    return Section(
        "Reliability",
        "Reliable is what answers where there is something and is silent where there is nothing: D1 and D2"
        " low, Acc(c0) and D4 high, whole intervals on the right side of the limits. Empty counts maps"
        f" without any answer, for c0 to c3. The whole image as a box would be right for {whole} of the"
        f" images.\n\n{table(header, rows)}",
    )


def _vanishing(evidence: Evidence, names: ReliableRows) -> Section:
    ranks = {
        rank: "least likely" if rank == "last" else f"rank {rank.removeprefix('rank')}"
        for rank in evidence.ranks(names.logit)
    }
    shown = [row for row in names.asked if row not in names.controls]
    norms = {
        row: {words: evidence.ranked(row, f"norm[{rank}]") for rank, words in ranks.items()}
        for row in (*shown, *names.controls)
    }
    whole = {"c0": Score(1.0, 1.0, 1.0, n=1)}
    pixels = rank_lines_pixels(
        {_plain(row): whole | norms[row] for row in shown},
        title="Norm of the raw map by class rank: what falls with the probability vanishes",
        label="norm / norm for the predicted class\n(below 0.0001: drawn there)",
    )
    words = "Norm of the raw map by the rank of the class, as a share of that of the predicted class"
    rows = {row: [cell(score) for score in own.values()] for row, own in norms.items()}
    return Section(
        "Attribution vanishing",
        "A map that fades because the probability does says nothing about the class; one that is empty"
        " because there is no evidence does. The norm cannot tell them apart: for methods that explain"
        f" probabilities (`{names.probability}`, occlusion, RISE) and for masks alike, read D4 beside it,"
        " where the class asked for is present and is not the most likely"
        f" one.\n\n{table(['', *ranks.values()], rows)}",
        (StudyFigure("vanishing", words, pixels),),
    )


def _smoothness(evidence: Evidence, names: ReliableRows) -> Section:
    scores, first = evidence.scores, next(iter(names.fused))
    columns = ["smoothness/total_variation", "smoothness/high_frequencies"]
    columns += [scores.name(first, pattern) for pattern in (ENERGY, FIDELITY, DELETION)]
    shown = (*names.fused, *names.layers, names.logit, *names.fused.values(), *names.controls)
    means = {row: [scores.mean(row, name) for name in columns] for row in shown}
    pixels = tradeoff_pixels(
        {_plain(row): (own[0], own[2]) for row, own in means.items()},
        title="Smooth and on the object: upper left is good",
        labels=("total variation at equal mass (low is smooth)", "share of energy on the object"),
    )
    header = ["", "total variation", "high frequencies", "energy inside ↑", "fidelity ↓", "deletion ↓"]
    rows = {row: [cell(score) for score in own] for row, own in means.items()}
    return Section(
        "Smoothness",
        "Total variation of the map divided by its sum, in units of one over the image's side, and the share"
        " of energy above half of the highest frequency. Any blur lowers both, so the gradient is shown"
        " under the narrowest Gaussian that gives it the total variation of the fused map, image by image."
        f" Fused maps are shown without the Gaussian that is applied by default.\n\n{table(header, rows)}",
        (StudyFigure("smoothness", "Total variation at equal mass against energy on the object", pixels),),
    )


def _noise(evidence: Evidence, names: ReliableRows) -> Section:
    columns = {
        f"{words}, {said}": f"gate noise/{kind}[{query}]"
        for kind, words in _NOISE.items()
        for query, said in _CLASSES.items()
    }
    rows = {
        row: [cell(evidence.scores.reported(row, name)) for name in columns.values()]
        for row in (*names.masks, names.ablation)
    }
    return Section(
        "Noise in the gates",
        "Shares of the range of the image's logits. Excess: the logit with gates above the larger of its"
        " values without gates and with all gates at 0. Fall: what is lost when the gates are blurred by one"
        " cell in every stage; control: when they are mirrored left to"
        f" right.\n\n{table(['', *columns], rows)}",
    )


def _comparisons(count: int) -> Section:
    return Section(
        "Comparisons",
        f"{count} paired differences were judged, each by its own 95 % interval from 2000 resamples of the"
        " images, and no correction was made: about one in twenty excludes 0 by chance where there is"
        f" nothing. A claim therefore never rests on one of them alone. Rules and limits (D1 {FALSE:g}, D2"
        f" {SMALL:g}, answers and sameness {RESPONSE:g}, Acc(c0) and D4 {RIGHT:g}, vanished {VANISHED:g},"
        f" excess {EXCESS:g}) were written down before any of these images was scored, with the benchmark's"
        " table for other scenes at hand.",
    )


def _plain(row: str) -> str:
    return row.replace("_", " ")
