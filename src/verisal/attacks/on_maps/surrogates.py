"""Attributions that can be differentiated, of a twin without the kinks of ReLU: directions of attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, hardtanh_, relu, relu6, softplus
from torch.overrides import TorchFunctionMode

from verisal.attacks.on_maps.search import MapObjective
from verisal.errors import ConfigError
from verisal.functional.networks import uncompiled
from verisal.functional.outputs import ask
from verisal.functional.seeding import per_image
from verisal.types import check_query_class, check_range

Network = Callable[[Tensor], Tensor]
Part = Callable[[Tensor], Tensor]


class Surrogate(ABC):
    """An attribution that is differentiable in the image, if the network is twice differentiable.

    Sub-classes are frozen dataclasses, so that their settings are plain data and can key a cache.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name with the settings that change the direction: ``smooth_grad10``."""

    @abstractmethod
    def parts(
        self, network: Network, images: Tensor, query_class: Tensor, *, seed: int, chunk_size: int
    ) -> Sequence[Part]:
        """Functions of changed images ``(B, C, H, W)`` whose sum is their attribution ``(B, C, H, W)``.

        Several are called one after the other, so that only one graph is in memory.

        Args:
            network: maps images to logits; twice differentiable.
            images: the clean images, ``(B, C, H, W)`` in [0, 1]; what is random is drawn by their content.
            query_class: ``(B,)`` int64.
            seed: of what is random.
            chunk_size: network inputs of one part, where several inputs make an attribution.
        """

    @property
    @abstractmethod
    def points(self) -> int:
        """Network inputs per image."""


@final
@dataclass(frozen=True, kw_only=True)
class GradientSurrogate(Surrogate):
    r"""The gradient of the query logit, :math:`\partial f_c / \partial x`."""

    name = "gradient"
    points = 1

    def parts(
        self, network: Network, images: Tensor, query_class: Tensor, *, seed: int, chunk_size: int
    ) -> Sequence[Part]:
        """One."""
        return [lambda changed: _gradients(network, changed, query_class)]


@final
@dataclass(frozen=True, kw_only=True)
class SmoothGradSurrogate(Surrogate):
    r"""Mean gradient of noisy copies, whose noise is drawn once for each clean image.

    Args:
        samples: noisy copies per image.
        noise: standard deviation as a share of each clean image's range.

    Raises:
        ConfigError: ``samples`` below 1 or noise that is not positive.
    """

    samples: int = 10
    noise: float = 0.15

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 < self.noise < torch.inf:
            raise ConfigError(
                f"samples must be at least 1 and noise positive, found {self.samples} and {self.noise};"
                " without noise it is GradientSurrogate"
            )

    @property
    def name(self) -> str:
        """With the number of copies."""
        return f"smooth_grad{self.samples}" + ("" if self.noise == 0.15 else f"x{self.noise:g}")

    @property
    def points(self) -> int:
        """One per copy."""
        return self.samples

    def parts(
        self, network: Network, images: Tensor, query_class: Tensor, *, seed: int, chunk_size: int
    ) -> Sequence[Part]:
        """Groups of noisy copies."""
        sigma = self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
        size = (self.samples, *images.shape[1:])

        def draw(rng: torch.Generator) -> Tensor:
            return torch.randn(size, generator=rng)

        noise = per_image(draw, images, seed=seed, stream="noisy copies of the twin")
        shifts = (sigma.view(-1, 1, 1, 1, 1) * noise).transpose(0, 1)

        def part(some: Tensor) -> Part:
            share = len(some) / self.samples
            return lambda changed: _mean_gradient(network, changed + some, query_class) * share

        return [part(some) for some in torch.split(shifts, _group(len(images), chunk_size))]


@final
@dataclass(frozen=True, kw_only=True)
class IntegratedGradientsSurrogate(Surrogate):
    r"""Gradients at midpoints of the line from black, times the image.

    Args:
        steps: points on the line.

    Raises:
        ConfigError: ``steps`` below 1.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        check_range(1, steps=self.steps)

    @property
    def name(self) -> str:
        """With the number of points."""
        return f"integrated_gradients{self.steps}"

    @property
    def points(self) -> int:
        """One per point on the line."""
        return self.steps

    def parts(
        self, network: Network, images: Tensor, query_class: Tensor, *, seed: int, chunk_size: int
    ) -> Sequence[Part]:
        """Groups of points."""
        scales = (torch.arange(self.steps, device=images.device, dtype=images.dtype) + 0.5) / self.steps

        def part(some: Tensor) -> Part:
            ways = some.view(-1, 1, 1, 1, 1)
            share = len(some) / self.steps
            return lambda changed: changed * share * _mean_gradient(network, changed * ways, query_class)

        return [part(some) for some in torch.split(scales, _group(len(images), chunk_size))]


def ascent_gradient(parts: Sequence[Part], images: Tensor, objective: MapObjective) -> Tensor:
    r"""Gradient of D in the images, :math:`J^\top \partial D / \partial A` summed over the parts.

    Zero where the attribution does not depend on the image, as of a linear network.

    Args:
        parts: functions whose sum is the attribution.
        images: ``(B, C, H, W)``.
        objective: D.
    """
    changed = images.detach().requires_grad_()
    whole = parts[0](changed) if len(parts) == 1 else None
    # Of several parts only values are kept: the graph of each is built again when it is differentiated.
    values = [part(changed).detach() for part in parts] if whole is None else [whole.detach()]
    total = torch.stack(values).sum(dim=0).requires_grad_()
    (weights,) = torch.autograd.grad(objective(total).sum(), total)
    gradient = torch.zeros_like(images)
    for part in parts:
        attribution = part(changed) if whole is None else whole
        if attribution.requires_grad:
            gradient += torch.autograd.grad(attribution, changed, weights, materialize_grads=True)[0]
    return gradient


def _group(batch: int, chunk_size: int) -> int:
    return max(1, chunk_size // max(1, batch))


def _mean_gradient(network: Network, points: Tensor, query_class: Tensor) -> Tensor:
    """``(B, C, H, W)``: mean over ``points (N, B, C, H, W)``."""
    gradients = _gradients(network, points.flatten(0, 1), query_class.repeat(len(points)))
    return gradients.view(points.shape).mean(dim=0)


def _gradients(network: Network, images: Tensor, query_class: Tensor) -> Tensor:
    logits = ask(network, images, allow_nan=True)
    check_query_class(query_class, len(images), logits.shape[1])
    score = logits.gather(1, query_class[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, images, create_graph=True, materialize_grads=True)
    return gradient


_RELU = {relu, torch.relu, torch.Tensor.relu}
_RELU_IN_PLACE = {torch.relu_, torch.Tensor.relu_}
_CLAMP = {torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip}
_CLAMP |= {torch.clamp_min, torch.Tensor.clamp_min}
_CLAMP_IN_PLACE = {torch.clamp_, torch.Tensor.clamp_, torch.clip_, torch.Tensor.clip_}
_CLAMP_IN_PLACE |= {torch.clamp_min_, torch.Tensor.clamp_min_}
_HARDTANH = {hardtanh, hardtanh_}


@contextmanager
def softplus_relu(beta: float = 10.0) -> Iterator[None]:
    r"""Every ReLU computed inside is :math:`s(z) = \mathrm{softplus}(\beta z) / \beta`.

    One that is cut at a limit h, such as ReLU6, is :math:`s(z) - s(z - h)`.

    Applies to what this thread computes inside, whatever network it belongs to: ``nn.ReLU`` and ``nn.ReLU6``
    modules, ``relu`` and ``relu6`` as function or method, ``hardtanh`` from 0 to a positive number, and
    clamping at a lower limit of the number 0 alone, in place too. No
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
        found = _rectifier(func, args, named)
        if found is None:
            return func(*args, **named)
        kind, high = found
        values = args[0] if args else named["input"]
        if not values.is_floating_point():
            return func(*args, **named)
        if kind == "copy":
            return self._smooth(values, high)
        # Softplus keeps its input for the backward pass, and that must not be overwritten.
        return values.copy_(self._smooth(values.clone(), high))

    def _smooth(self, values: Tensor, high: float | None) -> Tensor:
        rising = softplus(values, beta=self._beta)
        return rising if high is None else rising - softplus(values - high, beta=self._beta)


_Rectifier = tuple[Literal["copy", "in place"], float | None]


def _rectifier(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> _Rectifier | None:
    """For a ReLU whether it copies, and where it is cut if it is; None for anything else."""
    if func in _RELU or func is relu6:
        in_place = args[1] if len(args) > 1 else named.get("inplace", False)
        return "in place" if in_place else "copy", 6.0 if func is relu6 else None
    if func in _RELU_IN_PLACE:
        return "in place", None
    if func in _HARDTANH:
        low, high = (_limit(args, named, place, name) for place, name in ((1, "min_val"), (2, "max_val")))
        in_place = func is hardtanh_ or (args[3] if len(args) > 3 else named.get("inplace", False))
        return _cut("in place" if in_place else "copy", low, high)
    if (func in _CLAMP or func in _CLAMP_IN_PLACE) and "out" not in named:
        low, high = (_limit(args, named, place, name) for place, name in ((1, "min"), (2, "max")))
        # Two limits are as a rule those of pixels.
        return None if high is not None else _cut("copy" if func in _CLAMP else "in place", low, None)
    return None


def _limit(args: tuple[Any, ...], named: dict[str, Any], place: int, name: str) -> object:
    return args[place] if len(args) > place else named.get(name)


def _cut(kind: Literal["copy", "in place"], low: object, high: object) -> _Rectifier | None:
    """From 0, a number, up to nothing or to a number above it."""
    if isinstance(low, Tensor) or low is None or low != 0:
        return None
    if high is None:
        return kind, None
    return (kind, float(high)) if isinstance(high, (int, float)) and high > 0 else None
