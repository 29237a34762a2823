"""Per-image rows in files, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor, nn

from verisal.checkpoint import load_export, save_export
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import fingerprint, state_hash
from verisal.functional.outputs import output_of
from verisal.functional.seeding import content_ids
from verisal.saliency import Saliency
from verisal.types import Batch

__all__ = ["RowStore", "method_key"]

_RULES = 1
"""Raised whenever rows of one name come to mean other numbers, so that stored ones are made again."""


def method_key(method: Saliency) -> str | None:
    """Fingerprint of a method's settings; None for one that holds something other than plain data."""
    try:
        return fingerprint(method)
    except ConfigError:
        return None


@final
class RowStore:
    """Rows of one classifier, one file per method, batch and caller, written whole or not at all.

    A file is found again by settings of the method, weights and output of the classifier, names and contents
    of the images, what is marked in them where that matters, and the number of the rules; the rows in it by
    their own names. A damaged file counts as none.

    Args:
        folder: where the files are; None keeps nothing.
        classifier: whose maps are scored. Rows of one that is no ``nn.Module`` are not kept.
    """

    def __init__(self, folder: Path | None, classifier: Callable[[Tensor], Tensor]) -> None:
        self._folder = folder if isinstance(classifier, nn.Module) else None
        self._weights = ""
        if isinstance(classifier, nn.Module) and folder:
            output = output_of(classifier)
            self._weights = state_hash(classifier) + ("" if output == "softmax" else f" {output}")

    def rows(
        self,
        name: str,
        method: Saliency | Sequence[Saliency],
        images: Tensor,
        *,
        image_ids: Sequence[str],
        wanted: Mapping[str, Callable[[], Tensor]],
        annotated: Batch | None = None,
    ) -> dict[str, Tensor]:
        """Rows by name, read where they are known and computed where not.

        Args:
            name: of the method, for the folder's name.
            method: whose maps are scored, or several whose maps are scored together.
            images: ``(B, 3, H, W)``.
            image_ids: B names.
            wanted: name of the rows, with all settings that change them, to what computes them.
            annotated: the batch, where rows depend on the objects in its images.
        """
        settings = _settings(method) if self._folder is not None else None
        if self._folder is None or settings is None:
            return {key: compute() for key, compute in wanted.items()}
        card = {
            "method": settings,
            "classifier": self._weights,
            "image_ids": list(image_ids),
            "contents": list(content_ids(images)),
            "rules": _RULES,
            "caller": sorted(wanted),
        } | ({} if annotated is None else {"objects": _objects(annotated)})
        digest = fingerprint(card)[:24]
        path = self._folder / (re.sub(r"[^\w.-]+", "_", name) or "_") / f"{digest}.safetensors"
        try:
            return load_export(path)[0]
        except CheckpointError:
            found = {key: compute().detach().double().cpu() for key, compute in wanted.items()}
            save_export(path, found, card)
            return found


def _objects(batch: Batch) -> str:
    """Hash of everything that is marked in the images."""
    parts = (batch.object_labels, batch.object_masks, batch.boxes, batch.difficult)
    values = [batch.labels, *(tensor for part in parts for tensor in part)]
    return state_hash({str(place): tensor for place, tensor in enumerate(values)})


def _settings(method: Saliency | Sequence[Saliency]) -> str | list[str] | None:
    if isinstance(method, Saliency):
        return method_key(method)
    keys = [key for key in map(method_key, method) if key is not None]
    return keys if len(keys) == len(method) else None
