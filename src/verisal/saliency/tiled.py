r"""One map of a large picture by a network for small ones: every tile is explained, and the maps are blended.

.. math:: S(u) = \frac{\sum_{t \ni u} w_t(u) \, S_t(u)}{\sum_{t \ni u} w_t(u)}

over the tiles *t* that hold the pixel *u*, with weights that fall linearly to the rim of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.functional.scopes import scored_at_once, scoring
from verisal.models.targets import Region, target_of
from verisal.saliency._base import Saliency
from verisal.saliency.adapters import GradCamAdapter
from verisal.saliency.controls import BlurredLike, OfProbability, OneLayer
from verisal.saliency.perturbation.extremal import ExtremalPerturbation
from verisal.types import AnyClassifier, SaliencyResult, StagedClassifier, check_query_class, check_range

Decision = Literal["mean", "largest"]


@final
@dataclass(frozen=True, kw_only=True)
class Tiled(Saliency):
    """A method asked about every tile of an image, its maps blended into one of the whole.

    For networks of small images, such as classifiers of patches, and pictures far larger than theirs: memory
    is that of ``chunk_size`` tiles in the network and of the maps. An image that is no larger than a tile is
    explained by the base as ever.

    Tiles lie on an even grid, the outer ones flush with the border: nothing is padded. Every tile is an image
    of its own, asked about the same class: random draws, baselines made from an image and a share of its
    range are those of the tile. No tile's map is scaled, so that tiles without evidence stay dark beside
    those with; a value is the effect on the score of the *tiles around the pixel*, not on one of the whole.

    Maps, attributions and maps of layers are blended alike. Of methods with layers the map is the blended
    ``raw``: the fused map of a tile may be scaled by its own maximum.

    Without a query class the class is the one with the greatest logit of the whole, see :meth:`logits`.

    Args:
        base: a method whose values can be compared from image to image.
        tile: side, or (height, width), of a tile in pixels: the size that the network was trained at.
        overlap: share of a tile's side that neighbours have in common, at least.
        decided_by: logits of the whole are the ``mean`` over its tiles, or the ``largest`` of any tile, for
            classes that show in a single place.
        chunk_size: tiles handed to the base at once, fewer above 256 x 256 pixels; bounds memory, never
            changes the result beyond float rounding.

    Raises:
        ConfigError: values out of range; a base that scales every map by itself, or asks no classifier; when
            called, a region as the target, whose places are those of the whole.

    Differs from:
        - The score is the tile's. Networks trained on whole slides (multiple-instance learning) have another.

    Example:
        >>> from verisal.saliency import Gradient, Tiled
        >>> patches = lambda images: images.mean(dim=(2, 3))  # a classifier of patches of 32 x 32 px
        >>> Tiled(base=Gradient(), tile=32)(patches, torch.rand(1, 3, 100, 200), 2).saliency.shape
        torch.Size([1, 1, 100, 200])
    """

    base: Saliency
    tile: int | tuple[int, int]
    overlap: float = 0.25
    decided_by: Decision = "mean"
    chunk_size: int = 16

    def __post_init__(self) -> None:
        as_tuples(self)
        if not isinstance(self.tile, int) and len(self.tile) != 2:
            raise ConfigError(f"tile must be a side or (height, width) in pixels, found {self.tile}")
        check_range(1, tile=self.tile, chunk_size=self.chunk_size)
        check_range(0, 0.9, overlap=self.overlap)
        if self.decided_by not in get_args(Decision):
            raise ConfigError(f"decided_by must be one of {get_args(Decision)}, found {self.decided_by!r}")
        _check_base(self.base)
        object.__setattr__(self, "needs_module", self.base.needs_module)

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The blended maps; passes are those of all tiles, what the base reports is the mean over them."""
        grid = self._grid(images)
        if len(grid.corners) == 1:
            return self.base(classifier, images, query_class)
        if isinstance(target_of(classifier), Region):
            raise ConfigError(
                "a Region is a place of the whole image, which no tile has; explain without Tiled, at a size"
                " that the network takes, or give a class as the target"
            )
        if isinstance(classifier, StagedClassifier):
            classifier.note_size(images, shown=grid.size)
            check_query_class(query_class, len(images), classifier.num_classes)
        sums: dict[str, Tensor] = {}
        reports: dict[str, Tensor] = {}
        forward = backward = 0.0
        for some in self._chunks(grid, len(images)):
            tiles = torch.stack([grid.cut(images[row], corner) for row, corner in some])
            rows = torch.tensor([row for row, _ in some], device=images.device)
            result = self.base(classifier, tiles, query_class[rows])
            # A base that stops early takes other numbers of passes for other tiles.
            forward += result.n_forward * len(some)
            backward += result.n_backward * len(some)
            for name, maps in _maps_of(result).items():
                if name not in sums:
                    sums[name] = maps.new_zeros(len(images), maps.shape[1], *images.shape[-2:])
                for (row, corner), each in zip(some, maps, strict=True):
                    grid.cut(sums[name][row], corner).add_(each * grid.weights.to(each))
            for name, values in result.diagnostics.items():
                zeros = torch.zeros(len(images), device=images.device)
                reports.setdefault(name, zeros).index_add_(0, rows, values.float() / len(grid.corners))
        covered = grid.covered().to(images)
        for total in sums.values():
            total.div_(covered)
        return _whole(result, sums, reports, passes=(forward / len(images), backward / len(images)))

    def logits(self, classifier: AnyClassifier, images: Tensor) -> Tensor:
        """Logits of the whole ``(B, K)``: the mean, or the largest, over the tiles of each image.

        All tiles of the grid count alike, and pixels that several tiles have in common count as often.

        Args:
            classifier: as of the call.
            images: ``(B, C, H, W)`` in [0, 1].
        """
        grid = self._grid(images)
        if isinstance(classifier, StagedClassifier):
            classifier.note_size(images, shown=grid.size)
        with scoring(classifier, images.device):
            found = [
                ask(classifier, torch.stack([grid.cut(images[row], corner) for row, corner in some]))
                for some in self._chunks(grid, len(images))
            ]
        by_tile = torch.cat(found).view(len(images), len(grid.corners), -1)
        return by_tile.mean(dim=1) if self.decided_by == "mean" else by_tile.amax(dim=1)

    def _predicted(self, classifier: AnyClassifier, images: Tensor) -> tuple[Tensor, float]:
        return self.logits(classifier, images).argmax(dim=1), len(self._grid(images).corners)

    def _grid(self, images: Tensor) -> _Grid:
        sides = (self.tile, self.tile) if isinstance(self.tile, int) else self.tile
        height, width = images.shape[-2:]
        return _Grid(_Axis(height, sides[0], self.overlap), _Axis(width, sides[1], self.overlap))

    def _chunks(self, grid: _Grid, count: int) -> Iterator[Sequence[tuple[int, tuple[int, int]]]]:
        """Images by number and corners of their tiles, as many as the base gets at once."""
        places = [(row, corner) for row in range(count) for corner in grid.corners]
        at_once = scored_at_once(self.chunk_size, grid.weights)
        return (places[start : start + at_once] for start in range(0, len(places), at_once))


@dataclass(frozen=True)
class _Axis:
    """Tiles along one side of an image of ``length`` pixels, and how a tile's weight runs over them."""

    length: int
    asked: int
    overlap: float

    @property
    def side(self) -> int:
        return min(self.asked, self.length)

    @property
    def shared(self) -> int:
        return int(self.side * self.overlap)

    @property
    def starts(self) -> list[int]:
        """First pixels, evenly spread from border to border."""
        way, step = self.length - self.side, max(1, self.side - self.shared)
        steps = -(-way // step)
        return [way * number // max(1, steps) for number in range(steps + 1)]

    def weights(self) -> Tensor:
        """``(side,)``: rises linearly over the pixels that neighbours share, and falls likewise."""
        to_rim = torch.arange(1, self.side + 1).minimum(torch.arange(self.side, 0, -1))
        return (to_rim / (self.shared + 1)).clamp_max(1)

    def covered(self) -> Tensor:
        """``(length,)``: sum of the weights of all tiles."""
        total = torch.zeros(self.length)
        for start in self.starts:
            total[start : start + self.side] += self.weights()
        return total


@final
class _Grid:
    """Tiles of an image: the products of those along its sides."""

    def __init__(self, rows: _Axis, columns: _Axis) -> None:
        self._rows, self._columns = rows, columns
        self.corners = [(top, left) for top in rows.starts for left in columns.starts]
        self.size = (rows.side, columns.side)
        self.weights = rows.weights()[:, None] * columns.weights()

    def cut(self, image: Tensor, corner: tuple[int, int]) -> Tensor:
        """The view ``(C, h, w)`` of a tile of ``image (C, H, W)``."""
        top, left = corner
        return image[:, top : top + self.size[0], left : left + self.size[1]]

    def covered(self) -> Tensor:
        """``(H, W)``: the weights of all tiles at each pixel, as those of a product are a product."""
        return self._rows.covered()[:, None] * self._columns.covered()


def _check_base(base: Saliency) -> None:
    inner = base.base if isinstance(base, OfProbability | OneLayer) else base
    name = type(inner).__name__
    why = {
        "ExtremalPerturbation": "keeps the same share of every tile, whatever is in it",
        "BlurredLike": "chooses another blur for every tile",
        "GradCamAdapter": "holds maps that are scaled to [0, 1] one by one",
        "Tiled": "cuts into tiles itself",
    }
    if isinstance(inner, ExtremalPerturbation | BlurredLike | GradCamAdapter | Tiled):
        raise ConfigError(
            f"the base of Tiled must give values that can be compared between tiles, and {name} {why[name]};"
            " choose another method, such as GradCAM, Gradient or Occlusion"
        )
    if not inner.asks_classifier:
        raise ConfigError(
            f"{name} makes its map of the image alone, whatever the size; call it without Tiled"
        )


def _maps_of(result: SaliencyResult) -> dict[str, Tensor]:
    """What is blended, each once: where nothing else is said, the map is the raw one."""
    maps = {f"layer {number}": layer for number, layer in enumerate(result.raw_layers)}
    if result.attribution is not None:
        maps["attribution"] = result.attribution
    if result.raw is not result.saliency and not result.raw_layers:
        maps["saliency"] = result.saliency
    return {"raw": result.raw, **maps}


def _whole(
    last: SaliencyResult,
    blended: dict[str, Tensor],
    reports: dict[str, Tensor],
    *,
    passes: tuple[float, float],
) -> SaliencyResult:
    """The result of the whole, from the blended maps, what the base reported, and one of its results."""
    return replace(
        last,
        saliency=blended.get("saliency", blended["raw"]),
        raw=blended["raw"],
        attribution=blended.get("attribution"),
        raw_layers=tuple(blended[f"layer {number}"] for number in range(len(last.raw_layers))),
        n_forward=passes[0],
        n_backward=passes[1],
        diagnostics=reports,
    )
