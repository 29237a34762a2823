"""What the explaining callbacks of one trainer share: maps and work on the batch at hand, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from verisal.callbacks._rows import method_key
from verisal.saliency import Saliency
from verisal.saliency.shared_work import SharedWork
from verisal.types import Batch, SaliencyResult

__all__ = ["Session"]

_SECONDS_BETWEEN_LINES = 15.0


@final
class Session:
    """Maps of one batch, each computed once whoever asks, and how far the evaluation has come.

    Belongs to the first explaining callback of a trainer; the others find it there. ``work`` is what several
    maps of the batch are made from.
    """

    def __init__(self) -> None:
        self.work = SharedWork()
        self._batch: Batch | None = None
        self._known: dict[tuple[str, str, int], tuple[SaliencyResult, int, float]] = {}
        self._quiet = True
        self._total = self._done = 0
        self._started = self._said = 0.0

    def begin(self, *, quiet: bool) -> None:
        """Start an epoch: forget all maps, set the clock to 0."""
        self.close()
        self._quiet, self._total, self._done = quiet, 0, 0
        self._started = self._said = time.perf_counter()

    def expect(self, steps: int) -> None:
        """There will be this many more calls of :meth:`step`."""
        self._total += steps

    def step(self, what: str) -> None:
        """One method is done on one batch; now and then this prints a line."""
        self._done += 1
        now = time.perf_counter()
        if self._quiet or now - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        gone = now - self._started
        left = gone * (self._total - self._done) / self._done
        print(
            f"{what}: {self._done}/{self._total} steps, {_clock(gone)} gone, about {_clock(left)} left",
            flush=True,
        )

    def open(self, batch: Batch) -> None:
        """Forget the maps of any other batch."""
        if batch is not self._batch:
            self.close()
            self._batch = batch

    def close(self) -> None:
        """Forget all maps."""
        self._batch = None
        self._known.clear()
        self.work.clear()

    def explain(
        self,
        method: Saliency,
        classifier: Callable[[Tensor], Tensor],
        images: Tensor,
        query_class: Tensor,
        *,
        image_ids: Sequence[str],
    ) -> tuple[SaliencyResult, Tensor]:
        """Maps of images of the open batch, and the seconds that each took, or would have taken alone.

        Args:
            method: explains.
            classifier: is explained.
            images: ``(B, 3, H, W)``.
            query_class: ``(B,)`` int64.
            image_ids: B names, which with the query class name a map.
        """
        key = method_key(method) or f"object {id(method)}"
        names = [(key, name, query) for name, query in zip(image_ids, query_class.tolist(), strict=True)]
        missing = [place for place, name in enumerate(names) if name not in self._known]
        if missing:
            index = torch.tensor(missing, device=images.device)
            start, saved = time.perf_counter(), self.work.saved_seconds
            result = method(classifier, images[index], query_class[index])
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            taken = time.perf_counter() - start + self.work.saved_seconds - saved
            each = taken / len(missing)
            self._known |= {names[place]: (result, row, each) for row, place in enumerate(missing)}
        found = [self._known[name] for name in names]
        return _stacked(found), torch.tensor([seconds for _, _, seconds in found], dtype=torch.float64)


def _stacked(rows: Sequence[tuple[SaliencyResult, int, float]]) -> SaliencyResult:
    first = rows[0][0]
    if all(result is first for result, _, _ in rows) and [row for _, row, _ in rows] == list(
        range(len(first.saliency))
    ):
        return first
    attribution = None
    if first.attribution is not None:
        attribution = torch.stack(
            [result.attribution[row] for result, row, _ in rows if result.attribution is not None]
        )
    return SaliencyResult(
        saliency=torch.stack([result.saliency[row] for result, row, _ in rows]),
        raw=torch.stack([result.raw[row] for result, row, _ in rows]),
        attribution=attribution,
        raw_layers=tuple(
            torch.stack([result.raw_layers[layer][row] for result, row, _ in rows])
            for layer in range(len(first.raw_layers))
        ),
        n_forward=first.n_forward,
        n_backward=first.n_backward,
        baseline=first.baseline,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
