"""What a classifier says about many images, asked in chunks and left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, DataError
from verisal.functional.outputs import ask, log_probabilities, output_of
from verisal.functional.scopes import frozen, rng_preserved
from verisal.types import check_query_class

__all__ = ["check_chunk_size", "in_chunks", "query_log_probabilities", "query_logits", "scoring"]


@contextmanager
def scoring(classifier: object, device: torch.device) -> Iterator[None]:
    """The classifier frozen and in eval mode, no gradients, no autocast, global random state as before."""
    quiet = frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext()
    with rng_preserved(device), quiet, torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def check_chunk_size(chunk_size: int) -> None:
    """Raise ConfigError unless ``chunk_size`` is at least 1."""
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1, found {chunk_size}")


def in_chunks(images: Tensor, query_class: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and query classes, ``chunk_size`` at a time."""
    check_chunk_size(chunk_size)
    for start in range(0, len(images), chunk_size):
        yield images[start : start + chunk_size], query_class[start : start + chunk_size]


def query_logits(classifier: Callable[[Tensor], Tensor], chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """``(N,)`` float64: logit of the query class of every image.

    Args:
        classifier: maps images to logits; called inside :func:`scoring`.
        chunks: pairs of images ``(n, 3, H, W)`` and query classes ``(n,)``, made one after the other.
    """
    return _asked(classifier, chunks, lambda logits: logits)


def query_log_probabilities(
    classifier: Callable[[Tensor], Tensor], chunks: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """``(N,)`` float64: log probability of the query class; otherwise as :func:`query_logits`."""
    output = output_of(classifier)
    return _asked(classifier, chunks, lambda logits: log_probabilities(logits, output))


def _asked(
    classifier: Callable[[Tensor], Tensor],
    chunks: Iterable[tuple[Tensor, Tensor]],
    score: Callable[[Tensor], Tensor],
) -> Tensor:
    found = []
    for images, query in chunks:
        logits = ask(classifier, images, allow_nan=True)
        check_query_class(query, len(images), logits.shape[1])
        found.append(score(logits.double()).gather(1, query[:, None])[:, 0])
    if not found:
        raise DataError("there is nothing to score: give at least one image and at least one perturbation")
    return torch.cat(found)
