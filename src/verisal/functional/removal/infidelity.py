"""Infidelity: how badly an attribution foretells the change of the logit with the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from verisal._brief import brief
from verisal.errors import DataError
from verisal.functional.scopes import in_chunks, query_scores, scoring
from verisal.functional.seeding import per_image, series
from verisal.types import check_range

_LARGEST_SQUARE = 10


@dataclass(frozen=True)
class Responses:
    r"""Effects of N perturbations I of each image, and what the attribution foretold.

    Attributes:
        foretold: ``(B, N)`` float64, :math:`I \cdot \Phi`.
        observed: ``(B, N)`` float64, :math:`f_c(x) - f_c(x - I)`, of logits.
    """

    foretold: Tensor
    observed: Tensor

    __repr__ = brief


def infidelity(effects: Responses, *, normalised: bool) -> Tensor:
    r"""Mean squared error :math:`E_I[(I \cdot \Phi - (f_c(x) - f_c(x - I)))^2]`; low is good.

    Args:
        effects: of :func:`square_responses`, or of :func:`responses` to any perturbations.
        normalised: take :math:`\beta \Phi` for the attribution with
            :math:`\beta = E[\Delta f \; I \cdot \Phi] / E[(I \cdot \Phi)^2]`, so that its
            scale does not count.

    Returns:
        ``(B,)`` float64; NaN where a response is not finite, or where the scale cannot be found because the
        attribution foretells 0 for every perturbation.

    References:
        yeh2019
    """
    foretold, observed = effects.foretold, effects.observed
    if normalised:
        beta = (observed * foretold).mean(dim=1) / foretold.square().mean(dim=1)
        foretold = beta[:, None] * foretold
    values = (foretold - observed).square().mean(dim=1)
    return values.where(values.isfinite(), torch.nan)


def squares_of(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """All squares of side 1 to 10 px inside an image, as ``(N, 4)`` int64 xyxy, half-open.

    >>> len(squares_of(2, 3))
    8
    """
    parts = []
    for side in range(1, min(_LARGEST_SQUARE, height, width) + 1):
        tops = torch.arange(height - side + 1, device=device)
        lefts = torch.arange(width - side + 1, device=device)
        top, left = (part.flatten() for part in torch.meshgrid(tops, lefts, indexing="ij"))
        parts.append(torch.stack([left, top, left + side, top + side], dim=1))
    return torch.cat(parts)


def square_responses(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    attribution: Tensor,
    query_class: Tensor,
    samples: int | None,
    seed: int = 0,
    chunk_size: int = 64,
) -> Responses:
    """Responses to squares of side 1 to 10 px turned black: I is the image inside the square.

    Args:
        classifier: maps images to logits.
        images: ``(B, C, H, W)`` in [0, 1].
        attribution: ``(B, C, H, W)``, or ``(B, 1, H, W)``, which then holds for every channel.
        query_class: ``(B,)`` int64.
        samples: squares drawn per image, each equally likely; None for all of them (about 7 600 at 32 px,
            480 000 at 224 px).
        seed: of the draw, which depends on it and the content of the image only.
        chunk_size: images in one network pass.

    Raises:
        ConfigError: ``samples`` or ``chunk_size`` below 1, or a query class that does not fit.
        DataError: an attribution of another shape.
    """
    _check(images, attribution, chunk_size)
    check_range(1, samples=samples)
    height, width = images.shape[2:]
    squares = squares_of(height, width, device=images.device)
    count = len(squares)
    if samples is None:
        squares = squares.expand(len(images), -1, -1)
    else:
        size = (samples,)
        squares = squares[
            per_image(
                lambda rng: torch.randint(count, size, generator=rng),
                images,
                seed=seed,
                stream="black squares",
            )
        ]
    # Sums over rectangles from an integral image: four look-ups a square.
    relevance = (attribution.double() * images).sum(dim=1)
    integral = F.pad(relevance.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0)).flatten(1)
    left, top, right, bottom = squares.unbind(dim=2)
    corner = [integral.gather(1, y * (width + 1) + x) for y in (top, bottom) for x in (left, right)]
    foretold = corner[3] - corner[2] - corner[1] + corner[0]

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        y = torch.arange(height, device=images.device).view(1, -1, 1)
        x = torch.arange(width, device=images.device).view(1, 1, -1)
        numbers = torch.arange(squares.shape[0] * squares.shape[1], device=images.device)
        for start in range(0, len(numbers), chunk_size):
            some = numbers[start : start + chunk_size]
            rows = some // squares.shape[1]
            x0, y0, x1, y1 = squares[rows, some % squares.shape[1]].view(-1, 4, 1, 1).unbind(dim=1)
            black = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
            yield images[rows].masked_fill(black[:, None], 0.0), query_class[rows]

    with scoring(classifier, images.device):
        clean = query_scores(classifier, in_chunks(images, query_class, chunk_size))
        changed = query_scores(classifier, chunks())
    return Responses(foretold, clean[:, None] - changed.view(len(images), -1))


def gaussian_noises(images: Tensor, *, deviation: float, samples: int, seed: int = 0) -> Iterator[Tensor]:
    """Gaussian perturbations I, drawn one ``(B, C, H, W)`` sample after the other.

    Drawn by (seed, content of the image, number of the sample), so they are the same in any batch.

    Raises:
        ConfigError: a deviation that is not positive, or ``samples`` below 1.
    """
    check_range(0, above=True, deviation=deviation)
    check_range(1, samples=samples)

    def draw(rng: torch.Generator) -> Tensor:
        return deviation * torch.randn(images.shape[1:], generator=rng)

    return series(draw, images, samples=samples, seed=seed, stream="gaussian perturbation")


def responses(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    attribution: Tensor,
    query_class: Tensor,
    perturbations: Iterable[Tensor],
    chunk_size: int = 64,
) -> Responses:
    """Responses to any perturbations; x - I is not clamped, so that I is what the classifier sees.

    Args:
        classifier: maps images to logits.
        images: ``(B, C, H, W)`` in [0, 1].
        attribution: as of :func:`square_responses`.
        query_class: ``(B,)`` int64.
        perturbations: N samples I, each ``(B, C, H, W)``.
        chunk_size: images in one network pass, at least a batch.

    Raises:
        ConfigError: ``chunk_size`` below 1, or a query class that does not fit.
        DataError: an attribution of another shape, or no perturbation.
    """
    _check(images, attribution, chunk_size)
    phi, foretold = attribution.detach().double(), list[Tensor]()

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        waiting = iter(perturbations)
        while group := list(islice(waiting, max(1, chunk_size // max(1, len(images))))):
            foretold.extend((phi * perturbation).sum(dim=(1, 2, 3)) for perturbation in group)
            yield torch.cat([images - part for part in group]), query_class.repeat(len(group))

    with scoring(classifier, images.device):
        clean = query_scores(classifier, [(images, query_class)])
        changed = query_scores(classifier, chunks())
    return Responses(torch.stack(foretold, dim=1), clean[:, None] - changed.view(-1, len(images)).T)


def _check(images: Tensor, attribution: Tensor, chunk_size: int) -> None:
    check_range(1, chunk_size=chunk_size)
    batch, channels, height, width = images.shape
    if tuple(attribution.shape) not in {(batch, channels, height, width), (batch, 1, height, width)}:
        raise DataError(
            f"the attribution must be ({batch}, {channels} or 1, {height}, {width}) like the images,"
            f" found {tuple(attribution.shape)}"
        )
