"""The canvas of every figure: places in inches from the upper left corner, equal figures as equal bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal._files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

Pixels: TypeAlias = NDArray[np.uint8]
# Colours that colour-blind readers tell apart (Okabe and Ito); markers and line styles for print.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES: Final = ("-", "--", "-.", ":")
_SHADES: Final = 24


@final
class Canvas:
    """One figure under construction.

    Args:
        width: in inches.
        height: in inches.
        dpi: pixels per inch.
        layout: ``constrained`` for axes that matplotlib places; None for places set by hand, which takes a
            quarter of the time.
    """

    def __init__(
        self, width: float, height: float, *, dpi: int = 100, layout: Literal["constrained"] | None = None
    ) -> None:
        # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place in inches from the upper left corner."""
        bottom = 1 - (top + height) / self.height
        return self.figure.add_axes((left / self.width, bottom, width / self.width, height / self.height))

    def picture(
        self,
        box: tuple[float, float, float, float],
        values: Tensor | NDArray[np.float64],
        *,
        title: str = "",
        limits: tuple[float, float] | None = None,
        colours: str | Colormap = "viridis",
        framed: bool = False,
        **style: Any,  # noqa: ANN401 - matplotlib's own words for the title
    ) -> Axes:
        """Show an image or a map.

        Args:
            box: left, top, width and height in inches.
            values: image ``(3, H, W)`` in [0, 1], or map ``(H, W)``; what is not finite is left white.
            title: stands above.
            limits: values of a map at the ends of the colours; by default 0 and its own maximum.
            colours: of a map.
            framed: with a line around it.
            style: of the title.
        """
        axes = self.axes(*box)
        if framed:
            axes.set_xticks([])
            axes.set_yticks([])
        else:
            axes.set_axis_off()
        shown = as_array(values)
        if shown.ndim == 3:
            axes.imshow(shown.clip(0.0, 1.0).transpose(1, 2, 0), interpolation="nearest")
        else:
            low, high = limits or (0.0, largest(shown) or 1.0)
            axes.imshow(shown, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        axes.set_title(title, parse_math=False, **({"fontsize": 11, "pad": 4} | style))
        return axes

    def text(self, left: float, top: float, words: str, **style: Any) -> None:  # noqa: ANN401 - matplotlib's own
        """Words at a place in inches from the upper left corner, dollars in them as they are."""
        self.figure.text(left / self.width, 1 - top / self.height, words, parse_math=False, **style)

    def pixels(self) -> Pixels:
        """``(H, W, 3)`` uint8."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        agg = FigureCanvasAgg(self.figure)
        agg.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
        return np.ascontiguousarray(np.asarray(agg.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]

    def save(self, path: Path, *, colours: int | None = None) -> None:
        """Write a PNG file, by :func:`write_png`."""
        write_png(self.pixels(), path, colours=colours)


def write_png(pixels: Pixels, path: Path, *, colours: int | None = None) -> None:
    """Write ``(H, W, 3)`` uint8 pixels as they are, or in their most telling colours.

    Args:
        pixels: what to write.
        path: PNG file to write; its folder is made where there is none.
        colours: most colours of the file, at most 256, so that noisy pictures take a third of the bytes;
            None for all.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    if colours is not None:
        picture = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())


def few_shades() -> Colormap:
    """Viridis in 24 shades, white where there is no number: noisy maps in all shades make large files."""
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(_SHADES).with_extremes(bad="white")


def as_array(values: Tensor | NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers of a tensor on any device."""
    numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.asarray(numbers, dtype=np.float64)


def largest(values: NDArray[np.float64]) -> float:
    """The largest finite number, 0 where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
