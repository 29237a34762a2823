"""Methods that change how non-linear layers pass gradients back, by hooks, and the checks that they need.

Hooks on modules can miss a rectifier, or change more than they should: without the checks results would be
wrong in silence.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from verisal.errors import ConfigError, NumericError
from verisal.functional.baselines import Baseline, Constant
from verisal.functional.networks import hooked, uncompiled
from verisal.functional.outputs import Answering, ask
from verisal.saliency.gradients.gradient import (
    Attribution,
    GradientMethod,
    baseline_images,
    captum_methods,
    check_baseline,
    leaf,
    network_of,
)
from verisal.types import AnyClassifier, check_query_class

_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
# What captum's DeepLift has a rule for.
_RESCALED = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, *_MAX_POOLS, nn.Softmax)
# What autograd calls max(x, 0) in its several spellings; ReLU6 is a hardtanh.
_RECTIFIERS = ("ReluBackward", "ThresholdBackward", "HardtanhBackward", "ClampBackward", "ClampMinBackward")


@final
@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation(GradientMethod):
    """Gradient in which every ReLU passes back positive values only.

    Defined for networks whose every rectifier is a ``torch.nn.ReLU`` module; other activations pass their
    plain gradient. One more forward pass of one image per call checks that.

    Raises:
        ConfigError: when called with a function, or with a network that has no ReLU module, rectifies outside
            of modules, or reads a ReLU's input elsewhere as well.

    References:
        springenberg2015
    """

    needs_module = True

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        network = network_of(classifier, type(self).__name__)
        with uncompiled():
            logits = check_rectifiers(network, images[:1], type(self).__name__, kinds=(nn.ReLU,), reuse=True)
        check_query_class(query_class, len(images), logits.shape[1])
        if not any(isinstance(module, nn.ReLU) for module in network.modules()):
            raise ConfigError(
                f"GuidedBackpropagation changes the gradient of torch.nn.ReLU modules, and"
                f" {type(network).__name__} has none; choose Gradient, which is the same without them"
            )
        with _quiet(), uncompiled():
            method = captum_methods().GuidedBackprop(Answering(network))
            values = method.attribute(leaf(images), target=query_class)
        return Attribution(values, n_forward=1, n_backward=1)


@final
@dataclass(frozen=True, kw_only=True)
class DeepLift(GradientMethod):
    """Differences from a baseline, propagated by the rescale rule.

    Attributions sum to the change of the query logit, which is checked: a network with a non-linearity that
    the rule does not reach is refused, not explained wrongly, and so is one with max pooling at which the
    rule loses a part.

    Args:
        baseline: image that the image is compared with.

    Raises:
        ConfigError: a baseline that needs a mask; when called, a function, a network that rectifies outside
            of modules or uses a non-linear module twice, or attributions that do not sum to the change.

    References:
        shrikumar2017

    Differs from:
        - The rescale rule only, as captum has it.
    """

    baseline: Baseline = field(default_factory=Constant)

    needs_module = True

    def __post_init__(self) -> None:
        check_baseline(self.baseline, type(self).__name__)

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """Image and baseline forwards and backwards together, then both forwards again for the check."""
        network = network_of(classifier, type(self).__name__)
        check_pools(network)
        with uncompiled():
            logits = check_rectifiers(network, images[:1], type(self).__name__, kinds=_RESCALED, reuse=False)
        check_query_class(query_class, len(images), logits.shape[1])
        baselines = baseline_images(self.baseline, classifier, images, query_class)
        with _quiet(), no_leftovers(network), uncompiled():
            method = captum_methods().DeepLift(Answering(network))
            values = method.attribute(leaf(images), baselines, target=query_class).detach()
        with torch.no_grad():
            both = ask(network, torch.cat([images, baselines])).gather(1, query_class.repeat(2)[:, None])
        change = both[: len(images), 0] - both[len(images) :, 0]
        check_sum(values, change, network, rescaled=_RESCALED)
        return Attribution(values, n_forward=4, n_backward=2, baseline=self.baseline.name)


def check_rectifiers(
    network: nn.Module, image: Tensor, method: str, *, kinds: tuple[type[nn.Module], ...], reuse: bool
) -> Tensor:
    """Raise unless hooks on modules of types ``kinds`` replace the gradient of every rectifier, and no more.

    One forward pass; the graph that autograd records says which rectifiers there are, whatever the network
    calls them with.

    Args:
        network: frozen, in eval mode, inside ``uncompiled``.
        image: ``(1, C, H, W)``, whose logits ``(1, K)`` are returned.
        method: named in the errors.
        kinds: module types that the method hooks.
        reuse: True if one module may be called more than once.

    Raises:
        ConfigError: a rectifier that is no module, a module called twice, or one whose input other layers
            read too, so that a hook there would change their gradient as well.
    """
    calls: list[tuple[str, Node]] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            calls.append((name, output.grad_fn))

    with hooked({name: part for name, part in network.named_modules() if isinstance(part, kinds)}, note):
        logits = ask(network, image.detach().clone().requires_grad_())
    readers = _readers(logits)
    nodes = {node for node, _ in readers}
    known = {output for _, output in calls}
    outside = Counter(node.name() for node in nodes if node.name().startswith(_RECTIFIERS)) - Counter(
        node.name() for node in nodes & known
    )
    advice = "give every rectifier a torch.nn.ReLU module of its own, or choose IntegratedGradients"
    if outside:
        raise ConfigError(
            f"{method} hooks torch.nn.ReLU modules, and {type(network).__name__} rectifies outside of them"
            f" {outside.total()} times (functional relu, clamp or ReLU6: {', '.join(outside)}); {advice}"
        )
    twice = [name for name, count in Counter(name for name, _ in calls).items() if count > 1]
    if twice and not reuse:
        raise ConfigError(
            f"{method} keeps one input and output per module, and {type(network).__name__} calls"
            f" {twice} more than once; {advice}"
        )
    shared = [name for name, node in calls if any(readers[edge] > 1 for edge in node.next_functions)]
    if shared:
        raise ConfigError(
            f"{method} hooks the inputs of modules, and other layers of {type(network).__name__} read the"
            f" inputs of {shared} too, so that their gradients would be changed as well; give these modules a"
            " copy, module(x.clone()), or choose IntegratedGradients"
        )
    return logits.detach()


def check_sum(
    values: Tensor, change: Tensor, network: nn.Module, *, rescaled: tuple[type[nn.Module], ...]
) -> None:
    """Raise unless DeepLift's attributions ``(B, C, H, W)`` sum to the change of the query logit ``(B,)``.

    The tolerance is 1 % of the change, and float rounding of the sum.

    Raises:
        NumericError: a change that is not finite.
        ConfigError: naming the image that is farthest off; something non-linear is no module of the types
            ``rescaled``, or the rule loses a part at a max pooling.
    """
    if not bool(change.isfinite().all()):
        raise NumericError(
            "DeepLift shares the change of the query logit out, which is not finite for"
            f" {int((~change.isfinite()).sum())} of {len(change)} images; ask about a class whose logit is a"
            " number"
        )
    total = values.sum(dim=(1, 2, 3))
    rounding = 1e-4 * values.abs().sum(dim=(1, 2, 3))
    agrees = (total - change).abs() <= 1e-2 * change.abs() + rounding
    if not bool(agrees.all()):
        worst = int((total - change).abs().nan_to_num(torch.inf).argmax())
        kinds = ", ".join(kind.__name__ for kind in rescaled)
        outside = (
            f"{type(network).__name__} is non-linear outside of modules that the rescale rule knows ({kinds})"
        )
        pools = [name for name, module in network.named_modules() if isinstance(module, _MAX_POOLS)]
        why = f"{outside}; use such modules, or IntegratedGradients"
        if pools:
            why = (
                f"either the rescale rule loses a part at max pooling (modules {pools}), as it may where"
                " windows overlap or maxima lie elsewhere in the image than in the baseline, or"
                f" {outside}; choose IntegratedGradients"
            )
        raise ConfigError(
            f"DeepLift's attributions sum to {float(total[worst]):.4g} for image {worst}, and the query logit"
            f" changes by {float(change[worst]):.4g}: {why}"
        )


def check_pools(network: nn.Module) -> None:
    """Raise ``ConfigError`` for a max pooling with dilation, for which DeepLift has no rule."""
    for name, module in network.named_modules():
        if isinstance(module, _MAX_POOLS):
            dilation = module.dilation if isinstance(module.dilation, tuple) else (module.dilation,)
            if max(dilation) > 1:
                raise ConfigError(
                    f"DeepLift's rescale rule knows no max pooling with dilation, and {name!r} has dilation"
                    f" {module.dilation}; choose IntegratedGradients"
                )


@contextmanager
def no_leftovers(network: nn.Module) -> Iterator[None]:
    """Remove afterwards what is stored on modules inside, on exceptions too."""
    before = [(module, set(vars(module))) for module in network.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                delattr(module, name)


def _readers(logits: Tensor) -> Counter[tuple[Any, int]]:
    """For every value in the graph, as (node, number of its output), how many nodes read it."""
    readers: Counter[tuple[Any, int]] = Counter({(logits.grad_fn, 0): 1})
    waiting: list[Any] = [logits.grad_fn]
    seen = set(waiting)
    while waiting:
        for node, number in waiting.pop().next_functions:
            if node is None:
                continue
            readers[node, number] += 1
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return readers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's announcements that it sets hooks and removes them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks")
        yield
