"""The study of the recommended baselines on images other than those they were chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.baselines import recommended_baselines
from verisal.results import Evaluation, Score
from verisal_studies.baseline_choice import (
    ChoiceStudy,
    Step,
    baselines_table,
    candidates_of,
    chosen_step,
    image_agreement,
    steps_of_choice,
    steps_table,
)
from verisal_studies.scores import RemovalScores, cell, difference_of, mean_of, quoted, table
from verisal_studies.study import Finding, StudyResult, Verdict


@final
class BaselineChoiceElsewhere(ChoiceStudy):
    """The default baselines of removal curves, judged on images that had no part in their choice.

    Reads what :class:`.BaselineChoice` reads.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value, as the page shows it.
        gain: agreement that a further baseline must add, as in the choice.
        largest: size of the largest set considered.

    Raises:
        ConfigError: settings out of range; when judging, a recommended baseline that was not measured.
    """

    page = "baseline_choice_elsewhere"

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Three claims: neutral here, better than single ones, as good as what the rule chooses here."""
        removal = RemovalScores(evaluation)
        names = [baseline.name for baseline in recommended_baselines()]
        missing = [name for name in names if name not in removal.distinct]
        if missing:
            raise ConfigError(
                f"the study judges the recommended baselines {names}, of which {missing} were not measured or"
                f" equal others here; measured are {removal.distinct}"
            )
        benefits = removal.benefits(removal.methods(), removal.distinct)
        together = image_agreement(benefits, [removal.distinct.index(name) for name in names])
        candidates = candidates_of(removal)
        steps = steps_of_choice(benefits, removal.distinct, candidates, largest=self.largest)
        chosen = chosen_step(steps, gain=self.gain)
        alone = {name: image_agreement(benefits, [place]) for place, name in enumerate(removal.distinct)}
        more = {name: difference_of(together - own) for name, own in alone.items()}
        findings = (
            _neutral(names, removal),
            _better_than_one(names, more),
            self._same_choice(names, together, chosen),
        )
        same = [f"`{name}` equals `{earlier}` here" for name, earlier in removal.same_as.items()]
        setting = {
            "images": str(len(together)),
            "methods": quoted(removal.methods()),
            "baselines": quoted(removal.baselines),
            "candidates": quoted(candidates),
            "equal baselines": "; ".join(same) or "none",
            **self.setting,
        }
        values = {
            "largest": self.largest,
            "gain": self.gain,
            "limit": removal.limit,
            "alone": table(
                ["baselines", "agreement with the ranking by all", "all of them minus this one"],
                [
                    [quoted(names), cell(mean_of(together)), ""],
                    *([f"`{name}` alone", cell(mean_of(alone[name])), cell(more[name])] for name in alone),
                ],
            ),
            "steps": steps_table(steps, chosen, benefits, removal.distinct),
            "baselines": baselines_table(removal, candidates, benefits),
        }
        words = "; ".join(f"{finding.claim}: {finding.verdict}" for finding in findings)
        summary = f"{words[:1].upper()}{words[1:]}."
        return self.judged(findings, summary=summary, setting=setting, values=values, figures={})

    def _same_choice(self, names: Sequence[str], together: Tensor, chosen: Step) -> Finding:
        lost = difference_of(chosen.agreement - together)
        verdict: Verdict = "does not hold here"
        if set(chosen.baselines) == set(names):
            verdict = "holds"
        elif lost.value < self.gain or not lost.low > 0:
            verdict = "holds in part"
        return Finding(
            "the rule chooses them again",
            f"the rule gives the same set; in part: the set that it gives gains less than {self.gain:g} in"
            " agreement with the ranking by all, or nothing as far as the interval can tell, although it was"
            " chosen on these very images",
            verdict,
            f"chosen here: {quoted(chosen.baselines)}, {cell(mean_of(chosen.agreement))}; difference"
            f" from the recommended ones {cell(lost)}",
        )


def _neutral(names: Sequence[str], removal: RemovalScores) -> Finding:
    neutral = [name for name in names if name in removal.neutral]
    verdict: Verdict = "holds" if len(neutral) == len(names) else "does not hold here"
    if 0 < len(neutral) < len(names):
        verdict = "holds in part"
    means = (f"`{name}` {cell(removal.scores.mean(name, 'neutrality/query_probability'))}" for name in names)
    return Finding(
        "the recommended baselines are neutral",
        f"each has a mean query probability of at most {removal.limit:.4f}, as far as its interval can tell;"
        " in part: some have",
        verdict,
        "; ".join(means),
    )


def _better_than_one(names: Sequence[str], more: Mapping[str, Score]) -> Finding:
    better = [name for name, score in more.items() if score.low > 0]
    worse = [name for name, score in more.items() if score.high < 0]
    verdict: Verdict = "holds" if len(better) == len(more) else "does not hold here"
    if better and not worse and len(better) < len(more):
        verdict = "holds in part"
    least = min(more.items(), key=lambda item: item[1].value)
    return Finding(
        "together they rank methods more like all baselines do than any single one",
        "their agreement with the ranking by all is above that of every single baseline, paired intervals"
        " above 0; in part: above some and below none",
        verdict,
        f"{quoted(names)} better than {len(better)} of {len(more)} single baselines, worse than {len(worse)};"
        f" closest is `{least[0]}`, difference {cell(least[1])}",
    )
