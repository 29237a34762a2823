"""What the studies of decoys and of attacks on maps have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from verisal.reporting import saliency_panel_pixels
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal_studies.study import Section, StudyFigure, Verdict

__all__ = [
    "ATTACKS",
    "attacked_panels",
    "counted_images",
    "halved",
    "is_fidelity",
    "is_sensitivity",
    "share_verdict",
]

ATTACKS: Final = ("top_k", "mass_centre", "target")


def counted_images(names: Iterable[str]) -> str:
    """How many images, and the first name, which tells data set and split."""
    listed = sorted(names, key=lambda name: (len(name), name))
    return f"{len(listed)}, `{listed[0]}` and on"


def share_verdict(good: int, bad: int, total: int) -> Verdict:
    """``holds`` if all are good, ``holds in part`` if some are and none is bad, else it does not."""
    if good == total:
        return "holds"
    return "holds in part" if good and not bad else "does not hold here"


def halved(ours: Score, plain: Score) -> bool:
    """Whether the first is at most half of the second, with intervals apart."""
    return ours.value <= plain.value / 2 and ours.high < plain.low


def is_fidelity(name: str) -> bool:
    """Whether a score's full name is that of the saliency fidelity."""
    return name.startswith("saliency_fidelity[") and name.endswith("/value")


def is_sensitivity(kind: str, *, aimed: bool) -> Callable[[str], bool]:
    """Whether a score's full name is S_S under this attack, aimed at another method's map or not."""
    start = f"attacked_sensitivity[{kind},"
    return lambda name: (
        name.startswith(start) and name.endswith("]/sensitivity") and (",aim=" in name) == aimed
    )


def attacked_panels(found: Evaluation) -> Iterator[Section]:
    """The first picture of maps before and after an attack, if the evaluation has one."""
    for panel in found.panels:
        if isinstance(panel, SaliencyPanel) and any(name.endswith(", attacked") for name in panel.maps):
            yield Section(
                "Maps before and after an attack",
                "Every map is scaled as the scores see it; its largest value stands above it. The attack aims"
                " at the method's own map. Where there is no attacked map, none was found that keeps the"
                " label.",
                (
                    StudyFigure(
                        "attacked_maps", "Maps before and after an attack", saliency_panel_pixels(panel)
                    ),
                ),
            )
            return
