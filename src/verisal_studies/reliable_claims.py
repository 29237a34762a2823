"""Claims about reliable saliency, the rules that judge them, and what they read of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.scores import FIDELITY, Scores, cell, difference_word, is_defined, quoted
from verisal_studies.study import Finding, verdict_of

# Second most likely class, one drawn at random, least likely one.
ABSENT: Final = ("c1", "c2", "c3")
# Where high ends and low begins; the whole interval must be on the right side.
RESPONSE, SAME, FALSE, SMALL, RIGHT, VANISHED, EXCESS = 0.5, 0.5, 0.1, 0.25, 0.5, 0.1, 0.05
# Names of scores, as regular expressions.
ENERGY, DELETION = r"energy_inside.*/energy", r"deletion.*/auc"
_FAR: Final = "last"
_CLASSES: Final = {"c0": "predicted class", "rank2": "second class", _FAR: "least likely class"}
_ABSENT_CLASSES: Final = ("rank2", _FAR)
_EARLIER: Final = (
    "gradient",
    "input_x_gradient",
    "smooth_grad",
    "integrated_gradients",
    "guided_backpropagation",
    "grad_cam",
    "occlusion",
    "rise",
)
_MASKS: Final = tuple(f"hierarchical_{name}" for name in ("masks", "class", "output", "mixed"))


@final
@dataclass(frozen=True, kw_only=True)
class ReliableRows:
    """Rows of the evaluation by their part in the study.

    Attributes:
        earlier: comparison methods that came before.
        masks: masks learned while something of the output is kept.
        ablation: masks learned to raise the class instead.
        logit: gradient of the logit.
        probability: gradient of the probability.
        fused: fused map to the row of the gradient under a blur that makes it as smooth.
        layers: maps of single layers.
        controls: maps that answer nothing.

    Raises:
        ConfigError: no earlier methods or no masks.
    """

    earlier: Sequence[str] = _EARLIER
    masks: Sequence[str] = _MASKS
    ablation: str = "hierarchical_maximise"
    logit: str = "gradient"
    probability: str = "gradient_of_probability"
    fused: Mapping[str, str] = field(default_factory=lambda: {"fused": "gradient_as_smooth_as_fused"})
    layers: Sequence[str] = ("layer_1", "layer_2", "layer_3", "layer_4")
    controls: Sequence[str] = ("random", "centre")

    def __post_init__(self) -> None:
        if not self.earlier or not self.masks:
            raise ConfigError(
                f"the study compares masks with earlier methods, found {self.masks} and {self.earlier}"
            )

    @property
    def asked(self) -> list[str]:
        """All methods that are asked for absent classes, controls last."""
        rows = (*self.earlier, self.probability, *self.masks, self.ablation, *self.controls)
        return list(dict.fromkeys(rows))


@final
class Evidence:
    """Scores of an evaluation by method, and the paired comparisons made of them, each once."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.scores = Scores(evaluation)
        self.comparisons: set[tuple[str, str, str]] = set()

    def disturbed(self, row: str, name: str) -> Score:
        """A score of D-WSOL."""
        return self.scores.reported(row, f"D-WSOL (our protocol)/{name}")

    def present(self, row: str) -> Score:
        """Share of present classes whose map finds their own object."""
        return self.scores.reported(row, "D-WSOL (our protocol), present classes/hit")

    def ranked(self, row: str, name: str) -> Score:
        """A score of maps by class rank."""
        return self.scores.reported(row, f"class ranks/{name}")

    def ranks(self, row: str) -> list[str]:
        """Queries by class rank, in order."""
        names = self.scores.names(row, r"class ranks/norm\[.*")
        if not names:
            raise ConfigError(
                f"the study reads scores by class rank of {row!r}; give it the callback ClassRanks"
            )
        return [name.partition("[")[2].removesuffix("]") for name in names]

    def difference(self, ours: str, other: str, name: str) -> Score:
        """Paired difference of a score of two methods, counted as a comparison."""
        self.comparisons.add((ours, other, name))
        return self.scores.difference((ours, name), (other, name))

    def false_responses(self, row: str) -> dict[str, tuple[bool, bool]]:
        """Per absent class: True if the method answers anyway, and True if with nearly the same map."""
        return {
            query: (
                self.disturbed(row, f"response_ratio_{query}").low >= RESPONSE,
                self.disturbed(row, f"spearman_{query}").low >= SAME,
            )
            for query in ABSENT
        }

    def missed(self, row: str) -> list[str]:
        """Requirements of a reliable method that a method misses."""
        false = [self.disturbed(row, f"flr_{form}_{query}") for form in ("rel", "abs") for query in ABSENT]
        responses = [self.disturbed(row, f"response_ratio_{query}") for query in ABSENT]
        reached = {
            "D1 low": all(score.high <= FALSE for score in false),
            "D2 low": all(score.high <= SMALL for score in responses),
            "Acc(c0) high": self.disturbed(row, "accuracy_c0").low >= RIGHT,
            "D4 high": self.present(row).low >= RIGHT,
        }
        return [name for name, held in reached.items() if not held]


def summary(evidence: Evidence, names: ReliableRows) -> str:
    """Methods that answer for absent classes, and what is left of the masks' answer."""
    answers = {row: evidence.false_responses(row).values() for row in names.earlier}
    loud = quoted(row for row, own in answers.items() if all(any_ and same for any_, same in own))
    quiet = quoted(row for row, own in answers.items() if not any(any_ for any_, _ in own))
    masks = names.masks[0]
    left, raised = (
        max(evidence.disturbed(row, f"response_ratio_{query}").value for query in ABSENT)
        for row in (masks, names.ablation)
    )
    missed = ", ".join(evidence.missed(masks))
    return (
        f"Asked for absent classes, {loud or 'no earlier methods'} always answer with nearly the same map"
        + (f"; {quiet} never give a strong answer" if quiet else "")
        + f". `{masks}` keep at most {left:z.3f} of their response to the true class, masks learned to"
        f" raise the class {raised:z.3f}. `{masks}`"
        + (f" are not reliable; missed: {missed}." if missed else " are reliable.")
    )


def findings(evidence: Evidence, names: ReliableRows) -> Iterator[Finding]:
    """All claims of the study, judged."""
    yield _false_response(evidence, names)
    yield from (_remedy(evidence, names, row) for row in names.masks)
    yield _vanishing(evidence, names)
    yield from (_smoothing(evidence, names, *pair) for pair in names.fused.items())
    yield _noise(evidence, names)


def _false_response(evidence: Evidence, names: ReliableRows) -> Finding:
    answers = {row: list(evidence.false_responses(row).values()) for row in names.earlier}
    every = [answer for own in answers.values() for answer in own]
    quiet = [row for row, own in answers.items() if not any(any_ for any_, _ in own)]
    return Finding(
        "Asked for an absent or non-maximum class, earlier methods answer with nearly the same map.",
        "every earlier method does so for c1, c2 and c3: the interval of its response (D2) starts at"
        f" {RESPONSE:g} of that to the true class or above, and that of its Spearman similarity (D3) at"
        f" {SAME:g} or above; in part if some method does so for some class",
        verdict_of([all(answer) for answer in every]),
        f"{sum(any_ for any_, _ in every)} of {len(every)} pairs of method and absent class answer with at"
        f" least half of the response, {sum(map(all, every))} of them with nearly the same map; methods with"
        f" no such answer to any of c1 to c3: {_listed(quiet)}.",
    )


def _remedy(evidence: Evidence, names: ReliableRows, row: str) -> Finding:
    against = {
        f"{short} {_CLASSES[query]}": evidence.difference(
            row, names.ablation, f"class ranks/{score}[{query}]"
        )
        for score, short in (("false_rel", "D1"), ("response", "D2"))
        for query in _ABSENT_CLASSES
    }
    ahead, rivals = {}, {}
    for query in _ABSENT_CLASSES:
        margin = f"margin_rel[{query}]"
        margins = {rival: evidence.ranked(rival, margin) for rival in names.earlier}
        # The comparison method with the largest margin.
        rival = max(margins, key=lambda one: margins[one].value if is_defined(margins[one]) else -1.0)
        ahead[query], rivals[query] = evidence.difference(row, rival, f"class ranks/{margin}"), rival
    missed = evidence.missed(row)
    parts = [
        all(difference_word(score, "low") == "better" for score in against.values()),
        all(difference_word(score, "high") == "better" for score in ahead.values()),
        not missed,
    ]
    listed = "; ".join(f"{words} {cell(score)}" for words, score in against.items())
    beside = "; ".join(f"{_CLASSES[query]} {cell(one)} (`{rivals[query]}`)" for query, one in ahead.items())
    rule = (
        "(a) false localisation and response are smaller than with the class raised instead"
        f" (`{names.ablation}`), for the second and the least likely class; (b) the margin is larger than the"
        f" strongest earlier method's for both; (c) reliable: D1 at most {FALSE:g} and D2 at most {SMALL:g}"
        f" for c1 to c3, Acc(c0) and D4 at least {RIGHT:g}, each with its whole interval; in part if one or"
        " two of these hold"
    )
    return Finding(
        f"Keeping the output while the mask is learned remedies this (`{row}`).",
        rule if row == names.masks[0] else f"as for `{names.masks[0]}`",
        verdict_of(parts),
        f"(a) {_yes(parts[0])}: {listed}. (b) {_yes(parts[1])}: {beside}. (c) {_yes(parts[2])}"
        + (f", missed: {', '.join(missed)}." if missed else "."),
    )


def _vanishing(evidence: Evidence, names: ReliableRows) -> Finding:
    last = f"norm[{_FAR}]"
    gone, kept = evidence.ranked(names.probability, last), evidence.ranked(names.logit, last)
    faint = [row for row in names.earlier if evidence.ranked(row, last).high <= VANISHED]
    return Finding(
        "Attributions vanish for unlikely classes where a probability is explained.",
        f"the raw map of the gradient of the probability has at most {VANISHED:g} of its norm left for the"
        f" least likely class, that of the gradient of the logit at least {RIGHT:g}, each with its whole"
        " interval; in part if one of the two holds",
        verdict_of([gone.high <= VANISHED, kept.low >= RIGHT]),
        f"norm left: {cell(gone)} of the probability's gradient, {cell(kept)} of the logit's; at most"
        f" {VANISHED:g} is left for {_listed(faint)}"
        + (", whose faint answers (D2) may be due to that alone." if faint else "."),
    )


def _smoothing(evidence: Evidence, names: ReliableRows, fused: str, blurred: str) -> Finding:
    variation = "smoothness/total_variation"
    plain = evidence.difference(fused, names.logit, variation)
    layers = {row: evidence.difference(fused, row, variation) for row in names.layers}
    inside, fidelity = (
        evidence.difference(fused, blurred, evidence.scores.name(fused, pattern))
        for pattern in (ENERGY, FIDELITY)
    )
    smoother = [row for row, score in layers.items() if difference_word(score, "low") == "better"]
    parts = [
        difference_word(plain, "low") == "better",
        bool(layers) and len(smoother) == len(layers),
        difference_word(inside, "high") == "better" and difference_word(fidelity, "low") == "better",
    ]
    first = next(iter(names.fused))
    rule = (
        "(a) the total variation at equal mass is below the plain gradient's, (b) below that of every layer's"
        " own map, and (c) the map is not merely blurred: more energy on the object and better fidelity than"
        " the gradient under a blur of the same total variation; in part if one or two hold"
    )
    return Finding(
        f"Hierarchical fusion smooths the masks (`{fused}`).",
        rule if fused == first else f"as for `{first}`",
        verdict_of(parts),
        f"(a) {_yes(parts[0])}: {cell(plain)}. (b) {_yes(parts[1])}: smoother than {_listed(smoother)} of"
        f" {len(layers)} layers. (c) {_yes(parts[2])}: energy {cell(inside)}, fidelity {cell(fidelity)}.",
    )


def _noise(evidence: Evidence, names: ReliableRows) -> Finding:
    excess = {
        query: evidence.scores.reported(names.ablation, f"gate noise/excess[{query}]") for query in _CLASSES
    }
    more, lost = (
        [
            difference_word(evidence.difference(names.ablation, row, f"gate noise/{score}[{query}]"), "high")
            for row in names.masks
            for query in _CLASSES
        ]
        for score in ("excess", "fall")
    )
    parts = [
        all(score.low >= EXCESS for score in excess.values()),
        set(more) == {"better"},
        set(lost) == {"better"},
    ]
    listed = "; ".join(f"{_CLASSES[query]} {cell(score)}" for query, score in excess.items())
    return Finding(
        "Masks learned to raise a class are adversarial noise; masks that keep the output are not.",
        f"(a) `{names.ablation}` lifts the logit of the predicted, the second and the least likely class"
        f" above its values without gates and with all of them at 0, by at least {EXCESS:g} of the logits'"
        " range with its whole interval; (b) more than every preserving objective; (c) more of it is lost"
        " when the gates are blurred; in part if one or two hold",
        verdict_of(parts),
        f"(a) {_yes(parts[0])}: {listed}. (b) {_yes(parts[1])}: in {more.count('better')} of {len(more)}"
        f" comparisons. (c) {_yes(parts[2])}: in {lost.count('better')} of {len(lost)}.",
    )


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def _listed(rows: Iterable[str]) -> str:
    return quoted(rows) or "none"
