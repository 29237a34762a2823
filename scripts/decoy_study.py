"""What the studies of decoys and of attacks on maps found, as Markdown.

python scripts/decoy_study.py --study RUN --robustness RUN --cost FILE

Each is optional: the run folders of ``verisal validate --config`` with configs/study/decoys.yaml and with
configs/study/map_robustness.yaml, and what ``python scripts/bench/decoys.py`` printed. Prints the tables and
writes them between their markers in docs/studies/decoys.md, and the first picture to docs/figures; every
number comes from these files.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from verisal.functional import bootstrap_mean, bootstrap_weights, weighted_means
from verisal.types import Score

PAGE = Path(__file__).parent.parent / "docs" / "studies" / "decoys.md"
_BASES = ("gradient", "smooth_grad", "integrated_gradients")
_CONTROLS = {
    "plain base method": "",
    "mean over decoys": "_mean_decoy",
    "range over constant patches": "_range_constant",
    "range over noise": "_range_noise",
}
_OURS = "_range_decoy"
_ATTACKS = ("top_k", "mass_centre", "target")


@dataclass(frozen=True)
class Measure:
    """One column: which score of the samples it is, and which end is good."""

    title: str
    start: str
    end: str
    better: Literal["low", "high"] = "low"

    def holds(self, score: str) -> bool:
        """Whether this is the name of the score, whatever the settings in it."""
        return score.startswith(self.start) and score.endswith(self.end)


_SENSITIVITY = tuple(
    Measure(f"S_S {kind} ↓", f"attacked_sensitivity[{kind},", "/sensitivity") for kind in _ATTACKS
)
_MEASURES = (
    Measure("fidelity ↓", "saliency_fidelity[", "/value"),
    Measure("insertion ↑", "insertion[", "/auc", "high"),
    Measure("deletion ↓", "deletion[", "/auc"),
    *_SENSITIVITY,
)


class Samples:
    """Scores per image of a run.

    Args:
        path: ``samples.val.csv``, one line per image, method and score.
    """

    def __init__(self, path: Path) -> None:
        self._values: dict[tuple[str, str], dict[str, float]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                found = self._values.setdefault((line["row"], line["score"]), {})
                found[line["image_id"]] = float(line["value"])

    def rows(self) -> list[str]:
        """All methods, in their order."""
        return list(dict.fromkeys(row for row, _ in self._values))

    def names(self, row: str, measure: Measure) -> list[str]:
        """Full names of the scores of a method that a column may stand for."""
        return [score for name, score in self._values if name == row and measure.holds(score)]

    def values(self, row: str, measure: Measure) -> dict[str, float]:
        """Image to value.

        Raises:
            SystemExit: there is none, or several scores with other settings.
        """
        names = self.names(row, measure)
        if len(names) != 1:
            raise SystemExit(f"{row} must have one {measure.title}, found {names}; is this the study's run?")
        return self._values[row, names[0]]

    def score(self, row: str, name: str) -> Score:
        """Mean over images of a score by its full name, with interval."""
        return bootstrap_mean(torch.tensor(list(self._values[row, name].values())))

    def pair(self, row: str, other: str, measure: Measure) -> Tensor:
        """``(2, n)``: values of two methods on the images on which both are defined."""
        one, two = self.values(row, measure), self.values(other, measure)
        both = torch.tensor([[one[image], two[image]] for image in one if image in two]).double().T
        return both[:, ~both.isnan().any(dim=0)]


def verdict(difference: Score, better: Literal["low", "high"]) -> Literal["better", "worse", "open"]:
    """What an interval of a difference says; ``open`` if it holds 0 or there is none."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    return "better" if (difference.high < 0) == (better == "low") else "worse"


def ratio(pair: Tensor) -> Score:
    """Ratio of two means over the same images ``(2, n)``, with its 95 % interval."""
    weights = bootstrap_weights(pair.shape[1])
    drawn = weighted_means(pair[0], weights) / weighted_means(pair[1], weights)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Score(float(pair[0].mean() / pair[1].mean()), low, high, n=pair.shape[1])


def study(samples: Samples) -> Iterator[str]:
    """The answer, what was wanted, all differences and all scores."""
    differences = {
        (base, control, measure.title): bootstrap_mean(pair[0] - pair[1])
        for base in _BASES
        for control, suffix in _CONTROLS.items()
        for measure in _MEASURES
        for pair in [samples.pair(f"{base}{_OURS}", f"{base}{suffix}", measure)]
    }
    titles = [measure.title for measure in _MEASURES]
    images = len(samples.values(_BASES[0], _MEASURES[0]))
    yield f"Ranges over decoys beside each control, {images} images, verdicts of {len(_BASES)} base methods:"
    yield table(["range over decoys against", *titles, "beats it"], _answer(differences))
    yield "Sensitivity under attack, range over decoys divided by the plain base method:"
    yield table(["base", *(measure.title for measure in _SENSITIVITY)], _ratios(samples))
    yield "\n".join(_reached(samples, differences))
    yield "Differences, range over decoys minus control, on the same images:"
    yield table(
        ["base", "control", *titles],
        (
            [f"`{base}`", control, *(_difference(differences, base, control, one) for one in _MEASURES)]
            for base in _BASES
            for control in _CONTROLS
        ),
    )
    yield "Scores:"
    yield table(
        ["", *titles],
        (
            [f"`{row}`", *(cell(samples.score(row, samples.names(row, one)[0])) for one in _MEASURES)]
            for row in samples.rows()
            if all(len(samples.names(row, one)) == 1 for one in _MEASURES)
        ),
    )


def _answer(differences: Mapping[tuple[str, str, str], Score]) -> Iterator[list[str]]:
    for control in _CONTROLS:
        found = {
            measure.title: [
                verdict(differences[base, control, measure.title], measure.better) for base in _BASES
            ]
            for measure in _MEASURES
        }
        everywhere = all(word == "better" for words in found.values() for word in words)
        counted = [
            ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "open") if word in words)
            for words in found.values()
        ]
        yield [control, *counted, "yes" if everywhere else "no"]


def _ratios(samples: Samples) -> Iterator[list[str]]:
    for base in _BASES:
        pairs = [samples.pair(f"{base}{_OURS}", base, measure) for measure in _SENSITIVITY]
        yield [f"`{base}`", *(f"{cell(ratio(pair))}, {'halved' if halved(pair) else 'no'}" for pair in pairs)]


def halved(pair: Tensor) -> bool:
    """Whether the first mean of ``(2, n)`` is at most half of the second, with intervals apart."""
    ours, plain = (bootstrap_mean(values) for values in pair)
    return ours.value <= plain.value / 2 and ours.high < plain.low


def _reached(samples: Samples, differences: Mapping[tuple[str, str, str], Score]) -> Iterator[str]:
    fidelity = _MEASURES[0]
    words = [
        verdict(differences[base, "plain base method", fidelity.title], fidelity.better) for base in _BASES
    ]
    cases = [
        halved(samples.pair(f"{base}{_OURS}", base, measure)) for base in _BASES for measure in _SENSITIVITY
    ]
    yield (
        f"- Fidelity better than the plain base method's for all: **{_yes(set(words) == {'better'})}**"
        f" ({words.count('better')} of {len(words)})."
    )
    yield (
        f"- Sensitivity at least halved under every attack, intervals apart: **{_yes(all(cases))}**"
        f" ({sum(cases)} of {len(cases)})."
    )


def _yes(held: bool) -> str:
    return "holds" if held else "does not hold"


def _difference(
    differences: Mapping[tuple[str, str, str], Score], base: str, control: str, measure: Measure
) -> str:
    found = differences[base, control, measure.title]
    return f"{cell(found)} {verdict(found, measure.better)}"


def robustness(samples: Samples) -> Iterator[str]:
    """S_S of every method and direction under every attack, beside that of random signs."""
    yield "S_S with 95 % intervals, in brackets that of random signs of the same budget; low is good:"
    yield table(["method", "direction", *_ATTACKS], _robust_rows(samples))


def _robust_rows(samples: Samples) -> Iterator[list[str]]:
    for row in samples.rows():
        found: dict[str, dict[str, str]] = {}
        for kind, measure in zip(_ATTACKS, _SENSITIVITY, strict=True):
            for name in samples.names(row, measure):
                direction = name.split(",")[1]
                control = samples.score(row, name.replace("/sensitivity", "/control_sensitivity"))
                text = f"{cell(samples.score(row, name))} ({control.value:.2f})"
                found.setdefault(direction, {})[kind] = text
        for direction, cells in found.items():
            yield [f"`{row}`", direction, *(cells.get(kind, "n/a") for kind in _ATTACKS)]


def cell(score: Score) -> str:
    """Value and interval; ``n/a`` where no image has one."""
    if score.value != score.value:
        return "n/a"
    digits = 3 if abs(score.value) < 1 else 2
    ends = f" [{score.low:.{digits}f}, {score.high:.{digits}f}]" if score.low == score.low else ""
    return f"{score.value:.{digits}f}{ends}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Lines of Markdown."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def filled(page: str, name: str, text: str) -> str:
    """The page with ``text`` between the markers of this name.

    Raises:
        SystemExit: the page has no such markers.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page must hold the lines {start.strip()} and {end} once each")
    before, rest = page.split(start)
    return f"{before}{start}\n{text}\n\n{end}{rest.split(end)[1]}"


def main(arguments: list[str] | None = None) -> None:
    """Print and write what is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--study", "--robustness", "--cost"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    texts: dict[str, str] = {}
    if given.study:
        texts["study"] = "\n\n".join(study(Samples(given.study / "samples.val.csv")))
    if given.robustness:
        texts["robustness"] = "\n\n".join(robustness(Samples(given.robustness / "samples.val.csv")))
    if given.cost:
        texts["cost"] = f"```text\n{given.cost.read_text().strip()}\n```"
    if not texts:
        parser.error("nothing given; name at least one of --study, --robustness, --cost")
    page = given.page.read_text()
    for name, text in texts.items():
        print(text, end="\n\n")
        page = filled(page, name, text)
    given.page.write_text(page)
    picture = given.study / "figures" / "val_panel_saliency_0.png" if given.study else None
    if picture is not None and picture.exists():
        shutil.copyfile(picture, given.page.parent.parent / "figures" / "attacked_maps.png")


if __name__ == "__main__":
    main()
