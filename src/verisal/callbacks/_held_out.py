"""Images of which nothing is reported, on which thresholds are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal.callbacks._explaining import Context
from verisal.errors import DataError
from verisal.functional.outputs import ask
from verisal.functional.regions.localisation import choose_threshold
from verisal.saliency import Saliency
from verisal.types import Batch, Sample

__all__ = ["check_apart", "first_samples", "own_threshold"]

_CHUNK = 32


def first_samples(dataset: Dataset[Sample], count: int) -> Batch:
    """The first ``count`` samples, or all where there are fewer."""
    found = min(count, len(dataset))  # type: ignore[arg-type]  # a sized data set
    return Batch.collate([dataset[index] for index in range(found)])


def check_apart(held_out: frozenset[str], image_ids: Sequence[str]) -> None:
    """Raise if an image that is reported is held out.

    Raises:
        DataError: naming the first.
    """
    common = sorted(held_out.intersection(image_ids))
    if common:
        raise DataError(
            f"{len(common)} images are both reported and held out for the thresholds, the first is"
            f" {common[0]}; give held_out another split"
        )


def own_threshold(context: Context, name: str, samples: Batch) -> float:
    """The threshold of one method, known or chosen."""
    wanted = {"tau": partial(_chosen, context, context.methods[name], samples)}
    found = context.store.rows(
        name,
        context.methods[name],
        samples.images,
        image_ids=samples.image_ids,
        wanted=wanted,
        annotated=samples,
    )
    context.session.step(name)
    return round(float(found["tau"]), 6)


def _chosen(context: Context, method: Saliency, samples: Batch) -> Tensor:
    maps: list[Tensor] = []
    boxes: list[Tensor] = []
    for start in range(0, len(samples), _CHUNK):
        part = samples.rows(range(start, min(start + _CHUNK, len(samples))))
        predicted = ask(context.classifier, part.images).argmax(dim=1)
        part = part.rows(torch.nonzero(predicted == part.labels)[:, 0].tolist())
        if len(part):
            maps.append(method(context.classifier, part.images, part.labels).saliency)
            boxes += part.boxes_of(part.labels)
    try:
        tau = choose_threshold(torch.cat(maps), boxes) if maps else math.nan
    except DataError:
        # An untrained network, or maps that are all empty, must not end a fit.
        tau = math.nan
    return torch.tensor(tau, dtype=torch.float64)
