"""Context managers that own every side effect on somebody else's network, and what it says in chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from verisal.errors import DataError
from verisal.functional.outputs import ask, log_probabilities, output_of
from verisal.types import check_query_class, check_range

_SIDE, _SCORED_SIDE = 128, 256
_AT_ONCE = 64


@contextmanager
def gradient_scope(device_type: str = "cpu") -> Iterator[None]:
    """Enable gradients in float32 whatever surrounds the call.

    Leaves inference mode, enables gradients and turns autocast off, so that the same code runs in plain
    Python, under ``no_grad``, under ``inference_mode`` and under autocast. Tensors *created* under
    inference mode still cannot enter a graph: clone every tensor (image, gate, mask, baseline) inside.
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(device_type=device_type, enabled=False),
    ):
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Networks that ``torch.compile`` has compiled run as they are written.

    What others do with them, other shapes, other modes and gradients to the images, would compile them anew.
    """
    # Where nothing was compiled yet, the import alone would take two seconds.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def frozen(module: object) -> Iterator[None]:
    """Eval mode and no parameter gradients inside; every module's mode and flag as before afterwards.

    Modes are kept per sub-module, not only for the root, and are restored on exceptions too. A function has
    neither, and stays as it is.
    """
    if not isinstance(module, nn.Module):
        yield
        return
    modes = [(child, child.training) for child in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        _set_training(modes, only=False)
        _set_flags(flags, only=False)
        yield
    finally:
        _set_training(modes)
        _set_flags(flags)


def _set_training(modes: Sequence[tuple[nn.Module, bool]], *, only: bool | None = None) -> None:
    """Modes as listed, or all as ``only`` says; what is so already is left: a module is slow to write."""
    for child, training in modes:
        wanted = training if only is None else only
        if child.training != wanted:
            child.training = wanted


def _set_flags(flags: Sequence[tuple[nn.Parameter, bool]], *, only: bool | None = None) -> None:
    """Flags as listed, or all as ``only`` says."""
    for parameter, flag in flags:
        wanted = flag if only is None else only
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)


@contextmanager
def rng_preserved(device: torch.device | None = None, *, seed: int | None = None) -> Iterator[None]:
    """Global random state of the CPU, and of ``device`` if it is an accelerator, as before afterwards.

    For calls into code of somebody else, such as a classifier with its own draws; our own code takes a
    generator and never touches the global state.

    Args:
        device: an accelerator whose state is kept, too.
        seed: of what is drawn within; by default draws go on from the present state.
    """
    accelerated = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if accelerated else []):
        if seed is not None:
            # Not torch.manual_seed, which seeds devices that are not there, for milliseconds each.
            torch.default_generator.manual_seed(seed)
            if accelerated:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
        yield


@contextmanager
def differentiated(*networks: object, device: torch.device) -> Iterator[None]:
    """Networks frozen, gradients enabled in float32, global random state as before afterwards."""
    with ExitStack() as scopes:
        scopes.enter_context(rng_preserved(device))
        for network in networks:
            scopes.enter_context(frozen(network))
        scopes.enter_context(gradient_scope(device.type))
        yield


@contextmanager
def scoring(classifier: object, device: torch.device) -> Iterator[None]:
    """The classifier frozen and in eval mode, no gradients, no autocast, global random state as before."""
    with (
        rng_preserved(device),
        frozen(classifier),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def images_at_once(chunk_size: int, images: Tensor, *, side: int = _SIDE) -> int:
    """Images whose graph is held at once: ``chunk_size`` up to 128 x 128 pixels, fewer of larger ones.

    Memory grows with the number of pixels: 64 graphs of an EfficientNet-Lite0 take 5 GB at 224 pixels, and 20
    of them 1.6 GB.

    Args:
        chunk_size: at least 1.
        images: ``(..., H, W)``.
        side: of the largest images of which ``chunk_size`` are held.

    >>> [images_at_once(64, torch.empty(1, 3, side, side)) for side in (32, 128, 224, 2048)]
    [64, 64, 20, 1]
    """
    return max(1, min(chunk_size, chunk_size * side**2 // max(1, images.shape[-2] * images.shape[-1])))


def scored_at_once(chunk_size: int, images: Tensor) -> int:
    """Images in one pass for a score or a gradient: ``chunk_size`` up to 256 x 256 pixels, else fewer.

    From 2048 x 2048 pixels on, 64 are one: memory is that of one pass of the network.

    Args:
        chunk_size: at least 1.
        images: ``(..., H, W)``.

    >>> [scored_at_once(64, torch.empty(1, 1, side, side)) for side in (32, 256, 512, 4096)]
    [64, 64, 16, 1]
    """
    return images_at_once(chunk_size, images, side=_SCORED_SIDE)


def in_chunks(images: Tensor, query_class: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and query classes, ``chunk_size`` at a time."""
    check_range(1, chunk_size=chunk_size)
    for start in range(0, len(images), chunk_size):
        yield images[start : start + chunk_size], query_class[start : start + chunk_size]


def predicted_classes(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``(B,)`` int64: the class of the largest logit of each image, in eval mode."""
    with scoring(classifier, images.device):
        chunks = torch.split(images, images_at_once(_AT_ONCE, images))
        return torch.cat([ask(classifier, chunk).argmax(dim=1) for chunk in chunks])


def query_scores(
    classifier: Callable[[Tensor], Tensor],
    chunks: Iterable[tuple[Tensor, Tensor]],
    *,
    score: Literal["logit", "log_probability"] = "logit",
) -> Tensor:
    """``(N,)`` float64: score of the query class of every image.

    Args:
        classifier: maps images to logits; called inside :func:`scoring`.
        chunks: pairs of images ``(n, C, H, W)`` and query classes ``(n,)``, made one after the other.
        score: of the query class.
    """
    scores, output = [], output_of(classifier)
    for images, query in chunks:
        logits = ask(classifier, images, allow_nan=True).double()
        check_query_class(query, len(images), logits.shape[1])
        values = logits if score == "logit" else log_probabilities(logits, output)
        scores.append(values.gather(1, query[:, None])[:, 0])
    if not scores:
        raise DataError("there is nothing to score: give at least one image and at least one perturbation")
    return torch.cat(scores)
