"""Methods that read gradients: a signed attribution per channel, and how it becomes a map.

Captum computes; the shells fix what captum leaves open: images in [0, 1], baselines in pixel space, one query
class per image, float32 gradients in any surrounding mode, nothing left behind on the network, and a refusal
where captum's hooks would give wrong numbers.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, bound
from verisal.functional.networks import channels_last, check_hookable, hooked, plain_network
from verisal.functional.outputs import ask
from verisal.functional.scopes import in_chunks, scored_at_once
from verisal.saliency._base import Saliency, check_some_images, explaining, signed_result, staged
from verisal.saliency.gates.masks import resize_maps
from verisal.types import AnyClassifier, SaliencyResult, StagedClassifier, check_query_class

# Images in one pass of the methods that are one pass.
_AT_ONCE = 64
_FEW_PLACES = 16


@dataclass(frozen=True)
class Attribution:
    """Signed attribution of one batch and what it cost.

    Attributes:
        values: ``(B, C, H, W)`` signed.
        n_forward: network forward passes per image.
        n_backward: network backward passes per image.
        baseline: name of the baseline image, empty where there is none.
    """

    values: Tensor
    n_forward: float
    n_backward: float
    baseline: str = ""

    __repr__ = brief


class GradientMethod(Saliency):
    """A method with a signed attribution per channel, so that others can wrap it.

    The saliency map is the largest absolute attribution over the channels.
    """

    @abstractmethod
    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """Attribution of ``images (B, C, H, W)``, which may leave [0, 1], for ``query_class (B,)``.

        To be called inside :func:`explaining`, which freezes the classifier and turns gradients on.
        """

    @final
    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Attribution of one batch, and its largest absolute value over the channels as the map."""
        with explaining(classifier, images, query_class) as (inputs, query):
            result = self.attribute(classifier, inputs, query)
        return signed_result(
            result.values.detach(),
            n_forward=result.n_forward,
            n_backward=result.n_backward,
            baseline=result.baseline,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Gradient(GradientMethod):
    r"""Gradient of the query logit, :math:`\partial f_c / \partial x`.

    References:
        simonyan2014
    """

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        values = []
        for some, query in in_chunks(images, query_class, scored_at_once(_AT_ONCE, images)):
            method = captum_methods().Saliency(scores_of(classifier, query))
            values.append(method.attribute(leaf(some), target=query, abs=False))
        return Attribution(torch.cat(values), n_forward=1, n_backward=1)


@final
@dataclass(frozen=True, kw_only=True)
class InputXGradient(GradientMethod):
    r"""Image times gradient, :math:`x \odot \partial f_c / \partial x`, in pixel space.

    References:
        shrikumar2017

    Differs from:
        - The image is in [0, 1], not normalised: a black pixel has no attribution, a mean one has.
    """

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """One forward and one backward pass."""
        values = []
        for some, query in in_chunks(images, query_class, scored_at_once(_AT_ONCE, images)):
            method = captum_methods().InputXGradient(scores_of(classifier, query))
            values.append(method.attribute(leaf(some), target=query))
        return Attribution(torch.cat(values), n_forward=1, n_backward=1)


@final
@dataclass(frozen=True, kw_only=True)
class GradCAM(Saliency):
    r"""Channels of a stage, weighted by their mean gradient.

    .. math:: \sum_k w_k a_k, \qquad w_k = \mathrm{mean}_{hw}\, \partial f_c / \partial a_k

    The map is the positive part, resized bilinearly to the image; the attribution is the same sum with its
    signs, resized likewise. Of the tokens of a vision transformer the patches are read.

    Where the last stage has fewer than 4 x 4 places, as many networks have for small images, a warning names
    the earlier ones, whose maps are finer.

    Args:
        stage: name of a stage of the classifier; None stands for the last.

    Raises:
        ConfigError: when called with a classifier that has no such stage, or no stages.

    References:
        selvaraju2017
    """

    stage: str | None = None

    needs_module = True

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """One forward pass, and one backward pass of the part after the stage."""
        check_some_images(images)
        chunks = in_chunks(images, query_class, scored_at_once(_AT_ONCE, images))
        values = torch.cat([self._sums(classifier, some, query) for some, query in chunks])
        saliency = resize_maps(values.clamp_min(0), (images.shape[-2], images.shape[-1]))
        attribution = resize_maps(values, (images.shape[-2], images.shape[-1]))
        return SaliencyResult(saliency, saliency, attribution, n_forward=1, n_backward=1)

    def _sums(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Tensor:
        """``(B, 1, h, w)``: the signed sum at the stage's resolution."""
        stages = staged(classifier, images, type(self).__name__).stages
        network = network_of(classifier, type(self).__name__)
        layers = self._layers(network, stages)
        size = (images.shape[-2], images.shape[-1])
        given: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor) -> None:
            given[name] = output

        with explaining(classifier, images, query_class) as (inputs, query), hooked(layers, keep):
            logits = ask(network, inputs.requires_grad_())
            asked = logits.gather(1, query[:, None]).sum()
            *earlier, (stage, output) = given.items()
            (gradient,) = torch.autograd.grad(asked, [output], allow_unused=True)
        if gradient is None:
            raise ConfigError(f"the logits do not depend on stage {stage!r}; name another stage")
        activation, gradient = (
            # Of a network of half precision in full.
            _as_map(values.to(images.dtype), [before for _, before in earlier], size, stage)
            for values in (output.detach(), gradient)
        )
        if self.stage is None:
            _tell_if_coarse(stage, activation, earlier, size)
        return (activation * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True)

    def _layers(self, network: nn.Module, stages: Sequence[str]) -> dict[str, nn.Module]:
        """The stages up to the one that is asked for, by name."""
        asked = stages[-1] if self.stage is None else self.stage
        # Around a network, as for a target, its stages have names that end as they did.
        stage = next((name for name in stages if f".{name}".endswith(f".{asked}")), None)
        if stage is None:
            raise ConfigError(f"stage {asked!r} is none of the classifier's stages; known: {list(stages)}")
        modules = dict(network.named_modules())
        layers = {}
        for name in stages[: stages.index(stage) + 1]:
            # The classifier keeps the network, in which the stage has its name, under a name of its own.
            full = min((known for known in modules if f".{known}".endswith(f".{name}")), key=len)
            layers[name] = modules[full]
        return layers


def _tell_if_coarse(
    stage: str, last: Tensor, earlier: Sequence[tuple[str, Tensor]], size: tuple[int, int]
) -> None:
    """Warn of a last stage ``(B, C, h, w)`` with few places, if an earlier one has more."""
    places = last[0, 0].numel()
    if places >= _FEW_PLACES:
        return
    maps = {name: _as_map(output, (), size, name) for name, output in earlier if output.ndim == 4}
    finer = {name: each.shape[-2:] for name, each in maps.items() if each[0, 0].numel() > places}
    if not finer:
        return
    known = ", ".join(f"{name!r} with {height} x {width}" for name, (height, width) in finer.items())
    height, width = last.shape[-2:]
    warnings.warn(
        f"GradCAM: the last stage {stage!r} has {height} x {width} places for images of {size[0]} x {size[1]}"
        f" pixels, so its maps cannot show where something is; earlier stages: {known}; choose by"
        f" GradCAM(stage={list(finer)[-1]!r}), or say GradCAM(stage={stage!r}) to keep this one",
        stacklevel=2,
    )


def _as_map(values: Tensor, earlier: Sequence[Tensor], size: tuple[int, int], stage: str) -> Tensor:
    """A stage's output ``(B, C, h, w)``, with channels last, or tokens, of which the last h * w are patches.

    Tokens have the height and width of the last map before them.
    """
    if values.ndim == 4:
        return values.permute(0, 3, 1, 2) if channels_last(values.shape, size) else values
    grids = [_as_map(before, (), size, stage) for before in earlier if before.ndim == 4]
    if values.ndim != 3 or not grids or grids[-1][0, 0].numel() > values.shape[1]:
        raise ConfigError(
            "GradCAM needs a stage with output (B, C, H, W), or tokens (B, N, C) after a stage with one place"
            f" per patch, and stage {stage!r} gives {tuple(values.shape)}; name another stage"
        )
    height, width = grids[-1].shape[-2:]
    return values[:, -height * width :].transpose(1, 2).reshape(len(values), -1, height, width)


def scores_of(classifier: AnyClassifier, query_class: Tensor) -> Callable[[Tensor], Tensor]:
    """The classifier's logits ``(B, K)``, and a refusal of a query class that they do not have.

    Only a classifier with stages says before it is called how many classes it has.
    """
    known = isinstance(classifier, StagedClassifier)

    def checked(images: Tensor) -> Tensor:
        logits = ask(classifier, images)
        if not known:
            check_query_class(query_class, len(query_class), logits.shape[1])
        return logits

    return checked


def network_of(classifier: object, method: str) -> nn.Module:
    """The classifier as a module whose layers can be hooked inside :func:`uncompiled`, or ``ConfigError``."""
    if not isinstance(classifier, nn.Module):
        raise ConfigError(
            f"{method} hooks the layers of a torch.nn.Module, found {type(classifier).__name__};"
            " wrap the network: verisal.models.Classifier(network, normalization=...)"
        )
    check_hookable(classifier, method)
    return plain_network(classifier)


def check_baseline(baseline: Baseline, method: str) -> None:
    """Raise ``ConfigError`` for a baseline that depends on the pixels removed; the method removes none."""
    if baseline.needs_mask:
        raise ConfigError(
            f"{method} compares with one whole baseline image, and {baseline.name} is made for a mask of"
            " removed pixels; choose a baseline that needs none, e.g. Constant or DatasetMean"
        )


def baseline_images(
    baseline: Baseline, classifier: AnyClassifier, images: Tensor, query_class: Tensor
) -> Tensor:
    """Baseline of every image ``(B, C, H, W)``; images outside [0, 1] count as clamped."""
    return bound(baseline, classifier)(images.clamp(0, 1), query_class=query_class).clone()


def sample_groups(samples: int, batch: int, chunk_size: int) -> Iterator[range]:
    """Indices of samples to evaluate together, so that ``batch`` images times them fit ``chunk_size``."""
    size = max(1, chunk_size // batch)
    for start in range(0, samples, size):
        yield range(start, min(start + size, samples))


def captum_methods() -> Any:  # noqa: ANN401 - it says nothing of its types
    """Captum's methods, imported at the first call: that takes a third as long as torch and loads pyplot."""
    from captum import attr  # type: ignore[import-untyped]  # as said

    return attr


def leaf(images: Tensor) -> Tensor:
    """Copy that asks for gradients, so that captum need not ask, and warn that it did."""
    return images.detach().clone().requires_grad_()


def joined(parts: Iterable[Attribution]) -> Attribution:
    """One attribution of several chunks of images."""
    chunks = list(parts)
    return replace(chunks[0], values=torch.cat([chunk.values for chunk in chunks]))
