"""Queries of D-WSOL (our protocol): absent classes, and mosaics of classes that are all present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.seeding import derive_seed, per_sample

QUERIES = ("c0", "c1", "c2", "c3")
"""Top-1 class, second, random outside the top 5, least likely."""

_TOP = 5


@dataclass(frozen=True)
class DisturbedQueries:
    """Queries of B images, in the order of :data:`QUERIES`.

    Attributes:
        query_class: ``(4, B)`` int64.
        valid: ``(4, B)`` bool. An image that is not classified correctly or has no box counts for no query;
            an annotated class is no absent one.
    """

    query_class: Tensor
    valid: Tensor

    __repr__ = brief


@dataclass(frozen=True)
class Mosaics:
    """G canvases of several images each.

    Attributes:
        images: ``(G, 3, rows * H, columns * W)``.
        cells: ``(G, N, 4)`` int64 xyxy, half-open, where each image lies.
        boxes: per canvas, per image ``(M, 4)`` boxes of its own object, in the canvas.
    """

    images: Tensor
    cells: Tensor
    boxes: tuple[tuple[Tensor, ...], ...]

    __repr__ = brief


def disturbed_queries(
    logits: Tensor, labels: Tensor, *, present: Sequence[Tensor], image_ids: Sequence[str], seed: int = 0
) -> DisturbedQueries:
    """The true class and three absent ones, as :data:`QUERIES` says.

    c2 is drawn by seed and image id among the classes that are not annotated. Of equal logits the lower class
    comes first.

    Args:
        logits: ``(B, K)`` of the clean images.
        labels: ``(B,)`` int64, class of each main object.
        present: per image the classes of all annotated objects; none, and the image counts for no query.
        image_ids: B stable names.
        seed: of c2.

    Raises:
        DataError: lengths that differ, or fewer than two classes.
    """
    count, classes = logits.shape
    if not (len(labels) == len(present) == len(image_ids) == count) or classes < 2:
        raise DataError(
            "logits (B, K) of at least 2 classes need as many labels, present classes and ids,"
            f" found {tuple(logits.shape)}, {len(labels)}, {len(present)} and {len(image_ids)}"
        )
    order = logits.sort(dim=1, descending=True, stable=True).indices
    annotated = torch.zeros_like(logits, dtype=torch.bool)
    for row, classes_of_it in zip(annotated, present, strict=True):
        row[classes_of_it.to(row.device)] = True
    open_to_chance = (~annotated).scatter(1, order[:, :_TOP], value=False)

    def draw(rng: torch.Generator) -> Tensor:
        return torch.rand(classes, generator=rng, dtype=torch.float64)

    device = logits.device
    draws = per_sample(draw, seed=seed, sample_ids=image_ids, stream="absent class", device=device)
    drawn = draws.masked_fill(~open_to_chance, -1.0).argmax(dim=1)
    query = torch.stack([order[:, 0], order[:, 1], drawn, order[:, -1]])
    correct = (order[:, 0] == labels) & annotated.any(dim=1)
    absent = ~annotated.gather(1, query[1:].t()).t()
    absent[1] &= open_to_chance.any(dim=1)
    return DisturbedQueries(query_class=query, valid=torch.cat([correct[None], absent & correct]))


def most_probable(logits: Tensor, label_sets: Tensor, *, value: int = 1) -> Tensor:
    """``(B,)`` int64: the label with the highest logit among those of one value; -1 where there is none.

    Args:
        logits: ``(B, K)``.
        label_sets: ``(B, K)`` int64, 1 for a label that is there, 0 for one that is not, -1 where unknown.
        value: which of these.

    Raises:
        DataError: another number of labels than of logits.
    """
    if label_sets.shape != logits.shape:
        raise DataError(
            f"there must be one label for each of the {logits.shape[1]} logits, found labels"
            f" {tuple(label_sets.shape)} for logits {tuple(logits.shape)}"
        )
    among = label_sets == value
    best = logits.masked_fill(~among, -torch.inf).argmax(dim=1)
    return best.where(among.any(dim=1), -1)


def label_queries(
    logits: Tensor, label_sets: Tensor, *, image_ids: Sequence[str], seed: int = 0
) -> DisturbedQueries:
    """The queries of images with several labels: absent are the labels that are known not to be there.

    c0 is the most probable label that is there, c1 the most probable absent one, c2 a random absent one
    outside the five most probable labels, c3 the least probable absent one. Labels of which nobody knows are
    never asked for. An image without a label that is there and decided for counts for no query.

    Args:
        logits: ``(B, K)`` of the clean images.
        label_sets: ``(B, K)`` int64, as of :func:`most_probable`.
        image_ids: B stable names.
        seed: of c2.

    Raises:
        DataError: another number of labels than of logits.
    """
    first, absent, there = absent_queries(logits, label_sets, image_ids=image_ids, seed=seed)
    query = torch.cat([first[None], absent]).clamp(min=0)
    decided = (first >= 0) & (logits.gather(1, query[:1].t())[:, 0] > 0)
    return DisturbedQueries(query_class=query, valid=torch.cat([(first >= 0)[None], there]) & decided)


def absent_queries(
    logits: Tensor, label_sets: Tensor, *, image_ids: Sequence[str], seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable class that is there, and three that are not: c1, c2 and c3 of :func:`label_queries`.

    Args:
        logits: ``(B, K)`` of the clean images.
        label_sets: ``(B, K)`` int64, as of :func:`most_probable`.
        image_ids: B stable names.
        seed: of c2.

    Returns:
        ``(B,)`` int64, -1 without one; ``(3, B)`` int64, and ``(3, B)`` bool, False where there is none.

    Raises:
        DataError: another number of labels than of logits.
    """
    first, second = most_probable(logits, label_sets), most_probable(logits, label_sets, value=0)
    last = most_probable(-logits, label_sets, value=0)
    top = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
    chance = (label_sets == 0).scatter(1, top, value=False)

    def draw(rng: torch.Generator) -> Tensor:
        return torch.rand(logits.shape[1], generator=rng, dtype=torch.float64)

    draws = per_sample(draw, seed=seed, sample_ids=image_ids, stream="absent class", device=logits.device)
    drawn = draws.masked_fill(~chance, -1.0).argmax(dim=1)
    there = torch.stack([second >= 0, chance.any(dim=1), last >= 0])
    return first, torch.stack([second, drawn, last]).clamp(min=0), there


def present_queries(object_labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Every class that is annotated in an image, as a query of its own.

    Returns:
        Position of the image and query class, ``(N,)`` int64 each, classes rising within an image.

    >>> present_queries([torch.tensor([7, 2, 7]), torch.tensor([4])])
    (tensor([0, 0, 1]), tensor([2, 7, 4]))
    """
    classes = [torch.unique(labels) for labels in object_labels]
    position = [torch.full_like(some, index) for index, some in enumerate(classes)]
    if not classes:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    return torch.cat(position), torch.cat(classes)


def mosaic_groups(labels: Tensor, size: int, *, image_ids: Sequence[str], seed: int = 0) -> Tensor:
    """Groups of images of pairwise different classes; no image occurs twice.

    Images are taken in an order drawn by seed and image id, so the groups do not depend on how the set was
    sorted; what cannot be placed is left out.

    Args:
        labels: ``(n,)`` int64, of images that are classified correctly alone.
        size: images per group.
        image_ids: n stable names.
        seed: of the order.

    Returns:
        ``(G, size)`` int64 positions.

    Raises:
        ConfigError: fewer than two images per group.
    """
    if size < 2:
        raise ConfigError(f"a mosaic needs at least 2 images, found {size}")
    order = sorted(range(len(labels)), key=lambda index: derive_seed(seed, "mosaic", image_ids[index]))
    classes, open_groups, groups = labels.tolist(), list[list[int]](), list[list[int]]()
    for index in order:
        fits = (group for group in open_groups if classes[index] not in [classes[row] for row in group])
        group = next(fits, [])
        if not group:
            open_groups.append(group)
        group.append(index)
        if len(group) == size:
            open_groups.remove(group)
            groups.append(group)
    return torch.tensor(groups, dtype=torch.int64).reshape(-1, size)


def mosaics(images: Tensor, boxes: Sequence[Tensor], groups: Tensor, *, columns: int) -> Mosaics:
    """Canvases with the images of each group in row-major cells, at full size.

    Args:
        images: ``(n, C, H, W)`` in [0, 1].
        boxes: per image ``(M, 4)`` boxes of its object.
        groups: ``(G, N)`` positions, from :func:`mosaic_groups`.
        columns: cells per row: 2 for pairs side by side (N = 2) and for squares (N = 4).

    Raises:
        ConfigError: N is not a multiple of the columns.
    """
    size = groups.shape[1]
    if columns < 1 or size % columns:
        raise ConfigError(f"{size} images do not fill rows of {columns} columns")
    height, width = images.shape[-2:]
    rows = size // columns
    chosen = images[groups].view(-1, rows, columns, *images.shape[1:]).permute(0, 3, 1, 4, 2, 5)
    canvases = chosen.reshape(len(groups), images.shape[1], rows * height, columns * width)
    index = torch.arange(size, device=images.device)
    corner = torch.stack([index % columns * width, index // columns * height], dim=1)
    cells = torch.cat([corner, corner + corner.new_tensor([width, height])], dim=1)
    moved = tuple(
        tuple(boxes[row] + corner[cell].repeat(2).to(boxes[row]) for cell, row in enumerate(group))
        for group in groups.tolist()
    )
    return Mosaics(images=canvases, cells=cells.expand(len(groups), -1, -1), boxes=moved)
