"""One evaluation epoch as all explaining callbacks of a trainer see it: maps, rows per image, the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.checkpoint import load_export, save_export
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import fingerprint, state_hash
from verisal.functional.outputs import ask, output_of
from verisal.functional.regions.disturbed import most_probable
from verisal.functional.scopes import frozen, rng_preserved
from verisal.functional.seeding import content_ids
from verisal.functional.shared_work import SharedWork
from verisal.progress import Running, Step, at_work, work
from verisal.saliency import Saliency
from verisal.types import Batch, Explained, SaliencyResult

_DOING = "explaining"
_RULES = 2
"""Raised whenever rows of one name come to mean other numbers, so that stored ones are made again."""


@dataclass(frozen=True)
class Seen:
    """Images of one batch that are explained.

    Attributes:
        batch: these images only.
        logits: ``(B, K)`` of the clean images.
        query_class: ``(B,)`` int64, the predicted class unless another one is asked for.
    """

    batch: Batch
    logits: Tensor
    query_class: Tensor

    __repr__ = brief

    def rows(self, indices: Sequence[int]) -> Seen:
        """The part with these positions, in this order."""
        kept = list(indices)
        return Seen(self.batch.rows(kept), self.logits[kept], self.query_class[kept])


@final
class Epoch:
    """Maps and rows, each computed once whoever asks for them, and how far the evaluation has come.

    Maps are kept for the batch at hand. Rows are kept in files, one per method, batch and caller, written
    whole or not at all, so that an evaluation that was stopped goes on where it was. A file is found again
    by settings of the method, weights and output of the classifier, names and contents of the images, what
    is marked in them where that matters, and the number of the rules; the rows in it by their own names. A
    damaged file counts as none.

    Args:
        split: ``val`` or ``test``.
        classifier: is explained.
        device: of images and tables.
        samples: the first samples of a data set in the loader's form, of the loader's own for None.
        notice: says a sentence once, by a key.
        folder: of the files; None keeps none, and so does a classifier that is no ``nn.Module``.
        fitting: True if the epoch is part of a fit, whose scores have no intervals.
        quiet: True if nobody is told how far it is.
        rank: number of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        split: str,
        classifier: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        samples: Callable[[object, int], Batch] | None = None,
        notice: Callable[[str, str], None] | None = None,
        folder: Path | None = None,
        fitting: bool = False,
        quiet: bool = True,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.split, self.classifier, self.device = split, classifier, device
        self._samples, self._notice = samples, notice
        self.fitting, self.rank, self.processes = fitting, rank, processes
        self.work = SharedWork()
        self._folder = folder if isinstance(classifier, nn.Module) else None
        self._weights = ""
        if isinstance(classifier, nn.Module) and folder:
            output = output_of(classifier)
            self._weights = state_hash(classifier) + ("" if output == "softmax" else f" {output}")
        self.files: dict[str, str] = {}
        self._batch: Batch | None = None
        self._known: dict[tuple[str, str, int], tuple[SaliencyResult, int, float]] = {}
        self._quiet = quiet
        self._running: Running | None = None
        self._shown = ExitStack()

    def notice(self, key: str, sentence: str) -> None:
        """Say a sentence once per run of the trainer, in its output and in the evaluation's notes.

        Args:
            key: of the sentence, which may hold numbers that change; the last one is the note.
            sentence: is said; empty if there is nothing to say, any more.
        """
        if self._notice is not None:
            self._notice(key, sentence)

    def samples(self, source: object, count: int) -> Batch:
        """The first ``count`` samples of a data set or loader in the evaluation's form, or all if fewer.

        Args:
            source: read and normalised as the evaluation's own data; None for these.
            count: at most this many.

        Raises:
            ConfigError: an epoch without loaders.
        """
        if self._samples is None:
            raise ConfigError("this epoch has no loaders to read samples from")
        return self._samples(source, count).to(self.device)

    def expect(self, steps: int) -> None:
        """Announce this many more calls of :meth:`step`."""
        if self._running is None:
            shown = not self._quiet and (at_work() or not self.fitting)
            planned = self._shown.enter_context(work([Step(_DOING)], shown=shown, lines=not self.fitting))
            self._running = self._shown.enter_context(planned.step(_DOING))
        self._running.expect(steps)

    def step(self, what: str) -> None:
        """Count one row of one batch, and show how far it is."""
        if self._running is not None:
            self._running(1, part=what)

    def over(self) -> None:
        """Show no more how far it is; may be called at any time."""
        self._running = None
        self._shown.close()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """No gradients, a frozen classifier, shared work; the global random state is as before."""
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            frozen(self.classifier),
            rng_preserved(self.device),
            self.work.sharing(),
        ):
            yield

    def title(self, image_id: str) -> str:
        """What an image is called in pictures: its file where the data set says it, else its id."""
        return self.files.get(image_id) or image_id

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

    def seen(self, batch: Batch) -> Seen:
        """Images with their logits and predicted classes.

        Of an image with several labels the label and the query are the most probable one that is there, as
        long as it is decided for, and else the query is the most probable one of all.

        Raises:
            DataError: as many labels as there are no logits.
        """
        logits = ask(self.classifier, batch.images)
        query = logits.argmax(dim=1)
        if batch.label_sets is None or output_of(self.classifier) != "sigmoid":
            return Seen(batch, logits, query)
        label = most_probable(logits, batch.label_sets)
        decided = (label >= 0) & (logits.gather(1, label.clamp(min=0)[:, None])[:, 0] > 0)
        return Seen(replace(batch, labels=label), logits, torch.where(decided, label, query))

    def explain(self, method: Saliency, batch: Batch, query_class: Tensor) -> tuple[SaliencyResult, Tensor]:
        """Maps of images of the open batch, and the seconds that each took, or would have taken alone.

        Args:
            method: explains.
            batch: the images, whose names with the query class name a map.
            query_class: ``(B,)`` int64.
        """
        key = method_key(method) or f"object {id(method)}"
        names = [
            (key, name, query) for name, query in zip(batch.image_ids, query_class.tolist(), strict=True)
        ]
        missing = [place for place, name in enumerate(names) if name not in self._known]
        if missing:
            index = torch.tensor(missing, device=batch.images.device)
            start, saved = time.perf_counter(), self.work.saved_seconds
            result = method(self.classifier, batch.images[index], query_class[index])
            if batch.images.device.type == "cuda":
                torch.cuda.synchronize(batch.images.device)
            taken = time.perf_counter() - start + self.work.saved_seconds - saved
            # What is passed once for several queries would be passed for each of them alone.
            alone = {batch.image_ids[place] for place in missing} if method.shares_passes else missing
            each = taken / len(alone)
            self._known |= {names[place]: (result, row, each) for row, place in enumerate(missing)}
        maps = [self._known[name] for name in names]
        return _stacked(maps), torch.tensor([seconds for _, _, seconds in maps], dtype=torch.float64)

    def explained(self, method: Saliency, seen: Seen) -> Explained:
        """Maps of the query class with everything that metrics ask about them."""
        batch, query = seen.batch, seen.query_class
        # A score is of no class; its objects are those whose class nobody said.
        shown = torch.full_like(query, -1) if output_of(self.classifier) == "score" else query
        return Explained(
            classifier=self.classifier,
            images=batch.images,
            query_class=query,
            result=self.explain(method, batch, query)[0],
            image_ids=batch.image_ids,
            explain=lambda images, query: method(self.classifier, images, query),
            object_masks=batch.object_mask_of(shown),
            boxes=batch.boxes_of(shown),
        )

    def rows(
        self,
        name: str,
        methods: Sequence[Saliency],
        batch: Batch,
        wanted: Mapping[str, Callable[[], Tensor]],
        *,
        objects: bool = False,
    ) -> dict[str, Tensor]:
        """Rows by name, read where they are known and computed where not.

        Args:
            name: of the row, for the folder's name.
            methods: whose maps are scored together.
            batch: the images.
            wanted: name of the rows, with all settings that change them, to what computes them.
            objects: True if rows depend on the objects in the images.
        """
        settings = [key for key in map(method_key, methods) if key is not None]
        if self._folder is None or len(settings) < len(methods):
            return {key: compute() for key, compute in wanted.items()}
        card: dict[str, object] = {
            "method": settings,
            "classifier": self._weights,
            "image_ids": list(batch.image_ids),
            "contents": list(content_ids(batch.images)),
            "rules": _RULES,
            "caller": sorted(wanted),
        }
        if objects:
            card["objects"] = _objects(batch)
        digest = fingerprint(card)[:24]
        path = self._folder / (re.sub(r"[^\w.-]+", "_", name) or "_") / f"{digest}.safetensors"
        try:
            return load_export(path)[0]
        except CheckpointError:
            rows = {key: compute().detach().double().cpu() for key, compute in wanted.items()}
            save_export(path, rows, card)
            return rows


def method_key(method: Saliency) -> str | None:
    """Fingerprint of a method's settings; None for one that holds something other than plain data."""
    try:
        return fingerprint(method)
    except ConfigError:
        return None


def _objects(batch: Batch) -> str:
    """Hash of everything that is marked in the images."""
    parts = (batch.object_labels, batch.object_masks, batch.boxes, batch.difficult)
    values = [batch.labels, *(tensor for part in parts for tensor in part)]
    return state_hash({str(place): tensor for place, tensor in enumerate(values)})


def _stacked(maps: Sequence[tuple[SaliencyResult, int, float]]) -> SaliencyResult:
    first = maps[0][0]
    whole = [(id(first), row) for row in range(len(first.saliency))]
    if [(id(result), row) for result, row, _ in maps] == whole:
        return first
    signed = [result.attribution[row] for result, row, _ in maps if result.attribution is not None]
    return SaliencyResult(
        saliency=torch.stack([result.saliency[row] for result, row, _ in maps]),
        raw=torch.stack([result.raw[row] for result, row, _ in maps]),
        attribution=torch.stack(signed) if first.attribution is not None else None,
        raw_layers=tuple(
            torch.stack([result.raw_layers[layer][row] for result, row, _ in maps])
            for layer in range(len(first.raw_layers))
        ),
        n_forward=first.n_forward,
        n_backward=first.n_backward,
        baseline=first.baseline,
    )
