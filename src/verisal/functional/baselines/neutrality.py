"""Neutrality of baseline images: how little an image itself says to a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, log

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.functional.baselines.plain import Baseline, compose
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import scoring
from verisal.functional.seeding import per_image
from verisal.types import check_images, check_query_class, check_range

_ROWS = 7


@dataclass(frozen=True)
class Neutrality:
    """Answers of a classifier to one kind of baseline image, per image.

    Attributes:
        baseline: name of the baseline.
        num_classes: K.
        query_probability: ``(B,)`` probability of the query class on the baseline image, ideally at most 1/K.
            None, like the next two, for a baseline that depends on a mask and so is no image by itself.
        max_probability: ``(B,)`` largest probability on the baseline image, ideally 1/K.
        entropy: ``(B,)`` entropy of the probabilities on the baseline image over log K, ideally 1.
        change: ``(B,)`` absolute change of the query probability when random cells are replaced; context.
    """

    baseline: str
    num_classes: int
    query_probability: Tensor | None
    max_probability: Tensor | None
    entropy: Tensor | None
    change: Tensor

    __repr__ = brief

    @property
    def limit(self) -> float:
        """Mean query probability up to which a baseline is called neutral."""
        return max(0.01, 1 / self.num_classes)

    @property
    def neutral(self) -> bool | None:
        """True if the mean query probability is within the limit; None where there is none or it is NaN."""
        if self.query_probability is None:
            return None
        mean = float(self.query_probability.double().mean())
        return None if isnan(mean) else is_neutral(mean, self.limit)


def is_neutral(mean: float, limit: float) -> bool:
    """True if a mean query probability is within the limit."""
    # Probabilities are float32: exactly 1/K must not fail by its rounding.
    return mean <= limit + 1e-6


def neutrality(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    baseline: Baseline,
    query_class: Tensor,
    *,
    area: float = 0.5,
    seed: int = 0,
    chunk_size: int = 64,
) -> Neutrality:
    """Probabilities on baseline images, and what replacing random cells by them changes.

    Args:
        classifier: gives logits ``(B, K)`` of images in [0, 1]; a module is put into eval mode meanwhile.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        baseline: with its statistics filled in.
        query_class: ``(B,)`` int64, the class predicted on the clean image.
        area: share of the cells that are replaced for :attr:`Neutrality.change`.
        seed: of the choice of cells.
        chunk_size: images per pass of the classifier; changes memory only.

    Raises:
        DataError: images that are none.
        ConfigError: a query class, an area, a chunk size or a classifier that does not fit.
    """
    check_images(images)
    require_softmax(classifier, "neutrality of a baseline")
    check_range(1, chunk_size=chunk_size)
    masks = random_cell_masks(images, area=area, seed=seed)
    with scoring(classifier, images.device):
        clean = _probabilities(classifier, images, chunk_size)
        check_query_class(query_class, len(images), clean.shape[1])
        fills = baseline(images, masks, query_class=query_class)
        mixed = _probabilities(classifier, compose(images, fills, masks), chunk_size)
        plain = None if baseline.needs_mask else _probabilities(classifier, fills, chunk_size)
    query = query_class[:, None]
    return Neutrality(
        baseline=baseline.name,
        num_classes=clean.shape[1],
        query_probability=None if plain is None else plain.gather(1, query)[:, 0],
        max_probability=None if plain is None else plain.amax(dim=1),
        entropy=None if plain is None else torch.special.entr(plain).sum(dim=1) / log(plain.shape[1]),
        change=(mixed.gather(1, query) - clean.gather(1, query))[:, 0].abs(),
    )


def _probabilities(classifier: Callable[[Tensor], Tensor], images: Tensor, chunk_size: int) -> Tensor:
    chunks = torch.split(images, chunk_size)
    return torch.cat([ask(classifier, chunk, allow_nan=True).float().softmax(dim=1) for chunk in chunks])


def random_cell_masks(images: Tensor, *, area: float = 0.5, seed: int = 0) -> Tensor:
    """Masks that remove a fixed share of cells, chosen by seed and content.

    Seven rows of cells, and as many columns as make the cells nearly square.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        area: share of the cells to remove, rounded to a whole number of cells.
        seed: of the choice.

    Returns:
        ``(B, 1, H, W)``, 1 keeps and 0 removes.

    Raises:
        ConfigError: an area outside [0, 1].
    """
    check_range(0, 1, area=area)
    height, width = images.shape[2:]
    columns = max(1, round(_ROWS * width / height))
    cells = _ROWS * columns
    order = per_image(
        lambda rng: torch.randperm(cells, generator=rng), images, seed=seed, stream="random cells"
    )
    kept = (order >= round(area * cells)).to(images.dtype).view(-1, 1, _ROWS, columns)
    row = torch.arange(height, device=images.device) * _ROWS // height
    column = torch.arange(width, device=images.device) * columns // width
    return kept[:, :, row][..., column]
