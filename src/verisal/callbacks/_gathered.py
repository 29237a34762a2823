"""Pictures of all processes together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

from torch import distributed

from verisal.results import SaliencyPanel

__all__ = ["gathered_panels"]


def gathered_panels(panels: Sequence[SaliencyPanel]) -> tuple[SaliencyPanel, ...]:
    """Pictures of all processes, by the names of their images; called once on each process at an epoch's end.

    Which process sees which images must not decide what is shown. Numbers in names count as numbers.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tuple(panels)
    parts: list[list[SaliencyPanel]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, list(panels))
    # A sampler that pads gives some images to two processes.
    found = {panel.image_id: panel for panel in chain.from_iterable(parts)}
    return tuple(sorted(found.values(), key=_by_name))


def _by_name(panel: SaliencyPanel) -> list[tuple[int, str]]:
    words = re.findall(r"\d+|\D+", panel.image_id)
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
