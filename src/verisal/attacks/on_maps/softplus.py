"""A network without the kink of ReLU: what supplies directions where ReLU has no second derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus
from torch.overrides import TorchFunctionMode

from verisal.errors import ConfigError
from verisal.functional.networks import uncompiled

__all__ = ["softplus_relu"]

_RELU = {relu, torch.relu, torch.Tensor.relu}
_RELU_IN_PLACE = {torch.relu_, torch.Tensor.relu_}
_CLAMP = {torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip}
_CLAMP |= {torch.clamp_min, torch.Tensor.clamp_min}
_CLAMP_IN_PLACE = {torch.clamp_, torch.Tensor.clamp_, torch.clip_, torch.Tensor.clip_}
_CLAMP_IN_PLACE |= {torch.clamp_min_, torch.Tensor.clamp_min_}


@contextmanager
def softplus_relu(beta: float = 10.0) -> Iterator[None]:
    r"""Every ReLU computed inside is :math:`\mathrm{softplus}(\beta z) / \beta`.

    Applies to what this thread computes inside, whatever network it belongs to: ``nn.ReLU`` modules,
    ``relu`` as function or method, and clamping at a lower limit of the number 0 alone, in place too. No
    network is changed or copied. Backward passes may run outside. What ``torch.compile`` made runs
    as it was written; what TorchScript made escapes.

    Args:
        beta: sharpness; the largest difference from ReLU is :math:`\log(2) / \beta`, at 0.

    Raises:
        ConfigError: a sharpness that is not positive.

    References:
        ghorbani2019fragile, dombrowski2019
    """
    if not beta > 0:
        raise ConfigError(f"beta must be positive, found {beta}; 10 is usual")
    with uncompiled(), _Softplus(beta):
        yield


class _Softplus(TorchFunctionMode):
    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        named = dict(kwargs or {})
        kind = _kind(func, args, named)
        if kind is None:
            return func(*args, **named)
        values = args[0] if args else named["input"]
        if not values.is_floating_point():
            return func(*args, **named)
        if kind == "copy":
            return softplus(values, beta=self._beta)
        # Softplus keeps its input for the backward pass, and that must not be overwritten.
        return values.copy_(softplus(values.clone(), beta=self._beta))


def _kind(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> str | None:
    """``copy`` or ``in place`` for a ReLU, None for anything else."""
    if func in _RELU:
        in_place = args[1] if len(args) > 1 else named.get("inplace", False)
        return "in place" if in_place else "copy"
    if func in _RELU_IN_PLACE:
        return "in place"
    if (func in _CLAMP or func in _CLAMP_IN_PLACE) and _only_below_zero(args, named):
        return "copy" if func in _CLAMP else "in place"
    return None


def _only_below_zero(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    low = args[1] if len(args) > 1 else named.get("min")
    high = args[2] if len(args) > 2 else named.get("max")
    limits_are_numbers = low is not None and not isinstance(low, Tensor)
    return limits_are_numbers and low == 0 and high is None and "out" not in named
