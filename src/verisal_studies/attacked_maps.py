"""What the studies of decoys and of attacks on maps have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from verisal.reporting import saliency_panel_pixels
from verisal.reporting.canvas import Pixels
from verisal.results import Evaluation, SaliencyPanel, Score

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


def attacked_figure(evaluation: Evaluation) -> dict[str, Pixels]:
    """The first picture of maps before and after an attack, if the evaluation has one."""
    for panel in evaluation.panels:
        if isinstance(panel, SaliencyPanel) and any(name.endswith(", attacked") for name in panel.maps):
            return {"attacked_maps": saliency_panel_pixels(panel)}
    return {}
