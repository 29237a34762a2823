"""Commodity methods through captum, with this package's conventions around them.

Captum computes; the shells fix what captum leaves open: images in [0, 1], baselines in pixel space, one query
class per image, float32 gradients in any surrounding mode, nothing left behind on the network, and a refusal
where captum's hooks would give wrong numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant
from verisal.functional.networks import channels_last, uncompiled
from verisal.functional.outputs import Answering, ask
from verisal.functional.scopes import images_at_once
from verisal.saliency._base import Saliency, explaining, staged
from verisal.saliency.gates.masks import resize_maps
from verisal.saliency.gradients.gradient import (
    Attribution,
    GradientMethod,
    baseline_images,
    check_baseline,
    check_counts,
    in_chunks,
    network_of,
    scores_of,
)
from verisal.saliency.gradients.hooks import check_pools, check_rectifiers, check_sum, no_leftovers
from verisal.types import AnyClassifier, SaliencyResult, check_query_class


@final
@dataclass(frozen=True, kw_only=True)
class Gradient(GradientMethod):
    r"""Gradient of the query logit, :math:`\partial f_c / \partial x`.

    References:
        simonyan2014
    """

    needs_module: ClassVar[bool] = False

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        method = _captum().Saliency(scores_of(classifier, query_class))
        values = method.attribute(_leaf(images), target=query_class, abs=False)
        return Attribution(values, n_forward=1, n_backward=1)


@final
@dataclass(frozen=True, kw_only=True)
class InputXGradient(GradientMethod):
    r"""Image times gradient, :math:`x \odot \partial f_c / \partial x`, in pixel space.

    References:
        shrikumar2017

    Differs from:
        - The image is in [0, 1], not normalised: a black pixel has no attribution, a mean one has.
    """

    needs_module: ClassVar[bool] = False

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        method = _captum().InputXGradient(scores_of(classifier, query_class))
        return Attribution(method.attribute(_leaf(images), target=query_class), n_forward=1, n_backward=1)


@final
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(GradientMethod):
    r"""Gradients along the line from a baseline, times the way gone.

    .. math:: (x - b) \odot \frac1T \sum_{t=1}^{T} \frac{\partial f_c}{\partial x}
        \Bigl(b + \tfrac{t - 1/2}{T} (x - b)\Bigr)

    Sums to :math:`f_c(x) - f_c(b)` as T grows.

    Args:
        baseline: image at the start of the line.
        steps: T, midpoints on the line.
        chunk_size: images and points on the line evaluated at once, fewer above 128 x 128 pixels; bounds
            memory, never changes the result beyond float rounding.

    Raises:
        ConfigError: ``steps`` below 2, ``chunk_size`` below 1, or a baseline that needs a mask.

    References:
        sundararajan2017

    Differs from:
        - Midpoints instead of right ends; the baseline is black in pixel space.
    """

    baseline: Baseline = field(default_factory=Constant)
    steps: int = 50
    chunk_size: int = 64

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_counts(chunk_size=self.chunk_size)
        check_baseline(self.baseline, type(self).__name__)
        if self.steps < 2:
            raise ConfigError(f"steps must be at least 2, found {self.steps}")

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """As many forward and backward passes as steps."""
        at_once = images_at_once(self.chunk_size, images)

        def chunk(some: Tensor, query: Tensor) -> Attribution:
            method = _captum().IntegratedGradients(scores_of(classifier, query))
            values = method.attribute(
                some,
                baselines=baseline_images(self.baseline, classifier, some, query),
                target=query,
                n_steps=self.steps,
                method="riemann_middle",
                internal_batch_size=at_once,
            )
            return Attribution(values.detach(), self.steps, self.steps, self.baseline.name)

        return in_chunks(chunk, images, query_class, at_once)


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

    needs_module: ClassVar[bool] = True

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        network = network_of(classifier, type(self).__name__)
        with uncompiled():
            logits = check_rectifiers(network, images[:1], type(self).__name__, hooked=(nn.ReLU,), reuse=True)
        check_query_class(query_class, len(images), logits.shape[1])
        if not any(isinstance(module, nn.ReLU) for module in network.modules()):
            raise ConfigError(
                f"GuidedBackpropagation changes the gradient of torch.nn.ReLU modules, and"
                f" {type(network).__name__} has none; choose Gradient, which is the same without them"
            )
        with _quiet(), uncompiled():
            method = _captum().GuidedBackprop(Answering(network))
            values = method.attribute(_leaf(images), target=query_class)
        return Attribution(values, n_forward=1, n_backward=1)


_RESCALED = (
    nn.ReLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.Softmax,
)


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

    needs_module: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_baseline(self.baseline, type(self).__name__)

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """Image and baseline forwards and backwards together, then both forwards again for the check."""
        network = network_of(classifier, type(self).__name__)
        check_pools(network)
        with uncompiled():
            logits = check_rectifiers(network, images[:1], type(self).__name__, hooked=_RESCALED, reuse=False)
        check_query_class(query_class, len(images), logits.shape[1])
        baselines = baseline_images(self.baseline, classifier, images, query_class)
        with _quiet(), no_leftovers(network), uncompiled():
            method = _captum().DeepLift(Answering(network))
            values = method.attribute(_leaf(images), baselines, target=query_class).detach()
        with torch.no_grad():
            both = ask(network, torch.cat([images, baselines])).gather(1, query_class.repeat(2)[:, None])
        change = both[: len(images), 0] - both[len(images) :, 0]
        check_sum(values, change, network, rescaled=_RESCALED)
        return Attribution(values, n_forward=4, n_backward=2, baseline=self.baseline.name)


@final
@dataclass(frozen=True, kw_only=True)
class GradCAM(Saliency):
    r"""Channels of a stage, weighted by their mean gradient.

    .. math:: \sum_k w_k a_k, \qquad w_k = \mathrm{mean}_{hw}\, \partial f_c / \partial a_k

    The map is the positive part, resized bilinearly to the image; the attribution is the same sum with its
    signs, resized likewise.

    Args:
        stage: name of a stage of the classifier; None stands for the last.

    Raises:
        ConfigError: when called with a classifier that has no such stage, or no stages.

    References:
        selvaraju2017
    """

    stage: str | None = None

    needs_module: ClassVar[bool] = True

    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """One forward pass, and one backward pass of the part after the stage."""
        layer = self._layer(classifier, images)
        size = (images.shape[-2], images.shape[-1])
        with explaining(classifier, images, query_class) as (inputs, query), uncompiled():
            with _output_of(layer) as given:
                logits = ask(network_of(classifier, type(self).__name__), inputs.requires_grad_())
            asked = logits.gather(1, query[:, None]).sum()
            (gradient,) = torch.autograd.grad(asked, given, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                f"the logits do not depend on {self.stage or 'the last stage'}; name another stage"
            )
        activation = given[0].detach()
        if activation.ndim != 4:
            raise ConfigError(
                f"GradCAM needs a stage with output (B, C, H, W), and {self.stage or 'the last stage'} gives"
                f" {tuple(activation.shape)}; name another stage"
            )
        if channels_last(activation.shape, size):
            activation, gradient = activation.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
        values = (activation * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True)
        saliency = resize_maps(values.clamp_min(0), size)
        return SaliencyResult(
            saliency=saliency, raw=saliency, attribution=resize_maps(values, size), n_forward=1, n_backward=1
        )

    def _layer(self, classifier: AnyClassifier, images: Tensor) -> nn.Module:
        stages = staged(classifier, images, type(self).__name__).stages
        stage = stages[-1] if self.stage is None else self.stage
        if stage not in stages:
            raise ConfigError(f"stage {stage!r} is none of the classifier's stages; known: {list(stages)}")
        network = network_of(classifier, type(self).__name__)
        # The classifier keeps the network, in which the stage has its name, under a name of its own.
        names = [name for name, _ in network.named_modules() if f".{name}".endswith(f".{stage}")]
        return network.get_submodule(min(names, key=len))


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer gives out inside; the hook is gone afterwards."""
    given: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    try:
        yield given
    finally:
        handle.remove()


def _captum() -> Any:  # noqa: ANN401 - it says nothing of its types
    """Captum's methods, imported at the first call: that takes a third as long as torch and loads pyplot."""
    from captum import attr  # type: ignore[import-untyped]  # as said

    return attr


def _leaf(images: Tensor) -> Tensor:
    """Copy that asks for gradients, so that captum need not ask, and warn that it did."""
    return images.detach().clone().requires_grad_()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's announcements that it sets hooks and removes them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks")
        yield
