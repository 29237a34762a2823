"""Claims about reliable saliency and the rules that judge them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from verisal.results import Score
from verisal_studies.reliable_saliency.evidence import ABSENT, Evidence, Names, above, below, together
from verisal_studies.scores import cell, difference_word
from verisal_studies.study import Finding

__all__ = ["LIMITS", "false_responses", "findings", "reliable", "strongest_earlier", "summary"]


@dataclass(frozen=True)
class _Limits:
    """Where high ends and low begins; the whole interval must be on the right side."""

    response: float = 0.5
    same: float = 0.5
    false: float = 0.1
    small: float = 0.25
    right: float = 0.5
    vanished: float = 0.1
    excess: float = 0.05


LIMITS: Final = _Limits()
_NEAR, _FAR = "rank2", "last"
_QUERIES = ("c0", _NEAR, _FAR)


def findings(evidence: Evidence, names: Names) -> tuple[Finding, ...]:
    """All claims of the study, judged."""
    return (
        _false_response(evidence, names),
        *(_remedy(evidence, names, row) for row in names.masks),
        _vanishing(evidence, names),
        *(_smoothing(evidence, names, fused, blurred) for fused, blurred in names.fused),
        _noise(evidence, names),
    )


def summary(evidence: Evidence, names: Names) -> str:
    """Who answers for absent classes, and what is left of the masks' answer."""
    found = {row: list(false_responses(evidence, row).values()) for row in names.earlier}
    loud = [row for row, own in found.items() if all(one and two for one, two in own)]
    quiet = [row for row, own in found.items() if not any(one for one, _ in own)]
    masks = names.masks[0]
    left = {
        row: max(evidence.disturbed(row, f"response_ratio_{query}").value for query in ABSENT)
        for row in (masks, names.ablation)
    }
    missed = [name for name, held in reliable(evidence, masks).items() if not held]
    verdict = (
        f"`{masks}` miss what reliable asks for: {', '.join(missed)}."
        if missed
        else f"`{masks}` are reliable."
    )
    loud_ones, quiet_ones = (", ".join(_quoted(rows)) or "no earlier methods" for rows in (loud, quiet))
    return (
        f"Asked for absent classes, {loud_ones} always answer with nearly the same map, {quiet_ones} never"
        f" do; `{masks}` keep at most {left[masks]:.3f} of their response to the true class, masks learned"
        f" to raise the class {left[names.ablation]:.3f}. {verdict}"
    )


def false_responses(evidence: Evidence, row: str) -> dict[str, tuple[bool, bool]]:
    """Per absent class whether the method answers anyway, and whether with nearly the same map."""
    return {
        query: (
            above(evidence.disturbed(row, f"response_ratio_{query}"), LIMITS.response),
            above(evidence.disturbed(row, f"spearman_{query}"), LIMITS.same),
        )
        for query in ABSENT
    }


def _false_response(evidence: Evidence, names: Names) -> Finding:
    found = {row: false_responses(evidence, row) for row in names.earlier}
    cells = [(row, query, *answer) for row, own in found.items() for query, answer in own.items()]
    answers = sum(one for _, _, one, _ in cells)
    same = sum(one and two for _, _, one, two in cells)
    quiet = [row for row, own in found.items() if not any(one for one, _ in own.values())]
    return Finding(
        "Asked for an absent or non-maximum class, earlier methods answer with nearly the same map.",
        f"every earlier method does for c1, c2 and c3: the interval of its response (D2) starts at"
        f" {LIMITS.response:g} of that to the true class or above, and that of its Spearman similarity (D3)"
        f" at {LIMITS.same:g} or above; in part if some does for some",
        together([one and two for _, _, one, two in cells]),
        f"{answers} of {len(cells)} pairs of method and absent class answer with at least half of the"
        f" response, {same} of them with nearly the same map; methods that answer none of c1 to c3 so, with"
        f" the whole interval: {_listed(quiet)}.",
    )


def reliable(evidence: Evidence, row: str) -> dict[str, bool]:
    """What a method must reach to be called reliable, and whether it does."""
    false = [evidence.disturbed(row, f"flr_{form}_{query}") for form in ("rel", "abs") for query in ABSENT]
    return {
        "D1 low": all(below(score, LIMITS.false) for score in false),
        "D2 low": all(
            below(evidence.disturbed(row, f"response_ratio_{query}"), LIMITS.small) for query in ABSENT
        ),
        "Acc(c0) high": above(evidence.disturbed(row, "accuracy_c0"), LIMITS.right),
        "D4 high": above(evidence.present(row), LIMITS.right),
    }


def strongest_earlier(evidence: Evidence, names: Names, query: str) -> str:
    """The comparison method with the largest margin."""
    return max(names.earlier, key=lambda row: _or_lowest(evidence.ranked(row, f"margin_rel[{query}]")))


def _or_lowest(score: Score) -> float:
    return score.value if score.value == score.value else -1.0


def _remedy(evidence: Evidence, names: Names, row: str) -> Finding:
    against = [
        (score, query, evidence.difference(row, names.ablation, f"class ranks/{score}[{query}]"))
        for score in ("false_rel", "response")
        for query in (_NEAR, _FAR)
    ]
    rivals = {query: strongest_earlier(evidence, names, query) for query in (_NEAR, _FAR)}
    ahead = {
        query: evidence.difference(row, rival, f"class ranks/margin_rel[{query}]")
        for query, rival in rivals.items()
    }
    judged = reliable(evidence, row)
    parts = [
        all(difference_word(one, "low") == "better" for _, _, one in against),
        all(difference_word(one, "high") == "better" for one in ahead.values()),
        all(judged.values()),
    ]
    missed = [name for name, held in judged.items() if not held]
    listed = "; ".join(f"{_MEANS[score]} {_SAID[query]} {cell(one)}" for score, query, one in against)
    beside = "; ".join(f"{_SAID[query]} {cell(one)} (`{rivals[query]}`)" for query, one in ahead.items())
    return Finding(
        f"Keeping the output while the mask is learned remedies it (`{row}`).",
        f"as for `{names.masks[0]}`"
        if row != names.masks[0]
        else "(a) false localisation and response are smaller than with the class raised instead"
        f" (`{names.ablation}`), for the second and the least likely class; (b) the margin is larger than"
        f" the strongest earlier method's for both; (c) reliable: D1 at most {LIMITS.false:g} and D2 at most"
        f" {LIMITS.small:g} for c1 to c3, Acc(c0) and D4 at least {LIMITS.right:g}, each with its whole"
        " interval; in part if one or two of these are so",
        together(parts),
        f"(a) {_yes(parts[0])}: {listed}. (b) {_yes(parts[1])}: {beside}. (c) {_yes(parts[2])}"
        + (f", missed: {', '.join(missed)}." if missed else "."),
    )


_MEANS = {"false_rel": "D1", "response": "D2"}
_SAID = {"c0": "predicted class", _NEAR: "second class", _FAR: "least likely class"}


def _vanishing(evidence: Evidence, names: Names) -> Finding:
    last = f"norm[{_FAR}]"
    gone, kept = evidence.ranked(names.probability, last), evidence.ranked(names.logit, last)
    faint = [row for row in names.earlier if below(evidence.ranked(row, last), LIMITS.vanished)]
    return Finding(
        "Attributions vanish for unlikely classes where a probability is explained.",
        f"the raw map of the gradient of the probability has at most {LIMITS.vanished:g} of its norm left for"
        f" the least likely class, that of the gradient of the logit at least {LIMITS.right:g}, each with its"
        " whole interval; in part if one is so",
        together([below(gone, LIMITS.vanished), above(kept, LIMITS.right)]),
        f"norm left: {cell(gone)} of the probability's gradient, {cell(kept)} of the logit's; at most"
        f" {LIMITS.vanished:g} is left of {_listed(faint)}, whose faint answers (D2) may be that alone.",
    )


def _smoothing(evidence: Evidence, names: Names, fused: str, blurred: str) -> Finding:
    variation = "smoothness/total_variation"
    plain = evidence.difference(fused, names.logit, variation)
    layers = {row: evidence.difference(fused, row, variation) for row in names.layers}
    inside = evidence.difference(fused, blurred, evidence.metric(fused, "energy_inside", "/energy"))
    fidelity = evidence.difference(fused, blurred, evidence.metric(fused, "saliency_fidelity", "/value"))
    smoother = [row for row, one in layers.items() if difference_word(one, "low") == "better"]
    parts = [
        difference_word(plain, "low") == "better",
        bool(layers) and len(smoother) == len(layers),
        difference_word(inside, "high") == "better" and difference_word(fidelity, "low") == "better",
    ]
    return Finding(
        f"Hierarchical fusion smooths the masks (`{fused}`).",
        f"as for `{names.fused[0][0]}`"
        if fused != names.fused[0][0]
        else "(a) the total variation at equal mass is below the plain gradient's, (b) below that of every"
        " layer's own map, and (c) the map is not merely blurred: more energy on the object and better"
        " fidelity than the gradient under a blur of the same total variation; in part if one or two are so",
        together(parts),
        f"(a) {_yes(parts[0])}: {cell(plain)}. (b) {_yes(parts[1])}: smoother than {_listed(smoother)} of"
        f" {len(layers)} layers. (c) {_yes(parts[2])}: energy {cell(inside)}, fidelity {cell(fidelity)}.",
    )


def _noise(evidence: Evidence, names: Names) -> Finding:
    excess = {query: evidence.score(names.ablation, f"gate noise/excess[{query}]") for query in _QUERIES}
    compared = {
        score: [
            (row, query, evidence.difference(names.ablation, row, f"gate noise/{score}[{query}]"))
            for row in names.masks
            for query in _QUERIES
        ]
        for score in ("excess", "fall")
    }
    more = {
        score: sum(difference_word(one, "high") == "better" for _, _, one in own)
        for score, own in compared.items()
    }
    parts = [
        all(above(one, LIMITS.excess) for one in excess.values()),
        *(more[score] == len(own) for score, own in compared.items()),
    ]
    listed = "; ".join(f"{_SAID[query]} {cell(one)}" for query, one in excess.items())
    return Finding(
        "Masks learned to raise a class are adversarial noise; masks that keep the output are not.",
        f"(a) `{names.ablation}` lifts the logit of the predicted, the second and the least likely class"
        " above its values without gates and with all of them at 0, by at least"
        f" {LIMITS.excess:g} of the logits' range with its whole interval; (b) more than every preserving"
        " objective; (c) more of it is lost when the gates are blurred; in part if one or two are so",
        together(parts),
        f"(a) {_yes(parts[0])}: {listed}. (b) {_yes(parts[1])}: in {more['excess']} of"
        f" {len(compared['excess'])} comparisons. (c) {_yes(parts[2])}: in {more['fall']} of"
        f" {len(compared['fall'])}.",
    )


def _yes(held: bool) -> str:
    return "so" if held else "not so"


def _listed(rows: Sequence[str]) -> str:
    return ", ".join(_quoted(rows)) or "none"


def _quoted(rows: Sequence[str]) -> Iterator[str]:
    return (f"`{row}`" for row in rows)
