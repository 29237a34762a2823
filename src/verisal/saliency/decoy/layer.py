"""The layer whose features a decoy keeps, its receptive field, and patches that share no feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.functional.networks import channels_last, hooked
from verisal.functional.outputs import ask
from verisal.functional.seeding import derive_seed
from verisal.saliency._base import staged
from verisal.types import check_range

#: Images to the output of a layer.
Features = Callable[[Tensor], Tensor]
# Pairs of random images on which a network is tried for being linear.
_PAIRS = 4


# Random images on which the support is collected: what a rectifier or a pooling window hides on one of them,
# some channel, row or column of another shows.
_IMAGES = 3


def find_layer(network: nn.Module, name: str | None, image: Tensor) -> nn.Module:
    """The module called ``name``, or the default one.

    Args:
        network: frozen, in eval mode.
        name: of a stage or a module; the end of a dotted name will do. None: the first max-pooling layer that
            runs, or the first stage where there is none.
        image: ``(1, C, H, W)``, for one pass that shows the order and the outputs of the modules.

    Raises:
        ConfigError: no such module, one that runs more than once or not at all, one above the head (its
            output has no places), or no default.
    """
    calls = _calls(network, image)
    modules = dict(network.named_modules())
    known = [full for full in calls if calls[full] == [True]]
    full = _default(network, modules, known, image) if name is None else _full_name(name, modules)
    if full is None:
        raise ConfigError(
            f"{type(network).__name__} has no layer {name!r}; known: {known[:30]}"
            if name is not None
            else "there is no max-pooling layer that runs once and no stage to choose the decoys' layer by"
            f" default; name one as layer: {known[:30]}"
        )
    runs = calls.get(full, [])
    if runs != [True]:
        why = "its output is no map (B, C, h, w) of several places"
        if len(runs) != 1:
            why = f"it runs {len(runs)} times, and a decoy keeps the output of one run"
        raise ConfigError(f"layer {name or full!r} does not suit decoys: {why}; known: {known[:30]}")
    module: nn.Module = modules[full]
    return module


def _calls(network: nn.Module, image: Tensor) -> dict[str, list[bool]]:
    """Per module in the order of first calls, if the output of each call is a map of several places."""
    calls: dict[str, list[bool]] = {}

    def note(name: str, output: object) -> None:
        is_map = (
            isinstance(output, Tensor)
            and output.ndim == 4
            and output.shape[-2:].numel() > 1
            and not channels_last(output.shape, (image.shape[-2], image.shape[-1]))
        )
        calls.setdefault(name, []).append(is_map)

    with torch.no_grad(), hooked((named for named in network.named_modules() if named[0]), note):
        network(image.clone())
    return calls


def _default(
    network: nn.Module, modules: dict[str, nn.Module], known: list[str], image: Tensor
) -> str | None:
    pools = [full for full in known if isinstance(modules[full], nn.MaxPool2d)]
    if pools:
        return pools[0]
    try:
        return _full_name(staged(network, image, "Decoy").stages[0], modules)
    except ConfigError:
        return None


def _full_name(name: str, modules: dict[str, nn.Module]) -> str | None:
    """The shortest dotted name that ends in ``name``."""
    return min((full for full in modules if full and f".{full}".endswith(f".{name}")), key=len, default=None)


def check_not_linear(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ``ConfigError`` if logits half-way between two images are always the mean of those at both ends.

    Always: for several pairs of random images of this shape ``(C, H, W)``, up to rounding.
    """
    generator = torch.Generator().manual_seed(derive_seed("linear or not"))
    ends = torch.rand(2, _PAIRS, *shape, generator=generator).to(device)
    with torch.no_grad():
        first, second, middle = ask(network, torch.cat([*ends, ends.mean(dim=0)])).chunk(3)
    bend = (first + second - 2 * middle).abs().max()
    if bool(bend <= 1e-4 * (first - second).abs().max() + 1e-6 * middle.abs().max()):
        raise ConfigError(
            f"{type(network).__name__} is linear in the image: its gradient is the same at every decoy, so"
            " that decoys say nothing about it; use the base method alone"
        )


@dataclass(frozen=True)
class ReceptiveField:
    """First and last pixel that every row and column of a layer's features depends on.

    Features that depend on no pixel have a first pixel behind their last one.

    Attributes:
        rows: ``(h, 2)`` int64, of the features' rows, in image rows.
        columns: ``(w, 2)`` int64, of the features' columns, in image columns.
    """

    rows: Tensor
    columns: Tensor

    __repr__ = brief

    @property
    def size(self) -> int:
        """Side in pixels of the largest field of any feature, whatever its place."""
        extents = torch.cat([self.rows, self.columns])
        return max(0, int((extents[:, 1] - extents[:, 0]).max()) + 1)


def receptive_field(
    features: Features, shape: tuple[int, ...], *, device: torch.device | None = None, chunk_size: int = 64
) -> ReceptiveField:
    """The support of the gradient of every row and every column of features.

    A row's features of all channels and columns are summed with random weights, so that nothing cancels, and
    the pixels whose gradient is not exactly zero count, over several random images: strides, padding,
    dilation and pooling need no special case. To be called where gradients are on.

    Args:
        features: images ``(B, C, H, W)`` to features ``(B, C, h, w)``; ``ConfigError`` for others.
        shape: C, H and W of an image.
        device: of the images; the CPU if None.
        chunk_size: images at once, at least 1; bounds memory, never changes the result.
    """
    check_range(1, chunk_size=chunk_size)
    device = torch.device("cpu") if device is None else device
    generator = torch.Generator().manual_seed(derive_seed("receptive field"))
    images = torch.rand(_IMAGES, *shape, generator=generator).to(device)
    # cuDNN's fast convolutions mix neighbouring places and leave rounding where zeros belong.
    with torch.backends.cudnn.flags(enabled=False):
        with torch.no_grad():
            given = features(images[:1]).shape
        if len(given) != 4:
            raise ConfigError(f"features must be (B, C, h, w), found {tuple(given)}")
        weights = torch.randn(given, generator=generator).to(device)
        row_ends = _extents(features, images, weights, dim=2, chunk_size=chunk_size)
        column_ends = _extents(features, images, weights, dim=3, chunk_size=chunk_size)
    return ReceptiveField(row_ends, column_ends)


def least_period(field: int, patch: int, stride: int) -> int:
    """Smallest distance between patches that share no feature, rounded up to a multiple of the stride.

    A field of side r that reaches the last pixel of one patch ends r - 1 pixels further on.

    >>> least_period(11, patch=3, stride=3)
    15
    """
    return -(-(patch + field - 1) // stride) * stride


def _extents(features: Features, images: Tensor, weights: Tensor, *, dim: int, chunk_size: int) -> Tensor:
    """``(n, 2)`` int64: first and last pixel along ``dim`` of each of the n places along ``dim``."""
    count, length, device = weights.shape[dim], images.shape[dim], images.device
    reached = torch.zeros(count, length, dtype=torch.bool, device=device)
    other = 5 - dim
    chosen = torch.eye(count, device=device).unsqueeze(1).unsqueeze(other)
    for image in images:
        for some in torch.split(torch.arange(count, device=device), chunk_size):
            leaf = image.expand(len(some), *image.shape).clone().requires_grad_()
            given = features(leaf)
            if given.requires_grad:
                (gradient,) = torch.autograd.grad(given, leaf, grad_outputs=weights * chosen[some])
                reached[some] |= (gradient != 0).any(dim=other).any(dim=1)
    places = torch.arange(length, device=device)
    first = torch.where(reached, places, length).amin(dim=1)
    last = torch.where(reached, places, -1).amax(dim=1)
    return torch.stack([first, last], dim=1)


@dataclass(frozen=True)
class SomePatches:
    """Patches of several masks, each mask ``ky`` by ``kx`` patches, as 0/1 products of rows and columns.

    Attributes:
        pixel_rows: ``(m, H, ky)``, whether an image row is in a patch.
        pixel_columns: ``(m, W, kx)``.
        feature_rows: ``(m, h, ky)``, whether a row of features depends on a patch.
        feature_columns: ``(m, w, kx)``.
    """

    pixel_rows: Tensor
    pixel_columns: Tensor
    feature_rows: Tensor
    feature_columns: Tensor

    __repr__ = brief

    def __getitem__(self, index: Tensor) -> SomePatches:
        return SomePatches(
            self.pixel_rows[index],
            self.pixel_columns[index],
            self.feature_rows[index],
            self.feature_columns[index],
        )

    @property
    def area(self) -> Tensor:
        """``(m, ky, kx)`` pixels of every patch; 0 where the mask has none at that place."""
        return self.pixel_rows.sum(dim=1)[:, :, None] * self.pixel_columns.sum(dim=1)[:, None]

    def mask(self) -> Tensor:
        """``(m, 1, H, W)``, 1 on the patches."""
        return self.to_pixels(torch.ones_like(self.area))

    def to_pixels(self, values: Tensor) -> Tensor:
        """``(m, 1, H, W)``: every patch's value of ``(m, ky, kx)`` on its pixels, 0 elsewhere."""
        return (self.pixel_rows @ values @ self.pixel_columns.mT)[:, None]

    def to_features(self, values: Tensor) -> Tensor:
        """``(m, 1, h, w)``: every patch's value on the features that depend on it, 0 elsewhere."""
        return (self.feature_rows @ values @ self.feature_columns.mT)[:, None]

    def sum_pixels(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: sum of ``(m, H, W)`` over every patch."""
        return self.pixel_rows.mT @ values @ self.pixel_columns

    def sum_features(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: sum of ``(m, h, w)`` over the features that depend on every patch."""
        return self.feature_rows.mT @ values @ self.feature_columns

    def max_features(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: largest of ``(m, h, w)``, non-negative, over the features of every patch."""
        by_column = (values[..., None] * self.feature_columns[:, None]).amax(dim=2)
        return (by_column[:, :, None] * self.feature_rows[..., None]).amax(dim=1)


@dataclass(frozen=True)
class PatchLattice:
    """All masks: one for every offset of a grid of patches ``period`` pixels apart.

    Attributes:
        rows: ``(n, H, ky)`` and ``(n, h, ky)`` of the n row offsets.
        columns: ``(n', W, kx)`` and ``(n', w, kx)`` of the column offsets.
    """

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.rows[0]) * len(self.columns[0])

    def masks(self, index: Tensor) -> SomePatches:
        """The masks with these numbers ``(m,)`` int64, row by row of the offsets."""
        row, column = index // len(self.columns[0]), index % len(self.columns[0])
        return SomePatches(
            self.rows[0][row], self.columns[0][column], self.rows[1][row], self.columns[1][column]
        )


def patch_lattice(
    field: ReceptiveField, size: tuple[int, int], *, patch: int, stride: int, period: int
) -> PatchLattice:
    """Masks whose patches together are the tiling of the image with ``patch`` and ``stride``.

    Patches are cut at the lower and right border. A period that is not below the image's sides puts every
    patch into a mask of its own.
    """
    height, width = size
    return PatchLattice(
        _along(field.rows, height, patch, stride, period), _along(field.columns, width, patch, stride, period)
    )


def _along(extents: Tensor, length: int, patch: int, stride: int, period: int) -> tuple[Tensor, Tensor]:
    """Pixels in the patches of every offset along one side, and features that depend on them."""
    device = extents.device
    offsets = torch.arange(0, min(period, length), stride, device=device)
    starts = offsets[:, None] + torch.arange(0, length, period, device=device)
    place = torch.arange(length, device=device)[:, None]
    inside = (place >= starts[:, None]) & (place < starts[:, None] + patch)
    first, last = extents[:, 0, None], extents[:, 1, None]
    depends = (first < starts[:, None] + patch) & (last >= starts[:, None]) & (starts[:, None] < length)
    return inside.float(), depends.float()
