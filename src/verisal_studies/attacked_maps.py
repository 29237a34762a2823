"""What the studies of decoys and of attacks on maps have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from verisal.reporting import saliency_panel_pixels
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal_studies.study import Section, StudyFigure

ATTACKS: Final = ("top_k", "mass_centre", "target")


def sensitivity_under(kind: str, *, aimed: bool) -> str:
    """Name, as a regular expression, of S_S under an attack, aimed at another method's map or not."""
    return rf"attacked_sensitivity\[{kind},{'.*,aim=' if aimed else '(?!.*,aim=)'}.*\]/sensitivity"


def counted_images(names: Iterable[str]) -> str:
    """How many images, and the first name, which tells data set and split."""
    listed = sorted(names, key=lambda name: (len(name), name))
    return f"{len(listed)}, `{listed[0]}` and on"


def is_halved(ours: Score, plain: Score) -> bool:
    """True if the first is at most half of the second, with intervals apart."""
    return ours.value <= plain.value / 2 and ours.high < plain.low


def attacked_panels(evaluation: Evaluation) -> Iterator[Section]:
    """The first picture of maps before and after an attack, if the evaluation has one."""
    title = "Maps before and after an attack"
    for panel in evaluation.panels:
        if isinstance(panel, SaliencyPanel) and any(name.endswith(", attacked") for name in panel.maps):
            yield Section(
                title,
                "Every map is scaled as the scores see it; its largest value stands above it. The attack"
                " aims at the method's own map. Where there is no attacked map, no attack was found that"
                " keeps the label.",
                (StudyFigure("attacked_maps", title, saliency_panel_pixels(panel)),),
            )
            return
