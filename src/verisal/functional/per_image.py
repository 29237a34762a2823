"""Networks that hold something for each image: other inputs, a region, an embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.types import Explained, SaliencyResult

_ANY = -1


class PerImage(nn.Module, ABC):
    """A part of a network that holds a row of something for each image of a batch, or one row for all.

    Methods ask about copies and parts of a batch, changed beyond recognition, and which image one of them
    was made of cannot be seen. So they go through the images one at a time, each inside :func:`at_row`.
    """

    row: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A buffer, so that a hash of the network's state tells rows apart.
        self.register_buffer("row", torch.tensor(_ANY))

    @property
    @abstractmethod
    def rows(self) -> int | None:
        """Number of images that it holds something for; None where the same holds for all."""

    @property
    def chosen(self) -> int | None:
        """The row of the images that are asked about; None where there is one for all.

        Raises:
            ConfigError: several rows, and none is chosen.
        """
        if self.rows is None:
            return None
        if int(self.row) == _ANY:
            raise ConfigError(
                f"the network holds something of its own for each of {self.rows} images, and of which of them"
                " these are copies is not known; call a method, an attack or a metric with all of the images,"
                " or ask inside of verisal.functional.per_image.at_row(network, index)"
            )
        return int(self.row)


@contextmanager
def at_row(classifier: object, index: int) -> Iterator[None]:
    """All images are copies of the image of this number, inside; as before afterwards."""
    parts = _parts(classifier)
    earlier = [int(part.row) for part in parts]
    try:
        for part in parts:
            part.row.fill_(index)
        yield
    finally:
        for part, row in zip(parts, earlier, strict=True):
            part.row.fill_(row)


def rows_waiting(classifier: object, count: int) -> int | None:
    """Number of images that must be asked about one at a time; None where all go together.

    Args:
        classifier: any.
        count: of the images.

    Raises:
        ConfigError: it holds something for another number of images.
    """
    rows = {part.rows for part in _parts(classifier) if part.rows is not None and int(part.row) == _ANY}
    if not rows:
        return None
    if rows != {count}:
        held = " and ".join(map(str, sorted(rows)))
        raise ConfigError(
            f"the network holds something of its own for each of {held} images, found {count} images; give"
            " one row for each image of this call, in their order, or one row for all"
        )
    return count


def joined_results(results: Sequence[SaliencyResult]) -> SaliencyResult:
    """Results of several images as that of one batch; passes are those of the mean image."""
    signed = [result.attribution for result in results if result.attribution is not None]
    asked = [result.query_class for result in results if result.query_class is not None]
    layers = zip(*(result.raw_layers for result in results), strict=True)
    names = results[0].diagnostics
    return replace(
        results[0],
        saliency=torch.cat([result.saliency for result in results]),
        raw=torch.cat([result.raw for result in results]),
        attribution=torch.cat(signed) if signed else None,
        raw_layers=tuple(map(torch.cat, layers)),
        n_forward=sum(result.n_forward for result in results) / len(results),
        n_backward=sum(result.n_backward for result in results) / len(results),
        diagnostics={name: torch.cat([result.diagnostics[name] for result in results]) for name in names},
        query_class=torch.cat(asked) if asked else None,
    )


def one_of(explained: Explained, row: int) -> Explained:
    """What belongs to one image, as a batch of one."""
    part = slice(row, row + 1)
    result, masks, boxes = explained.result, explained.object_masks, explained.boxes
    return replace(
        explained,
        images=explained.images[part],
        query_class=explained.query_class[part],
        result=replace(
            result,
            saliency=result.saliency[part],
            raw=result.raw[part],
            attribution=None if result.attribution is None else result.attribution[part],
            raw_layers=tuple(layer[part] for layer in result.raw_layers),
            diagnostics={name: values[part] for name, values in result.diagnostics.items()},
            query_class=None if result.query_class is None else result.query_class[part],
        ),
        image_ids=explained.image_ids[part],
        object_masks=None if masks is None else masks[part],
        boxes=None if boxes is None else boxes[part],
    )


def _parts(classifier: object) -> list[PerImage]:
    modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
    # A buffer is looked up faster than an abstract base class, and few modules have one of this name.
    return [part for part in modules if "row" in part._buffers and isinstance(part, PerImage)]
