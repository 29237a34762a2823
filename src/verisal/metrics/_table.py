"""Rows of values per image, gathered over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric

from verisal.errors import DataError
from verisal.types import check_range


class ImageRows:
    """Per-image rows, sorted by image id, without the copies that a padding sampler adds.

    An ordinary class, not a dataclass: torchmetrics walks into dataclasses and squeezes tensors of one item.

    Args:
        image_ids: n names.
        kept: ``(n, R)`` on the CPU, of the type that the metric keeps.
    """

    __slots__ = ("image_ids", "kept")

    def __init__(self, image_ids: tuple[str, ...], kept: Tensor) -> None:
        self.image_ids = image_ids
        self.kept = kept

    @property
    def rows(self) -> Tensor:
        """``(n, R)`` float64; a copy where the metric keeps a narrower type."""
        return self.kept.double()


@final
class ImageTable(Metric):
    """Rows per image, gathered over batches and processes; :meth:`compute` gives :class:`ImageRows`.

    Several processes give exactly the rows of one, on uneven data too: rows are keyed by image id.

    Args:
        columns: names of the R values kept per image.
        dtype: that rows are kept in: one that holds each of their values exactly.
        precise: the first columns, which are kept in float64 all the same.

    Raises:
        ConfigError: ``precise`` is no number of columns.
    """

    full_state_update = False
    image_ids: list[Tensor]
    rows: list[Tensor]
    precise: list[Tensor]

    def __init__(
        self, columns: Sequence[str], *, dtype: torch.dtype = torch.float64, precise: int = 0
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        check_range(0, len(self.columns), precise=precise)
        self._dtype, self._precise = dtype, precise
        for state in ("image_ids", "rows", *(["precise"] if precise else [])):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def update(self, image_ids: Sequence[str], rows: Tensor) -> None:
        """Add a batch: B names and ``(B, R)`` values.

        Raises:
            DataError: rows of a wrong shape.
        """
        expected = (len(image_ids), len(self.columns))
        if tuple(rows.shape) != expected:
            raise DataError(f"rows must be {expected}, one per image and column, found {tuple(rows.shape)}")
        self._append(rows.detach(), _encoded(image_ids))

    def compute(self) -> ImageRows:
        """The rows of all processes, on the CPU."""
        return self._table(0)

    @property
    def added(self) -> int:
        """Number of rows that this process has added."""
        return sum(map(len, self.rows))

    def since(self, update: int) -> ImageRows:
        """The rows of this process that came with the updates from this number on, on the CPU."""
        return self._table(update)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._append_nothing()

    def _append_nothing(self) -> None:
        # A process that saw no image must still send tensors of the right shape and dtype to the others.
        self._append(torch.empty(0, len(self.columns)), torch.empty(0, dtype=torch.uint8))
        # And it is no mistake: torchmetrics would warn about it.
        self._update_count = 1

    def _append(self, rows: Tensor, image_ids: Tensor) -> None:
        # Copies, not parts of wider rows, which would stay as a whole.
        if self._precise:
            self.precise.append(rows[:, : self._precise].to(self.device, torch.float64, copy=True))
        self.rows.append(rows[:, self._precise :].to(self.device, self._dtype, copy=True))
        self.image_ids.append(image_ids.to(self.device))

    def _table(self, first: int) -> ImageRows:
        """Sorted rows from states as they are kept, or as they come from other processes: one tensor."""
        named, rows = (_joined(state, first) for state in (self.image_ids, self.rows))
        # Of two copies of an image the first is kept; they differ by rounding at most.
        by_id = {name: index for index, name in reversed(list(enumerate(_decoded(named))))}
        names = sorted(by_id)
        places = torch.tensor([by_id[name] for name in names], dtype=torch.int64)
        kept = rows[places]
        if self._precise:
            kept = torch.cat([_joined(self.precise, first)[places], kept], dim=1)
        return ImageRows(tuple(names), kept)


def _joined(state: Sequence[Tensor] | Tensor, first: int) -> Tensor:
    return state.cpu() if isinstance(state, Tensor) else torch.cat(list(state[first:])).cpu()


def _encoded(image_ids: Sequence[str]) -> Tensor:
    """Names as bytes, each with a zero behind it: what processes can send each other."""
    content = b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in image_ids)
    return torch.tensor(bytearray(content), dtype=torch.uint8)


def _decoded(content: Tensor) -> list[str]:
    return content.numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
