"""Pictures of the maps of several methods on one image."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray

from verisal.results import SaliencyPanel

__all__ = ["saliency_panel_pixels"]

_COLUMNS = 7
_CELL, _GAP, _LINE, _MARGIN = 1.5, 0.1, 0.16, 0.15
# That fit above a picture.
_LETTERS = 24
_DPI = 100


def saliency_panel_pixels(panel: SaliencyPanel) -> NDArray[np.uint8]:
    """Draw an image and its maps, each from 0 to its own maximum, as ``(H, W, 3)`` uint8 pixels.

    The largest value stands above each map, for the scales differ. Values that are not finite are left white.

    Args:
        panel: image and maps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = 1 + len(panel.maps)
    names = {name: textwrap.wrap(name, _LETTERS) for name in panel.maps}
    # Name and largest value.
    title = _LINE * (1 + max(map(len, names.values()), default=1)) + 0.04
    columns, lines = min(cells, _COLUMNS), -(-cells // _COLUMNS)
    width = 2 * _MARGIN + columns * (_CELL + _GAP)
    caption = textwrap.wrap(f"{panel.image_id}: {panel.caption}", width=int(width * 12))
    foot = 0.2 * len(caption) + 0.15
    height = _MARGIN + lines * (_CELL + title + _GAP) + foot
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    figure = Figure(figsize=(width, height), dpi=_DPI)
    image = panel.image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    for place, (name, map_) in enumerate([("image", None), *panel.maps.items()]):
        left = _MARGIN + place % columns * (_CELL + _GAP)
        top = height - _MARGIN - place // columns * (_CELL + title + _GAP) - title
        axes = figure.add_axes((left / width, (top - _CELL) / height, _CELL / width, _CELL / height))
        axes.set_axis_off()
        if map_ is None:
            axes.imshow(image, interpolation="nearest")
            axes.set_title(name, fontsize=9, pad=3)
            continue
        values = map_.detach().cpu().double().numpy()
        finite = values[np.isfinite(values)]
        most = float(finite.max()) if finite.size else 0.0
        axes.imshow(values, vmin=0.0, vmax=most or 1.0, cmap="viridis", interpolation="nearest")
        axes.set_title("\n".join([*names[name], f"{most:.2g}"]), fontsize=8, pad=3)
    figure.text(
        0.5, 0.07 / height, "\n".join(caption), ha="center", va="bottom", fontsize=9, parse_math=False
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])
