"""Calls of a module's parts that answer with logits, as one step makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.functional.outputs import logits_of

_IMAGES, _FEATURES = 4, 2


@dataclass(frozen=True)
class Call:
    """One call of one part.

    Attributes:
        path: of the part inside the module, empty for the module itself.
        part: that was called.
        given: ``(B, C, h, w)`` images that it got, or features ``(B, F)`` of them, a copy.
        logits: ``(B, K)`` what it answered.
        inside: paths of the other parts in whose calls it was called, the outermost first.
    """

    path: str
    part: nn.Module
    given: Tensor
    logits: Tensor
    inside: tuple[str, ...]

    __repr__ = brief

    @property
    def of_images(self) -> bool:
        """True if it got images."""
        return self.given.ndim == _IMAGES


@dataclass
class _Open:
    path: str
    given: Tensor | None


@contextmanager
def watched(module: nn.Module, count: int, channels: int) -> Iterator[list[Call]]:
    """Note the calls of the module and of its parts while it lasts, innermost first.

    Networks that are compiled in place or scripted are left alone: a hook would compile them anew.

    Args:
        module: whose parts are watched.
        count: images in the batch B.
        channels: of the images C.
    """
    calls: list[Call] = []
    opened: list[_Open] = []

    def before(path: str, args: tuple[object, ...], named: Mapping[str, object]) -> None:
        found = [
            value
            for value in (*args, *named.values())
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (_IMAGES, _FEATURES)
        ]
        expected = (count, channels) if found and found[0].ndim == _IMAGES else (count,)
        fits = found and tuple(found[0].shape[: len(expected)]) == expected
        opened.append(_Open(path, found[0].detach().clone() if fits else None))

    def after(part: nn.Module, output: object) -> None:
        call = opened.pop()
        # A call that raised has no output.
        if call.given is None or output is None:
            return
        try:
            logits = logits_of(output, count)
        except ConfigError:
            return
        # DDP runs a step by the module's own call, in which its forward is called once more.
        inside = tuple(other.path for other in opened if other.path != call.path)
        calls.append(Call(call.path, part, call.given, logits.detach().clone(), inside))

    with ExitStack() as hooks:
        for path, part in watchable(module):
            handle = part.register_forward_pre_hook(
                lambda part, args, named, path=path: before(path, args, named), with_kwargs=True
            )
            hooks.callback(handle.remove)
            handle = part.register_forward_hook(
                lambda part, args, output: after(part, output), always_call=True
            )
            hooks.callback(handle.remove)
        yield calls


def watchable(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The module and its parts by their paths, but for scripted ones, and nothing inside compiled ones."""
    if isinstance(module, torch.jit.ScriptModule) or module._compiled_call_impl is not None:
        return
    yield path, module
    compiler = sys.modules.get("torch._dynamo")
    if compiler is not None and isinstance(module, compiler.OptimizedModule):
        return
    for name, child in module.named_children():
        yield from watchable(child, f"{path}.{name}" if path else name)
