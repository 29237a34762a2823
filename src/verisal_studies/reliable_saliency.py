"""The study of maps that answer the question they were asked, after Wang et al. 2020."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final

from torch import Tensor

from verisal.pictures import Pixels
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
from verisal_studies.study import Study, StudyResult

_LIMITS: Final = (
    f"D1 {FALSE:g}, D2 {SMALL:g}, answers and sameness {RESPONSE:g}, Acc(c0) and D4 {RIGHT:g}, vanished"
    f" {VANISHED:g}, excess {EXCESS:g}"
)
_NOISE: Final = {"excess": "excess", "fall": "fall blurred", "mirrored_fall": "fall mirrored"}
_SMOOTHNESS: Final = (
    "total variation",
    "high frequencies",
    "energy inside ↑",
    "fidelity ↓",
    "deletion ↓",
)
_CLASSES: Final = {"c0": "predicted", "rank2": "second", "last": "least likely"}


@final
class ReliableSaliency(Study):
    """Answers of methods that are asked for absent classes, hierarchical masks against earlier methods.

    Reads ``DisturbedLocalization``, ``ClassRanks``, ``GateNoise`` and ``SaliencyMetrics`` (smoothness, energy
    inside, fidelity, deletion).

    Args:
        title: of the page.
        commands: the ones that make the page again.
        setting: what was measured on what, name to value.
        note: a sentence about the queries of this data set.
        rows: of the evaluation, by their part in the study.

    References:
        wang2020haf
    """

    page = "reliable_saliency"

    def __init__(
        self,
        *,
        title: str,
        commands: Sequence[str],
        setting: Mapping[str, str],
        note: str = "",
        rows: ReliableRows | None = None,
    ) -> None:
        super().__init__(commands=commands, setting=setting)
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
        ranks = {
            rank: "least likely" if rank == "last" else f"rank {rank.removeprefix('rank')}"
            for rank in evidence.ranks(names.logit)
        }
        norms = {
            row: {words: evidence.ranked(row, f"norm[{rank}]") for rank, words in ranks.items()}
            for row in names.asked
        }
        columns = ["smoothness/total_variation", "smoothness/high_frequencies"]
        first = next(iter(names.fused))
        columns += [evidence.scores.name(first, pattern) for pattern in (ENERGY, FIDELITY, DELETION)]
        smooth = (*names.fused, *names.layers, names.logit, *names.fused.values(), *names.controls)
        means = {row: [evidence.scores.mean(row, name) for name in columns] for row in smooth}
        values = {
            "title": self.title,
            "note": self.note,
            "answers": _answers(evidence, names),
            "whole": cell(evidence.disturbed(names.masks[0], "whole_image_c0")),
            "reliability": _reliability(evidence, names),
            "probability": names.probability,
            "norms": _cells(ranks.values(), {row: own.values() for row, own in norms.items()}),
            "smoothness": _cells(_SMOOTHNESS, means),
            "noise": _noise(evidence, names),
            "comparisons": len(evidence.comparisons),
            "limits": _LIMITS,
        }
        figures = {
            "response": _response_figure(evidence, names),
            "vanishing": _vanishing_figure(norms, names),
            "smoothness": tradeoff_pixels(
                {_plain(row): (own[0], own[2]) for row, own in means.items()},
                title="Smooth and on the object: upper left is good",
                labels=("total variation at equal mass (low is smooth)", "share of energy on the object"),
            ),
            **_map_figure(evidence),
        }
        return self.judged(
            judged, summary=summary(evidence, names), setting=setting, values=values, figures=figures
        )


def _answers(evidence: Evidence, names: ReliableRows) -> str:
    rows = {}
    for row in names.asked:
        scores = [f"{name}_{query}" for name in ("response_ratio", "spearman") for query in ABSENT]
        answered = ", ".join(
            f"{query}{' (same map)' if same else ''}"
            for query, (any_, same) in evidence.false_responses(row).items()
            if any_
        )
        rows[row] = [*(cell(evidence.disturbed(row, name)) for name in scores), answered or "none"]
    header = (f"{measure} {query} ↓" for measure in ("D2", "D3") for query in ABSENT)
    return table(["", *header, "answers"], rows)


def _response_figure(evidence: Evidence, names: ReliableRows) -> Pixels:
    return dots_pixels(
        {
            _plain(row): {query: evidence.disturbed(row, f"response_ratio_{query}") for query in ABSENT}
            for row in names.asked
        },
        title="Asked for a class that is not there: response of the raw map (low is good)",
        label="raw map's sum for the absent class / for the true class, (open: beyond 2)",
        line=1.0,
        high=2.0,
    )


def _map_figure(evidence: Evidence) -> dict[str, Pixels]:
    """Maps by class rank of the first image that has them."""
    for panel in evidence.scores.evaluation.panels:
        if isinstance(panel, SaliencyPanel) and all(", " in name for name in panel.maps):
            rows: dict[str, dict[str, Tensor]] = {}
            for name, values in panel.maps.items():
                method, _, query = name.rpartition(", ")
                rows.setdefault(_plain(method), {})[query] = values
            title = "Raw maps by the rank of the class asked for; each row on one scale"
            return {"maps_by_rank": answer_maps_pixels(panel.image, rows, title=title)}
    return {}


def _reliability(evidence: Evidence, names: ReliableRows) -> str:
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
    return table(header, rows)


def _vanishing_figure(norms: Mapping[str, dict[str, Score]], names: ReliableRows) -> Pixels:
    whole = {"c0": Score(1.0, 1.0, 1.0, n=1)}
    return rank_lines_pixels(
        {_plain(row): whole | own for row, own in norms.items() if row not in names.controls},
        title="Norm of the raw map by class rank: what falls with the probability vanishes",
        label="norm / norm for the predicted class\n(below 0.0001: drawn there)",
    )


def _noise(evidence: Evidence, names: ReliableRows) -> str:
    columns = {
        f"{words}, {said}": f"gate noise/{kind}[{query}]"
        for kind, words in _NOISE.items()
        for query, said in _CLASSES.items()
    }
    rows = {
        row: [cell(evidence.scores.reported(row, name)) for name in columns.values()]
        for row in (*names.masks, names.ablation)
    }
    return table(["", *columns], rows)


def _cells(header: Iterable[str], rows: Mapping[str, Iterable[Score]]) -> str:
    return table(["", *header], {row: [*map(cell, own)] for row, own in rows.items()})


def _plain(row: str) -> str:
    return row.replace("_", " ")
