"""Copies of a network with re-initialised layers; a map that does not change with them explains nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from verisal.errors import ConfigError
from verisal.functional.networks import check_hookable, plain_network, uncompiled
from verisal.functional.scopes import scoring
from verisal.functional.seeding import derive_seed
from verisal.results import Score

Order = Literal["cascade", "independent"]
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@runtime_checkable
class _Resets(Protocol):
    def reset_parameters(self) -> None: ...


@dataclass(frozen=True)
class RandomisedCopy:
    """One step of the randomisation check.

    Attributes:
        name: of the last layer that was re-initialised in this step.
        classifier: a deep copy in eval mode, without parameter gradients.
    """

    name: str
    classifier: nn.Module


def randomised_steps(
    classifier: nn.Module, images: Tensor, *, steps: int | None = None
) -> tuple[tuple[str, ...], ...]:
    """Names of the layers that each step re-initialises, from the logits downwards.

    A layer is a module with parameters of its own; a norm layer belongs to the step of the layer that runs
    before it. Layers that never run are left out.

    Args:
        classifier: maps images to logits.
        images: ``(B, C, H, W)`` in [0, 1]; the first shows in which order layers run.
        steps: number of steps among which the layers are divided evenly; None for a step per layer.

    Raises:
        ConfigError: a layer that cannot re-initialise itself, or fewer layers than steps.
    """
    units: list[list[str]] = []
    network = plain_network(classifier)
    known = dict(network.named_modules())
    for name in _running_order(network, images[:1]):
        # A norm without scale and shift still has running statistics.
        if not list(known[name].parameters(recurse=False)) and not isinstance(known[name], _NormBase):
            continue
        if not isinstance(known[name], _Resets):
            raise ConfigError(
                f"layer {name} ({type(known[name]).__name__}) has parameters but no reset_parameters(),"
                " so that it cannot be randomised; give it one that draws its initial values"
            )
        if isinstance(known[name], _NORMS) and units:
            units[-1].append(name)
        else:
            units.append([name])
    units.reverse()
    count = len(units) if steps is None else steps
    if not 1 <= count <= len(units):
        raise ConfigError(
            f"steps must lie in 1..{len(units)}, the number of layers that can be randomised, found {steps}"
        )
    ends = [round(step * len(units) / count) for step in range(count + 1)]
    return tuple(
        tuple(name for unit in units[start:end] for name in reversed(unit)) for start, end in pairwise(ends)
    )


def randomised_copies(
    classifier: nn.Module,
    images: Tensor,
    *,
    order: Order = "cascade",
    steps: int | None = None,
    statistics: Literal["estimated", "kept"] = "estimated",
    seed: int = 0,
) -> Iterator[RandomisedCopy]:
    """Deep copies of a classifier with more and more layers re-initialised, from the logits downwards.

    Every layer is set by its own default initialiser, norm layers to scale 1 and shift 0. What a layer gets
    depends on the seed and its name only, so it is the same in both orders, and on any device.

    Args:
        classifier: maps images to logits; left as it is.
        images: ``(N, C, H, W)`` in [0, 1], fixed: running statistics of the re-initialised norm layers are
            estimated on them, in one pass.
        order: ``cascade``: layers stay re-initialised in later steps. ``independent``: one step's at a time.
        steps: as of :func:`randomised_steps`.
        statistics: ``kept`` leaves running statistics as they are.
        seed: of the initial values.

    Raises:
        ConfigError: an unknown order, or as :func:`randomised_steps`.

    References:
        adebayo2018
    """
    if order not in ("cascade", "independent") or statistics not in ("estimated", "kept"):
        raise ConfigError(
            "order must be cascade or independent and statistics estimated or kept,"
            f" found {order!r} and {statistics!r}"
        )
    done: tuple[str, ...] = ()
    for names in randomised_steps(classifier, images, steps=steps):
        done = (*done, *names) if order == "cascade" else names
        yield RandomisedCopy(names[-1], _randomised(classifier, done, images, statistics, seed))


def derangement(count: int, *, seed: int = 0) -> Tensor:
    """``(count,)`` int64: a random order in which nobody keeps its place (a single random cycle).

    Raises:
        ConfigError: fewer than two.

    >>> derangement(2).tolist()
    [1, 0]
    """
    if count < 2:
        raise ConfigError(f"a derangement needs at least 2 items, found {count}")
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, "derangement")))
    return torch.empty_like(drawn).scatter_(0, drawn, drawn.roll(-1))


def weighted_percentile(values: Tensor, weights: Tensor, percentile: float) -> Tensor:
    """Percentile of every resample, linear between order statistics.

    Args:
        values: ``(n,)``, none of them NaN.
        weights: ``(S, n)``, how often each value occurs in each resample.
        percentile: in [0, 100].

    Returns:
        ``(S,)`` float64; NaN for a resample without a value.

    >>> weighted_percentile(torch.tensor([3.0, 1.0]), torch.tensor([[1, 1], [0, 2]]), 50.0).tolist()
    [2.0, 1.0]
    """
    ordered, order = values.double().sort()
    reached = weights[:, order].double().cumsum(dim=1)
    place = (reached[:, -1:] - 1).clamp_min(0) * (percentile / 100)
    ends = [
        ordered[torch.searchsorted(reached, end, right=True).clamp_max(len(ordered) - 1)][:, 0]
        for end in (place.floor(), place.ceil())
    ]
    values = torch.lerp(ends[0], ends[1], (place - place.floor())[:, 0])
    return values.where(reached[:, -1] > 0, torch.nan)


def passes_randomisation(similarity: Score, reference: Score) -> bool | None:
    """True if a method passes: with all layers randomised its maps are no more alike than unrelated maps.

    Args:
        similarity: mean similarity of intact maps and maps with all layers randomised; its interval counts.
        reference: 95th percentile of the similarity of the method's maps of unrelated images.

    Returns:
        None where one of them is undefined.
    """
    if math.isnan(similarity.high) or math.isnan(reference.value):
        return None
    return similarity.high <= reference.value


def _randomised(
    classifier: nn.Module, names: tuple[str, ...], images: Tensor, statistics: str, seed: int
) -> nn.Module:
    # Copies made under inference mode could never enter a graph.
    with torch.inference_mode(mode=False), torch.no_grad():
        copied = copy.deepcopy(plain_network(classifier)).eval().requires_grad_(False)
        known = dict(copied.named_modules())
        layers = [known[name] for name in names]
        with scoring(copied, images.device):
            for name, layer in zip(names, layers, strict=True):
                _reset(layer, derive_seed(seed, "randomise", name), keep_buffers=statistics == "kept")
            norms = [layer for layer in layers if isinstance(layer, _NormBase) and layer.track_running_stats]
            if statistics == "estimated" and norms:
                _estimate(copied, norms, images)
    return copied


def _reset(layer: nn.Module, seed: int, *, keep_buffers: bool) -> None:
    """Default initial values, drawn on the CPU so that they do not depend on the device."""
    fresh = copy.deepcopy(layer).cpu()
    torch.default_generator.manual_seed(seed)
    if isinstance(fresh, _Resets):
        fresh.reset_parameters()
    targets: list[Tensor] = list(layer.parameters(recurse=False))
    values: list[Tensor] = list(fresh.parameters(recurse=False))
    if not keep_buffers:
        targets, values = [*targets, *layer.buffers(recurse=False)], [*values, *fresh.buffers(recurse=False)]
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _estimate(classifier: nn.Module, norms: list[_NormBase], images: Tensor) -> None:
    """Running statistics of all images together: a norm in training mode uses those of its batch."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 1.0
    classifier(images.clone())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.training, norm.momentum = False, momentum


def _running_order(classifier: nn.Module, images: Tensor) -> list[str]:
    """Names of the modules that run, in the order in which they first do."""
    check_hookable(classifier, "the randomisation check")
    copied = copy.deepcopy(classifier)
    ran: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.setdefault(name)

    for name, module in copied.named_modules():
        module.register_forward_pre_hook(note(name))
    with uncompiled(), scoring(copied, images.device):
        copied(images.clone())
    return list(ran)
