"""Baseline images that fill removed pixels from the kept ones, so that they depend on the mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.baselines.plain import Baseline, Given, seeded_name
from verisal.functional.seeding import per_image
from verisal.types import check_range


@final
@dataclass(frozen=True, kw_only=True)
class Inpaint(Baseline):
    """Removed regions filled from their rim inwards by the fast marching method.

    OpenCV works on one 8-bit image at a time on the CPU, so that filled pixels are multiples of 1/255. An
    image without any kept pixel becomes its own mean per channel.

    Args:
        radius: of the neighbourhood that a filled pixel is made from, in pixels.

    Raises:
        ConfigError: a radius below 1, or no masks.

    References:
        telea2004
    """

    radius: float = 3.0

    needs_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(1, radius=self.radius)

    @property
    def name(self) -> str:
        """``inpaint``, followed by ``_radius<pixels>`` for a radius other than 3."""
        return "inpaint" if self.radius == 3 else f"inpaint_radius{self.radius:g}"

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The images with removed pixels filled, and kept pixels as they are."""
        removed = removed_pixels(images, masks, who="Inpaint")
        if len(images) == 0:
            return images.clone()
        filled = torch.where(
            removed.flatten(1).all(dim=1).view(-1, 1, 1, 1),
            images.mean(dim=(2, 3), keepdim=True),
            _telea(images, removed, self.radius),
        )
        return torch.where(removed, filled, images)


@final
@dataclass(frozen=True, kw_only=True)
class LinearImputation(Baseline):
    """Every removed pixel is the weighted mean of its eight neighbours, plus a little Gaussian noise.

    Args:
        noise: standard deviation of the noise on removed pixels, on [0, 1].
        seed: of the noise.

    Raises:
        ConfigError: a negative noise, or no masks.

    References:
        rong2022road
    """

    noise: float = 0.01
    seed: int = 0

    needs_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(0, noise=self.noise)

    @property
    def name(self) -> str:
        """``linear``, followed by ``_noise<sd>`` for other noise than 0.01, and by a seed other than 0."""
        return seeded_name("linear" if self.noise == 0.01 else f"linear_noise{self.noise:g}", self.seed)

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The images with removed pixels imputed, and kept pixels as they are."""
        removed = removed_pixels(images, masks, who="LinearImputation")
        return linear_imputation(images, (~removed).to(images), noise=self.noise, seed=self.seed)


def removed_pixels(images: Tensor, keep_masks: Tensor | None, *, who: str) -> Tensor:
    """``(B, 1, H, W)`` bool: the pixels that a mask below 0.5 removes.

    Raises:
        ConfigError: no masks.
        DataError: masks that do not fit the images.
    """
    batch, _, height, width = images.shape
    if keep_masks is None:
        raise ConfigError(
            f"{who} depends on which pixels are removed, and no masks were given;"
            f" give masks ({batch}, 1, {height}, {width}) in [0, 1], 1 keeps"
        )
    if tuple(keep_masks.shape) != (batch, 1, height, width):
        raise DataError(
            f"{who} needs one mask per image, ({batch}, 1, {height}, {width}),"
            f" found {tuple(keep_masks.shape)}"
        )
    return keep_masks < 0.5


@torch.no_grad()
def linear_imputation(
    images: Tensor, keep_masks: Tensor, *, noise: float = 0.0, seed: int = 0, tolerance: float = 3e-4
) -> Tensor:
    r"""Fill removed pixels with the linear interpolation of what surrounds them.

    All removed pixels of an image are the solution of one sparse linear system per channel:
    :math:`x_i = \sum_j w_{ij} x_j / \sum_j w_{ij}` over the eight neighbours inside the image, with weight
    1/6 for direct and 1/12 for diagonal ones; see :func:`.solve_laplace`. An image without any kept pixel
    becomes its own mean per channel.

    Args:
        images: ``(B, C, H, W)`` float32 in [0, 1].
        keep_masks: ``(B, 1, H, W)``; pixels below 0.5 are removed.
        noise: standard deviation of the Gaussian noise added to removed pixels, on [0, 1].
        seed: of the noise, which also depends on the content of the image, and not on the mask.
        tolerance: largest estimated error of a pixel at which an image counts as solved.

    Returns:
        ``(B, C, H, W)`` in [0, 1], kept pixels as they are.

    Raises:
        ConfigError: a negative noise or a tolerance that is not positive.
        DataError: masks that do not fit the images.
        NumericError: pixels that are not finite.

    References:
        rong2022road

    Differs from:
        rong2022road: iterative instead of a sparse factorisation; an image without kept pixels is defined;
        values are clamped to [0, 1] after the noise.
    """
    check_range(0, noise=noise)
    check_range(0, above=True, tolerance=tolerance)
    free = removed_pixels(images, keep_masks, who="linear imputation").to(images.dtype)
    undetermined = free.flatten(1).amin(dim=1).view(-1, 1, 1, 1) > 0
    filled = torch.where(free > 0, _kept_mean(images, free), images)
    with torch.autocast(device_type=images.device.type, enabled=False):
        solved = solve_laplace(filled, torch.where(undetermined, 0.0, free), tolerance)
    solved = torch.where(undetermined, images.mean(dim=(2, 3), keepdim=True), solved)
    if noise > 0:
        shape = tuple(images.shape[1:])
        grain = per_image(lambda rng: torch.randn(shape, generator=rng), images, seed=seed, stream="linear")
        solved = solved + noise * grain * free
    return torch.where(free > 0, solved.clamp(0, 1), images)


def _kept_mean(images: Tensor, free: Tensor) -> Tensor:
    total = torch.where(free > 0, 0.0, images).sum(dim=(2, 3), keepdim=True)
    return total / (1 - free).sum(dim=(2, 3), keepdim=True).clamp_min(1)


def _telea(images: Tensor, removed: Tensor, radius: float) -> Tensor:
    # Only this function needs OpenCV, and importing it costs more than most baselines.
    import cv2

    channels = images.shape[1]
    # OpenCV takes one channel or three, and fills each by itself.
    at_once = 3 if channels == 3 else 1
    coded = images.detach().mul(255).round_().to(torch.uint8).reshape(-1, at_once, *images.shape[2:])
    pictures = coded.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    holes = removed.to(torch.uint8).cpu().expand(-1, channels // at_once, -1, -1).flatten(0, 1).numpy()
    rows = [
        torch.from_numpy(cv2.inpaint(picture, hole, radius, cv2.INPAINT_TELEA)).view(*hole.shape, -1)
        for picture, hole in zip(pictures, holes, strict=True)
    ]
    return torch.stack(rows).permute(0, 3, 1, 2).reshape(images.shape).to(images) / 255


# Points of the coarsest grid, whose matrix is inverted; inverting a larger one costs more than another grid.
_COARSEST = 256
# Below 1, so that thin images, whose pixels have two neighbours, are smoothed as well.
_DAMPING = 0.9
_DEFINITE = 1e-4
# A pixel's own part in the sum over its neighbourhood, where direct weights are 2 and diagonal ones 1.
_SELF = 4
_MAX_ITERATIONS = 200


def solve_laplace(filled: Tensor, free: Tensor, tolerance: float) -> Tensor:
    """Make every free pixel the weighted mean of its eight neighbours inside the image.

    Conjugate gradients; a multigrid cycle turns the residual into an estimate of the error, whose size ends
    the loop. Every image and channel is a system with steps of its own, and images that are done stand still.

    Args:
        filled: ``(B, C, H, W)``, a first guess at free pixels.
        free: ``(B, 1, H, W)``, 1 at free pixels, 0 elsewhere; no image may be free all over.
        tolerance: largest estimated error of a pixel at which an image counts as solved.

    Raises:
        NumericError: values that are not finite.
    """
    levels = _hierarchy(free)
    solution = filled.clone()
    residual = -levels[0].operator(solution)
    direction = torch.zeros_like(residual)
    before = torch.ones_like(residual[:, :, :1, :1])
    for _ in range(_MAX_ITERATIONS):
        error = _cycle(residual, levels)
        size = error.abs().amax(dim=(1, 2, 3), keepdim=True)
        active = size > tolerance
        if not bool(active.any()):
            if not bool(size.isfinite().all()):
                break
            return solution.add_(error)
        energy = _dot(residual, error)
        direction.mul_(energy / before).add_(error)
        before = _divisor(energy)
        image = levels[0].operator(direction)
        step = torch.where(active, energy / _divisor(_dot(direction, image)), 0.0)
        solution.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
    raise NumericError(
        f"linear imputation found no solution in {_MAX_ITERATIONS} iterations; the images hold values from"
        f" {float(filled.min()):.4g} to {float(filled.max()):.4g}, expected finite values in [0, 1]"
    )


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=(2, 3), keepdim=True)


def _divisor(values: Tensor) -> Tensor:
    """The values; 1 in place of 0, which is where nothing is left to solve."""
    return torch.where(values == 0, 1.0, values)


@dataclass(frozen=True)
class _Level:
    """One grid: the matrix as a function of ``(B, C, h, w)``, and what a cycle needs of it.

    ``smoother (B, 1, h, w)``: inverse of the diagonal, 0 where nothing is unknown. ``free``: 1 at unknowns,
    on the finest grid. ``inverse (B, n, n)``: of the matrix, on the coarsest grid.
    """

    operator: Callable[[Tensor], Tensor]
    smoother: Tensor
    free: Tensor | None = None
    inverse: Tensor | None = None


def _cycle(residual: Tensor, levels: Sequence[_Level]) -> Tensor:
    """One symmetric V-cycle with a Jacobi step before and after: about the error behind the residual."""
    level = levels[0]
    if level.inverse is not None:
        solved: Tensor = (residual.flatten(2) @ level.inverse).view_as(residual)
        return solved
    error = residual * level.smoother
    coarse = _cycle(_restrict(residual - level.operator(error)), levels[1:])
    correction = _prolong(coarse, residual.shape[2], residual.shape[3])
    error += correction if level.free is None else correction.mul_(level.free)
    return error.addcmul_(residual - level.operator(error), level.smoother)


def _hierarchy(free: Tensor) -> list[_Level]:
    """Grids from fine to coarse, halved until a dense inverse costs nothing."""
    centre = _neighbours(torch.ones_like(free[:1])) - _SELF
    stencil = _finest_stencil(free, centre)
    levels = [
        _Level(partial(_laplacian, free=free, centre=centre + _SELF), _DAMPING * free / centre, free=free)
    ]
    while stencil.shape[3] * stencil.shape[4] > _COARSEST:
        stencil = _galerkin(_galerkin(stencil).transpose(1, 2).transpose(3, 4))
        stencil = stencil.transpose(1, 2).transpose(3, 4).contiguous()
        diagonal = stencil[:, 1, 1, None]
        used = diagonal > _DEFINITE
        smoother = torch.where(used, _DAMPING / torch.where(used, diagonal, 1.0), 0.0)
        levels.append(_Level(partial(_stencil_product, stencil=stencil), smoother))
    size = stencil.shape[3] * stencil.shape[4]
    unit = torch.eye(size, device=free.device, dtype=free.dtype)
    points = unit.view(1, size, *stencil.shape[3:]).expand(len(free), -1, -1, -1)
    matrix = _stencil_product(points, stencil=stencil).flatten(2)
    # Where few pixels are removed, coarse points can be dependent; what is added keeps the matrix definite.
    factor = torch.linalg.cholesky(matrix + _DEFINITE * unit)
    levels[-1] = replace(levels[-1], inverse=torch.cholesky_inverse(factor))
    return levels


def _neighbours(values: Tensor) -> Tensor:
    """Weighted sum over the 3 x 3 neighbourhood: 2 direct, 1 diagonal, and 4 for the pixel itself.

    With these weights it is a (1, 2, 1) sum of rows and columns, and exact for constant values, so that no
    rounding adds up over large regions.
    """
    padded = F.pad(values, (1, 1, 1, 1))
    rows = (padded[..., :-2] + padded[..., 2:]).add_(padded[..., 1:-1], alpha=2)
    return (rows[..., :-2, :] + rows[..., 2:, :]).add_(rows[..., 1:-1, :], alpha=2)


def _laplacian(values: Tensor, *, free: Tensor, centre: Tensor) -> Tensor:
    """At unknowns: weights of the neighbours inside the image times the difference to them."""
    return (values * centre).sub_(_neighbours(values)).mul_(free)


def _finest_stencil(free: Tensor, centre: Tensor) -> Tensor:
    """``(B, 3, 3, H, W)``: matrix rows of the unknowns, first by row and column of the neighbour."""
    height, width = free.shape[2:]
    padded = F.pad(free, (1, 1, 1, 1))
    stencil = free.new_empty(len(free), 3, 3, height, width)
    for row, column in product(range(3), range(3)):
        weight = -float((2 - abs(row - 1)) * (2 - abs(column - 1)))
        shifted = padded[:, 0, row : row + height, column : column + width]
        stencil[:, row, column] = weight * free[:, 0] * shifted
    stencil[:, 1, 1] = (free * centre)[:, 0]
    return stencil


def _stencil_product(values: Tensor, *, stencil: Tensor) -> Tensor:
    height, width = values.shape[2:]
    padded = F.pad(values, (1, 1, 1, 1))
    total = torch.zeros_like(values)
    for row, column in product(range(3), range(3)):
        shifted = padded[:, :, row : row + height, column : column + width]
        total.addcmul_(stencil[:, row, column, None], shifted)
    return total


def _galerkin(stencil: Tensor) -> Tensor:
    """The matrix between linear interpolations from every second row: ``(B, 3, 3, H // 2 + 1, W)``."""
    height = stencil.shape[3]
    half = height // 2 + 1
    padded = F.pad(stencil, (0, 0, 1, 2 * half - height))
    coarse = torch.zeros_like(padded[:, :, :, :half])
    for target, neighbour, row in product((-1, 0, 1), repeat=3):
        weight = _hat(row) * _hat(row + neighbour - 2 * target)
        if weight:
            rows = padded[:, neighbour + 1, :, row + 1 : row + 2 * half : 2]
            coarse[:, target + 1].add_(rows, alpha=weight)
    return coarse


def _hat(offset: int) -> float:
    """Weight of a coarse point at the fine pixel that far from it."""
    return max(0.0, 1 - abs(offset) / 2)


def _prolong(coarse: Tensor, height: int, width: int) -> Tensor:
    """Linear interpolation from every second row and column."""
    return _stretch(_stretch(coarse, 2, height), 3, width)


def _stretch(coarse: Tensor, dim: int, size: int) -> Tensor:
    shape = list(coarse.shape)
    shape[dim] = size
    fine = coarse.new_empty(shape)
    even, odd = _every_second(fine, dim)
    pairs = odd.shape[dim]
    even.copy_(coarse.narrow(dim, 0, even.shape[dim]))
    torch.add(coarse.narrow(dim, 0, pairs), coarse.narrow(dim, 1, pairs), out=odd).mul_(0.5)
    return fine


def _restrict(fine: Tensor) -> Tensor:
    """The transpose of :func:`_prolong`."""
    return _shrink(_shrink(fine, 3), 2)


def _shrink(fine: Tensor, dim: int) -> Tensor:
    shape = list(fine.shape)
    shape[dim] = fine.shape[dim] // 2 + 1
    coarse = fine.new_zeros(shape)
    even, odd = _every_second(fine, dim)
    pairs = odd.shape[dim]
    coarse.narrow(dim, 0, even.shape[dim]).copy_(even)
    coarse.narrow(dim, 0, pairs).add_(odd, alpha=0.5)
    coarse.narrow(dim, 1, pairs).add_(odd, alpha=0.5)
    return coarse


def _every_second(fine: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return (fine[:, :, ::2], fine[:, :, 1::2]) if dim == 2 else (fine[..., ::2], fine[..., 1::2])
