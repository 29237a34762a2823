"""Seeds and random numbers that depend on what a sample is, never on where it stands in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
from torch import Tensor

from verisal.fingerprint import row_digests


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any sequence of values that print the same on every machine.

    >>> derive_seed(0, "scene", 17) == derive_seed(0, "scene", 17)
    True
    """
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def content_ids(images: Tensor) -> tuple[str, ...]:
    """One name per image ``(B, C, H, W)`` in [0, 1], made from its content rounded to 8 bits.

    What is drawn at random for an image depends on this name, so that it is the same in any batch, in any
    process and on any device. Inside :func:`named_after` a copy has the name of its image.
    """
    names = _NAMES.get()
    known = [names.get(key) for key in _exact(images)] if names else [None] * len(images)
    rounded = row_digests(images.detach().mul(255).round_().to(torch.uint8), 16)
    return tuple(digest.hex() if name is None else name for digest, name in zip(rounded, known, strict=True))


@contextmanager
def named_after(images: Tensor, copies: Tensor) -> Iterator[None]:
    """Names of ``images (B, C, H, W)`` for altered copies of them ``(n, B, C, H, W)``, as long as it lasts.

    A copy that was computed differs by rounding from one batch or processor to the next, and that must not
    change what is drawn for it; copies of one image are told apart by what they show, not by the draw.
    """
    names = dict(zip(_exact(copies.flatten(0, 1)), content_ids(images) * len(copies), strict=True))
    token = _NAMES.set({**_NAMES.get(), **names})
    try:
        yield
    finally:
        _NAMES.reset(token)


_NAMES: ContextVar[Mapping[bytes, str]] = ContextVar("names", default=MappingProxyType({}))
"""Names of altered copies, by all of their bits."""


def _exact(images: Tensor) -> list[bytes]:
    return row_digests(images, 16)


def per_image(
    draw: Callable[[torch.Generator], Tensor], images: Tensor, *, seed: int, stream: object
) -> Tensor:
    """:func:`per_sample` of images, named by their content."""
    ids = content_ids(images)
    return per_sample(draw, seed=seed, sample_ids=ids, stream=stream, device=images.device)


def series(
    draw: Callable[[torch.Generator], Tensor], images: Tensor, *, samples: int, seed: int, stream: str
) -> Iterator[Tensor]:
    """Several :func:`per_image`, one after the other, each with its number in its stream."""
    ids = content_ids(images)
    return (
        per_sample(draw, seed=seed, sample_ids=ids, stream=(stream, number), device=images.device)
        for number in range(samples)
    )


def per_sample(
    draw: Callable[[torch.Generator], Tensor],
    *,
    seed: int,
    sample_ids: Sequence[object],
    stream: object,
    device: torch.device,
) -> Tensor:
    """Stack one draw per sample, each from its own generator seeded by ``(seed, sample id, stream)``.

    Without samples the stack is empty, and has the shape of a draw all the same.

    Args:
        draw: takes a CPU generator, returns one sample's tensor.
        seed: the run's seed.
        sample_ids: one stable name per sample.
        stream: names the purpose or the draw's index, so that two uses never share numbers.
        device: where the stack is put. Numbers are always drawn on the CPU, so that they do not
            depend on the device.
    """
    if not sample_ids:
        # A draw is needed for its shape.
        return draw(torch.Generator())[None][:0].to(device)
    rows = []
    for sample_id in sample_ids:
        generator = torch.Generator().manual_seed(derive_seed(seed, sample_id, stream))
        rows.append(draw(generator))
    return torch.stack(rows).to(device)
