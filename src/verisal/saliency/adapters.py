"""Methods of other packages, by the shape of their calls; nothing of theirs is imported.

Every result goes through one conversion. Values may be ``(B, C, H, W)``, ``(B, 1, h, w)`` or ``(B, h, w)``, a
tensor or an array, on any device; other sizes are resized. They are kept with their signs as the attribution.
The saliency map is their positive part if there is one channel, as of Grad-CAM, and their largest absolute
value over the channels if there are several, as of a gradient.

A peer's object explains the network that it was built on: build it on the classifier that is explained, which
normalises inside itself, and not on the bare network in it. Passes are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, NumericError
from verisal.functional.networks import uncompiled
from verisal.functional.outputs import Answering, ask
from verisal.saliency._base import Saliency, explaining
from verisal.saliency.gates.masks import resize_maps
from verisal.saliency.gradients.gradient import scores_of
from verisal.types import AnyClassifier, SaliencyResult, StagedClassifier


@runtime_checkable
class _Attributes(Protocol):
    """Call of captum's methods."""

    def attribute(self, inputs: Tensor, *, target: Tensor) -> Any:  # noqa: ANN401 - checked when it comes
        """Attribution of a batch."""


@final
@dataclass(frozen=True, kw_only=True)
class CaptumAdapter(Saliency):
    """Any object with captum's ``attribute(inputs, target=...)``.

    Args:
        method: the object, built on the classifier that is explained.

    Raises:
        ConfigError: an object without ``attribute``, or a result of another shape.
        NumericError: a result that is not finite.
    """

    method: _Attributes

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.method, _Attributes):
            raise ConfigError(
                f"method must have attribute(inputs, target=...), found {type(self.method).__name__}"
            )

    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """What the object attributes to the images."""
        with _peer(classifier, images, query_class) as (inputs, query):
            found = self.method.attribute(inputs, target=query)
        return _result([found], images, type(self.method).__name__)


@final
@dataclass(frozen=True, kw_only=True)
class TorchCamAdapter(Saliency):
    """Any torch-cam extractor: called with classes and logits after a forward pass of the hooked network.

    The maps of several hooked layers are averaged; each one's positive part is in ``raw_layers``.

    Args:
        extractor: called as ``extractor(class_idx=[...], scores=logits, normalized=False)``, returns one
            ``(B, h, w)`` per hooked layer. Its hooks must be on the classifier that is explained.

    Raises:
        ConfigError: an extractor that cannot be called, or results of another shape.
        NumericError: a result that is not finite.
    """

    extractor: Callable[..., Sequence[Tensor]]

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_callable("extractor", self.extractor)

    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """One forward pass, then whatever the extractor does."""
        with _peer(classifier, images, query_class) as (inputs, query):
            scores = scores_of(classifier, query)(inputs)
            found = self.extractor(class_idx=query.tolist(), scores=scores, normalized=False)
        if not isinstance(found, (list, tuple)) or not found:
            raise ConfigError(
                f"{type(self.extractor).__name__} must return a list with one map per hooked layer, found"
                f" {type(found).__name__}"
            )
        return _result(found, images, type(self.extractor).__name__)


@final
@dataclass(frozen=True, kw_only=True)
class GradCamAdapter(Saliency):
    """Any pytorch-grad-cam object: called with images and one target function per image.

    That package scales every image's map to [0, 1] by itself, so that magnitudes are lost.

    Args:
        cam: called as ``cam(input_tensor=images, targets=[...])``, returns an array ``(B, H, W)``. Build it
            on the classifier that is explained, in eval mode.

    Raises:
        ConfigError: an object that cannot be called, or a result of another shape.
        NumericError: a result that is not finite.
    """

    cam: Callable[..., Any]

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_callable("cam", self.cam)

    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """What the object finds for each image's query logit."""
        with _peer(classifier, images, query_class) as (inputs, query):
            targets = [_QueryLogit(index) for index in query.tolist()]
            found = self.cam(input_tensor=inputs, targets=targets)
        return _result([found], images, type(self.cam).__name__)


@final
@dataclass(frozen=True, kw_only=True)
class CallableAdapter(Saliency):
    """Any function ``(classifier, images, query_class)`` that returns a map or an attribution.

    Args:
        function: called with the frozen classifier, images that ask for gradients, and the query class. The
            classifier gives logits ``(B, K)`` alone and leaves images as they are, whatever the network does.

    Raises:
        ConfigError: something that cannot be called, or a result of another shape.
        NumericError: a result that is not finite.
    """

    function: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Any]

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_callable("function", self.function)

    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """What the function returns for the images."""
        with _peer(classifier, images, query_class) as (inputs, query):
            found = self.function(_answering(classifier), inputs, query)
        return _result([found], images, "the function")


@dataclass(frozen=True)
class _QueryLogit:
    """Target function of pytorch-grad-cam: one image's logits ``(K,)`` or ``(1, K)`` to its query's logit."""

    index: int

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[..., self.index]


def _answering(classifier: AnyClassifier) -> Callable[[Tensor], Tensor]:
    if isinstance(classifier, StagedClassifier):
        return classifier
    return Answering(classifier) if isinstance(classifier, nn.Module) else partial(ask, classifier)


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise ConfigError(f"{name} must be callable, found {type(value).__name__}")


@contextmanager
def _peer(classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """As :func:`explaining`, for code that may also clear or fill the gradients of parameters.

    The images ask for gradients: with frozen parameters they alone make a graph.
    """
    parameters = list(classifier.parameters()) if isinstance(classifier, nn.Module) else []
    kept = [parameter.grad for parameter in parameters]
    # The peer's hooks may be on a network that is compiled.
    with explaining(classifier, images, query_class) as (inputs, query), uncompiled():
        try:
            for parameter in parameters:
                parameter.grad = None
            yield inputs.requires_grad_(), query
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient


def _result(found: Sequence[object], images: Tensor, source: str) -> SaliencyResult:
    """Maps of one peer by our conventions; several, one per layer, are averaged."""
    size = (images.shape[-2], images.shape[-1])
    layers = [_values(part, images, source) for part in found]
    maps = [
        layer.clamp_min(0) if layer.shape[1] == 1 else layer.abs().amax(dim=1, keepdim=True)
        for layer in layers
    ]
    resized = tuple(resize_maps(part, size) for part in maps)
    saliency = torch.stack(resized).mean(dim=0)
    return SaliencyResult(
        saliency=saliency,
        raw=saliency,
        attribution=torch.stack([resize_maps(layer, size) for layer in layers]).mean(dim=0),
        raw_layers=resized if len(resized) > 1 else (),
    )


def _values(found: object, images: Tensor, source: str) -> Tensor:
    """``(B, C, h, w)`` float32 on the device of the images.

    Raises:
        ConfigError: naming the shape found.
        NumericError: values that are not finite.
    """
    try:
        values = torch.as_tensor(found).detach().to(images.device, torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{source} must return a tensor or an array, found {type(found).__name__}"
        ) from error
    shape = tuple(values.shape)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or len(values) != len(images) or 0 in values.shape:
        raise ConfigError(
            f"{source} must return (B, C, H, W), (B, 1, h, w) or (B, h, w) for {len(images)} images of"
            f" {tuple(images.shape[-2:])} pixels, found {shape}"
        )
    if not bool(values.isfinite().all()):
        raise NumericError(f"{source} returned values that are not finite, shape {shape}")
    return values.clone()
