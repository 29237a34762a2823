"""Tables and pictures of the study of reliable saliency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from verisal.results import SaliencyPanel, Score
from verisal_studies.figures import answer_maps_pixels, dots_pixels, rank_lines_pixels, tradeoff_pixels
from verisal_studies.reliable_saliency.evidence import ABSENT, Evidence, Names
from verisal_studies.reliable_saliency.findings import LIMITS, false_responses, reliable
from verisal_studies.scores import cell, table
from verisal_studies.study import Section, StudyFigure

__all__ = ["sections"]

_D_WSOL = (
    "c0 is the true class, c1 the second most likely, c2 a random one outside the five most likely, c3 the"
    " least likely; c1 to c3 are absent from the image, and where one is annotated, the image is left out for"
    " it. D1 is the share of images whose box for the absent class is right for the true object, at a"
    " threshold on the map's own range (rel) or on that of the map of c0 (abs); D2 the sum of the raw map"
    " over that of c0; D3 the Spearman similarity of the two maps, n/a where one is empty; D4 the share of"
    " present classes, of scenes with several, whose map and box are on their own object. Read the controls"
    " first: `random` and `centre` know no query. D2 alone proves nothing: a map that vanishes, or a method"
    " that says nothing, lowers it too."
)


def sections(evidence: Evidence, names: Names, *, note: str) -> tuple[Section, ...]:
    """The parts of the page below the verdicts."""
    return (
        _answers(evidence, names, note),
        _reliability(evidence, names),
        _vanishing(evidence, names),
        _smoothness(evidence, names),
        _noise(evidence, names),
        Section(
            "Comparisons",
            f"{len(evidence.comparisons)} paired differences were judged, each by its own 95 % interval from"
            " 2000 resamples of the images, and no correction was made: about one in twenty leaves out 0 by"
            " chance where there is nothing. A claim therefore never rests on one of them alone. Rules and"
            f" limits ({_limits()}) were written down before any of these images was scored, with the"
            " benchmark's table, on other scenes, at hand.",
        ),
    )


def _limits() -> str:
    return (
        f"D1 {LIMITS.false:g}, D2 {LIMITS.small:g}, answers and sameness {LIMITS.response:g}, Acc(c0) and D4"
        f" {LIMITS.right:g}, vanished {LIMITS.vanished:g}, excess {LIMITS.excess:g}"
    )


def _answers(evidence: Evidence, names: Names, note: str) -> Section:
    responses = {
        _plain(row): {query: evidence.disturbed(row, f"response_ratio_{query}") for query in ABSENT}
        for row in names.asked
    }
    figures = [
        StudyFigure(
            "response",
            "Response of every method to three absent classes as a share of its response to the true one",
            dots_pixels(
                responses,
                title="Asked for a class that is not there: response of the raw map (low is good)",
                label="raw map's sum for the absent class / for the true class, (open: beyond 2)",
                line=1.0,
                high=2.0,
            ),
        )
    ]
    figures += _maps(evidence)
    header = ["", *(f"D2 {query} ↓" for query in ABSENT), *(f"D3 {query} ↓" for query in ABSENT), "answers"]
    rows = {
        f"`{row}`": [
            *(cell(evidence.disturbed(row, f"response_ratio_{query}")) for query in ABSENT),
            *(cell(evidence.disturbed(row, f"spearman_{query}")) for query in ABSENT),
            _answered(evidence, row),
        ]
        for row in names.asked
    }
    text = f"{_D_WSOL} {note}\n\n{table(header, rows)}"
    return Section("Answers to absent classes", text, tuple(figures))


def _answered(evidence: Evidence, row: str) -> str:
    found = false_responses(evidence, row)
    answered = [f"{query}{' (same map)' if same else ''}" for query, (any_, same) in found.items() if any_]
    return ", ".join(answered) or "none"


def _maps(evidence: Evidence) -> Iterator[StudyFigure]:
    panels = [one for one in evidence.found.panels if isinstance(one, SaliencyPanel)]
    panels = [one for one in panels if all(", " in name for name in one.maps)]
    if not panels:
        return
    panel = panels[0]
    rows: dict[str, dict[str, Tensor]] = {}
    for name, values in panel.maps.items():
        method, _, query = name.rpartition(", ")
        rows.setdefault(_plain(method), {})[query] = values
    yield StudyFigure(
        "maps_by_rank",
        "Raw maps of one image for classes that are less and less likely, each row on one scale",
        answer_maps_pixels(
            panel.image, rows, title="Raw maps by the rank of the class asked for; each row on one scale"
        ),
    )


def _reliability(evidence: Evidence, names: Names) -> Section:
    queries = [f"{form} {query}" for form in ("rel", "abs") for query in ABSENT]
    header = ["", "Acc(c0) ↑", *(f"D1 {query} ↓" for query in queries), "D4 ↑", "empty", "reliable"]
    rows = {}
    for row in names.asked:
        missed = [name for name, held in reliable(evidence, row).items() if not held]
        rows[f"`{row}`"] = [
            cell(evidence.disturbed(row, "accuracy_c0")),
            *(cell(evidence.disturbed(row, f"flr_{query.replace(' ', '_')}")) for query in queries),
            cell(evidence.present(row)),
            " / ".join(f"{evidence.disturbed(row, f'n_empty_{query}').value:g}" for query in ("c0", *ABSENT)),
            f"no: {', '.join(missed)}" if missed else "yes",
        ]
    whole = evidence.disturbed(names.masks[0], "whole_image_c0")
    text = (
        "Reliable is what answers where there is something and is silent where there is nothing: D1 and D2"
        " low, Acc(c0) and D4 high, whole intervals on the right side of the limits. Empty counts maps"
        " without any answer, for c0 to c3. The whole image as a box"
        f" would be right for {cell(whole)} of the images.\n\n{table(header, rows)}"
    )
    return Section("Reliability", text)


def _vanishing(evidence: Evidence, names: Names) -> Section:
    ranks = evidence.ranks(names.logit)
    shown = [row for row in names.asked if row not in names.controls]
    lines = {_plain(row): {"c0": Score(1.0, 1.0, 1.0, n=1)} for row in shown}
    for row in shown:
        lines[_plain(row)] |= {_rank(rank): evidence.ranked(row, f"norm[{rank}]") for rank in ranks}
    figure = StudyFigure(
        "vanishing",
        "Norm of the raw map by the rank of the class, as a share of that of the predicted class",
        rank_lines_pixels(
            lines,
            title="Norm of the raw map by class rank: what falls with the probability vanishes",
            label="norm / norm for the predicted class\n(below 0.0001: drawn there)",
        ),
    )
    rows = {
        f"`{row}`": [cell(evidence.ranked(row, f"norm[{rank}]")) for rank in ranks]
        for row in (*shown, *names.controls)
    }
    header = ["", *(_rank(rank) for rank in ranks)]
    text = (
        "A map that fades because the probability does says nothing of the class; one that is empty because"
        " there is no evidence does. The norm cannot tell them apart: of methods that explain probabilities"
        f" (`{names.probability}`, occlusion, RISE) and of masks alike read D4 beside it, where the class"
        f" that is asked for is there and is not the most likely one.\n\n{table(header, rows)}"
    )
    return Section("Attribution vanishing", text, (figure,))


def _smoothness(evidence: Evidence, names: Names) -> Section:
    fused = [row for row, _ in names.fused]
    blurred = [row for _, row in names.fused]
    shown = [*fused, *names.layers, names.logit, *blurred, *names.controls]
    columns = [
        "smoothness/total_variation",
        "smoothness/high_frequencies",
        evidence.metric(fused[0], "energy_inside", "/energy"),
        evidence.metric(fused[0], "saliency_fidelity", "/value"),
        evidence.metric(fused[0], "deletion", "/auc"),
    ]
    scores = {row: [evidence.images.mean(row, name) for name in columns] for row in shown}
    figure = StudyFigure(
        "smoothness",
        "Total variation at equal mass against energy on the object",
        tradeoff_pixels(
            {_plain(row): (own[0], own[2]) for row, own in scores.items()},
            title="Smooth and on the object: upper left is good",
            labels=("total variation at equal mass (low is smooth)", "share of energy on the object"),
        ),
    )
    header = ["", "total variation", "high frequencies", "energy inside ↑", "fidelity ↓", "deletion ↓"]
    rows = {f"`{row}`": [cell(one) for one in own] for row, own in scores.items()}
    text = (
        "Total variation of the map divided by its sum, in units of one over the image's side, and the share"
        " of energy above half of the highest frequency. Any blur lowers both, so the gradient is shown under"
        " the narrowest Gaussian that gives it the total variation of the fused map, image by image. Fused"
        f" maps are without the Gaussian that is shown by default.\n\n{table(header, rows)}"
    )
    return Section("Smoothness", text, (figure,))


def _noise(evidence: Evidence, names: Names) -> Section:
    queries: Sequence[tuple[str, str]] = (("c0", "predicted"), ("rank2", "second"), ("last", "least likely"))
    kinds = ("excess", "fall", "mirrored_fall")
    header = ["", *(f"{_KIND[kind]}, {said}" for kind in kinds for _, said in queries)]
    rows = {
        f"`{row}`": [
            cell(evidence.score(row, f"gate noise/{kind}[{query}]")) for kind in kinds for query, _ in queries
        ]
        for row in (*names.masks, names.ablation)
    }
    text = (
        "Shares of the range of the image's logits. Excess: the logit with gates above the larger of its"
        " values without gates and with all gates at 0. Fall: what is lost when the gates are blurred by one"
        " cell in every stage; control: when they are mirrored left to right.\n\n" + table(header, rows)
    )
    return Section("Noise in the gates", text)


_KIND = {"excess": "excess", "fall": "fall blurred", "mirrored_fall": "fall mirrored"}


def _rank(name: str) -> str:
    return "least likely" if name == "last" else f"rank {name.removeprefix('rank')}"


def _plain(row: str) -> str:
    return row.replace("_", " ")
