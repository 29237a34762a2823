"""Pictures of images and maps: one colour scale, one canvas, equal pictures as equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal._files import write_atomic
from verisal._plain import plain_lines
from verisal.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]
#: Colours of maps, from 0 to the largest value.
COLOUR_SCALE: Final = "viridis"
#: Colours of signed maps, from blue below 0 over white to red above.
SIGNED_SCALE: Final = "RdBu_r"
#: Of a map's brightest colour over an image: the colour is seen, and the image below it, too.
OPACITY: Final = 0.7
_SHADES: Final = 24
# Pixels between the pictures of a row.
_GAP: Final = 4
# Inches of a figure of maps: a picture's width, and the room above it.
_CELL, _TITLE = 2.0, 0.35
# A few peaks would leave the rest of a map dark.
_DISPLAYED: Final = 0.995
# Of images with other channels than grey or RGB, which nobody knows the brightness of: quantiles at the ends.
_STRETCHED: Final = (0.02, 0.98)
#: Which three channels are shown as red, green and blue, or a function of images to RGB ``(B, 3, H, W)``.
DisplayChannels: TypeAlias = Sequence[int] | Callable[[Tensor], Tensor] | None


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
        values: Tensor | NDArray[np.float64] | Pixels,
        *,
        title: str = "",
        limits: tuple[float, float] | None = None,
        colours: str | Colormap = COLOUR_SCALE,
        framed: bool = False,
        **style: Any,  # noqa: ANN401 - matplotlib's own words for the title
    ) -> Axes:
        """Show an image or a map.

        Args:
            box: left, top, width and height in inches.
            values: image ``(C, H, W)`` in [0, 1], shown as by :func:`displayed`, map ``(H, W)``, white where
                it is not finite, or pixels ``(H, W, 3)`` uint8 as they are.
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
        if isinstance(values, np.ndarray) and values.dtype == np.uint8:
            axes.imshow(values, interpolation="nearest")
            axes.set_title(title, parse_math=False, **({"fontsize": 11, "pad": 4} | style))
            return axes
        shown = as_array(values)
        if shown.ndim == 3:
            colours_of = displayed(torch.as_tensor(shown)[None])[0].numpy()
            axes.imshow(colours_of.clip(0.0, 1.0).transpose(1, 2, 0), interpolation="nearest")
        else:
            low, high = limits or (0.0, largest(shown) or 1.0)
            axes.imshow(shown, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        axes.set_title(plain_lines(title), parse_math=False, **({"fontsize": 11, "pad": 4} | style))
        return axes

    def text(self, left: float, top: float, words: str, **style: Any) -> None:  # noqa: ANN401 - matplotlib's own
        """Words at a place in inches from the upper left corner, dollars in them as they are."""
        self.figure.text(
            left / self.width, 1 - top / self.height, plain_lines(words), parse_math=False, **style
        )

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
    """Write a file of :func:`png`; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png(pixels, colours=colours))


def few_shades() -> Colormap:
    """Viridis in 24 shades, white where there is no number: noisy maps in all shades make large files."""
    from matplotlib import colormaps

    return colormaps[COLOUR_SCALE].resampled(_SHADES).with_extremes(bad="white")


def as_array(values: Tensor | NDArray[np.float64] | Pixels) -> NDArray[np.float64]:
    """The numbers of an array, or of a tensor on any device."""
    numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.asarray(numbers, dtype=np.float64)


def largest(values: NDArray[np.float64]) -> float:
    """The largest finite number, 0 where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def png(pixels: Pixels, *, colours: int | None = None) -> bytes:
    """A PNG file of ``(H, W, 3)`` pixels as they are, or in their most telling colours.

    Args:
        pixels: what to write.
        colours: most colours of the file, at most 256, so that noisy pictures take a third of the bytes;
            None for all.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    if colours is not None:
        picture = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def reduced_png(pixels: Pixels, *, scale: float, colours: int) -> bytes:
    """A smaller PNG file of ``(H, W, 3)`` pixels.

    Args:
        pixels: what to write.
        scale: share of width and height that is left, in (0, 1].
        colours: as of :func:`png`.
    """
    from PIL import Image

    size = tuple(max(1, round(scale * side)) for side in (pixels.shape[1], pixels.shape[0]))
    picture = as_picture(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return png(np.asarray(picture), colours=colours)


def as_picture(pixels: Pixels) -> Image.Image:
    """``(H, W, 3)`` pixels as Pillow has them."""
    from PIL import Image

    return Image.fromarray(pixels)


def displayed(images: Tensor, channels: DisplayChannels = None, *, like: Tensor | None = None) -> Tensor:
    """Images as colours to look at, ``(B, 3, H, W)`` in [0, 1].

    Three channels are red, green and blue and one is grey, as they are. Of any other number, three are shown,
    each stretched from its own 2 % to its own 98 % quantile in the image.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        channels: see :data:`DisplayChannels`; None for the first three, and for the first as red and the
            second as green and blue where there are two.
        like: images by whose quantiles these are stretched, so that both can be compared; None for their own.

    Raises:
        ConfigError: channels that there are not, or a function that gives something else.
    """
    chosen = picked(images, channels)
    if (channels is None and images.shape[1] in (1, 3)) or callable(channels):
        return chosen
    known = (chosen if like is None else picked(like, channels)).flatten(2).double()
    low, high = (known.nanquantile(end, dim=2)[..., None, None].to(chosen) for end in _STRETCHED)
    return ((chosen - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def picked(images: Tensor, channels: DisplayChannels = None) -> Tensor:
    """The three channels of :func:`displayed`, ``(B, 3, H, W)``, their values as they are."""
    images, count = images.detach(), images.shape[1]
    if callable(channels):
        given = channels(images)
        expected = (len(images), 3, *images.shape[2:])
        if not isinstance(given, Tensor) or tuple(given.shape) != expected:
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ConfigError(f"display_channels must give RGB images {expected}, found {found}")
        return given.detach().to(images).clamp(0, 1)
    if channels is None:
        channels = {1: (0, 0, 0), 2: (0, 1, 1)}.get(count, (0, 1, 2))
    if len(channels) != 3 or not all(isinstance(one, int) and -count <= one < count for one in channels):
        raise ConfigError(
            f"display_channels must be three numbers of channels from 0 to {count - 1}, for red, green and"
            f" blue, or a function; found {channels!r}"
        )
    return images[:, list(channels)]


def image_pixels(images: Tensor, channels: DisplayChannels = None) -> Pixels:
    """``(B, H, W, 3)`` of images ``(B, C, H, W)`` in [0, 1], in the colours of :func:`displayed`."""
    levels = displayed(images, channels).mul(255).round().clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy()
    return levels.astype(np.uint8)


def map_pixels(
    maps: Tensor, *, end: Callable[[NDArray[np.float64]], float], palette: Colormap | None = None
) -> Pixels:
    """``(B, H, W, 3)`` of maps ``(B, 1, H, W)``, each from 0 to an end of its own; not finite is white.

    Args:
        maps: not negative.
        end: value of a map at the end of the colours: :func:`largest` or :func:`brightest`.
        palette: colours; by default all shades of the one scale.
    """
    values = as_array(maps[:, 0]).clip(0.0)
    ends = np.array([end(one) or 1.0 for one in values])
    return _coloured(values / ends[:, None, None], palette)


def brightest(values: NDArray[np.float64]) -> float:
    """The end of the colours for a map that is looked at: few values lie above, and the others can be seen.

    The 99.5 % quantile of what is finite, or the largest value where that is 0.
    """
    finite = values[np.isfinite(values)]
    return (float(np.quantile(finite, _DISPLAYED)) if finite.size else 0.0) or largest(values)


def overlaid(
    images: Tensor,
    maps: Tensor,
    *,
    opacity: float = OPACITY,
    channels: DisplayChannels = None,
    end: Callable[[NDArray[np.float64]], float] = brightest,
    signed: bool = False,
) -> Pixels:
    """``(B, H, W, 3)``: colours of maps over grey images, the more opaque the farther a value is from 0.

    The image is grey, so that every colour is the map's, and where a map is 0 nothing hides it.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        maps: ``(B, 1, H, W)``, of any size below the image's; what is not finite shows the image.
        opacity: at the end of the colours, in [0, 1].
        channels: as of :func:`displayed`.
        end: size of a value of a map ``(H, W)`` at the end of the colours: :func:`largest`,
            :func:`brightest`, or one number for several maps.
        signed: True for red above 0 and blue below; what is below 0 has no colour otherwise.
    """
    grey = displayed(images, channels).double().mean(dim=1, keepdim=True)
    pictures = image_pixels(grey).astype(np.float64)
    for picture, values in zip(pictures, as_array(_as_large(maps, pictures)[:, 0]), strict=True):
        size = np.abs(values) if signed else values.clip(0.0)
        share = np.nan_to_num(size / (end(size) or 1.0), posinf=0.0).clip(0.0, 1.0)
        place = 0.5 + 0.5 * np.sign(np.nan_to_num(values)) * share if signed else share
        weight = (opacity * np.sqrt(share))[..., None]
        picture += weight * (_coloured(place, SIGNED_SCALE if signed else None) - picture)
    return pictures.round().astype(np.uint8)


def _as_large(maps: Tensor, pictures: NDArray[np.float64]) -> Tensor:
    """Maps with as many pixels as the pictures; each place of a smaller one covers its share of them."""
    size = pictures.shape[1:3]
    if tuple(maps.shape[2:]) == size:
        return maps
    return torch.nn.functional.interpolate(maps.detach().float(), size=size, mode="nearest-exact")


def in_a_row(pictures: Pixels, *, side: int) -> Pixels:
    """``(H, W, 3)``: pictures beside each other on white, those below ``side`` enlarged pixel by pixel."""
    if not len(pictures):
        return np.full((1, 1, 3), 255, np.uint8)
    times = max(1, side // max(pictures.shape[1:3]))
    shown = [picture.repeat(times, axis=0).repeat(times, axis=1) for picture in pictures]
    gap = np.full((shown[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in shown for part in (picture, gap)][:-1], axis=1)


def _coloured(shares: NDArray[np.float64], palette: Colormap | str | None) -> Pixels:
    from matplotlib import colormaps

    if palette is None or isinstance(palette, str):
        palette = colormaps[palette or COLOUR_SCALE].with_extremes(bad="white")
    colours = palette
    return np.asarray(colours(np.ma.masked_invalid(shares), bytes=True))[..., :3]


def class_name(number: int, names: Sequence[str] = ()) -> str:
    """Name of a class, its number where there is none."""
    return names[number] if 0 <= number < len(names) else str(number)


def greatest(values: NDArray[np.float64]) -> str:
    """The largest value of a map in words, as it stands above the map."""
    if not np.isfinite(values).any():
        return "no number"
    return f"up to {largest(values):.3g}" if (values != 0).any() else "0 everywhere"


def map_titles(maps: Tensor, query_class: Tensor | None, names: Sequence[str]) -> list[str]:
    """Class and largest value of each of the maps ``(B, 1, H, W)``, the first ones that were explained."""
    titles = [greatest(as_array(one)) for one in maps]
    if query_class is None:
        return titles
    asked = [class_name(query, names) for query in query_class[: len(maps)].tolist()]
    return [f"class {name}, {title}" for name, title in zip(asked, titles, strict=True)]


def maps_figure(
    maps: Tensor,
    images: Tensor | None,
    titles: Sequence[str],
    *,
    opacity: float,
    channels: DisplayChannels = None,
) -> Figure:
    """A figure with one column per map, below its image where images are given, which the map then overlays.

    Args:
        maps: ``(B, 1, H, W)``, not negative.
        images: ``(B, C, H, W)`` in [0, 1], or None.
        titles: B texts, one above each map.
        opacity: as of :func:`overlaid`.
        channels: as of :func:`displayed`.
    """
    if images is None:
        lines = [map_pixels(maps, end=brightest)]
    else:
        lines = [
            image_pixels(images, channels),
            overlaid(images, maps, opacity=opacity, channels=channels),
        ]
    high = _CELL * maps.shape[2] / maps.shape[3]
    across, down = _CELL + 0.1, high + 0.1
    canvas = Canvas(0.1 + across * max(1, len(maps)), _TITLE + down * len(lines) + 0.1)
    for line, pictures in enumerate(lines):
        for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            axes = canvas.axes(0.1 + column * across, _TITLE + line * down, _CELL, high)
            axes.set_axis_off()
            axes.imshow(picture, interpolation="nearest")
            axes.set_title("" if line else title, parse_math=False, fontsize=9, pad=4)
    return canvas.figure
