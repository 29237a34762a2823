"""Maps of other packages, found by duck typing alone and judged like ours.

Values may be ``(B, C, H, W)``, ``(B, 1, h, w)`` or ``(B, h, w)``, a tensor or an array, on any device; other
sizes are resized. They are kept with their signs as the attribution. The saliency map is their positive part
if there is one channel, as of Grad-CAM, and their largest absolute value over several, as of a gradient.

A peer's object explains the network that it was built on: the classifier that is explained, which normalises
inside itself, or the bare network in it, which is then given normalised images. Passes are not counted.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, NumericError
from verisal.functional.networks import plain_network, uncompiled
from verisal.functional.outputs import Answering, ask
from verisal.models import Classifier
from verisal.saliency._base import Saliency, explaining
from verisal.saliency.gates.masks import resize_maps
from verisal.saliency.gradients.gradient import scores_of
from verisal.types import AnyClassifier, SaliencyResult, StagedClassifier


@runtime_checkable
class _Attributes(Protocol):
    """Call of captum's methods."""

    def attribute(self, inputs: Tensor, *, target: Tensor) -> Any:  # noqa: ANN401 - checked when it comes
        """Attribution of a batch."""


@runtime_checkable
class _OfModel(Protocol):
    """An object that says which network it was built on, as those for class activation maps do."""

    model: Any


@runtime_checkable
class _OfForward(Protocol):
    """The same, as captum's methods say it."""

    forward_func: Any


class _Adapter(Saliency):
    """Base of the adapters: a peer's object in the field that ``called`` names."""

    needs_module = False
    called: ClassVar[str]
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        peer = getattr(self, self.called)
        if not callable(peer):
            raise ConfigError(f"{self.called} must be callable, found {type(peer).__name__}")

    @abstractmethod
    def results(self, classifier: AnyClassifier, inputs: Tensor, query: Tensor) -> Sequence[object]:
        """Results of the peer for images that ask for gradients, one entry per layer."""

    @final
    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The peer's map of each image and its query class."""
        with _peer(classifier, images, query_class) as (inputs, query):
            results = self.results(classifier, inputs, query)
        return _result(results, images, self.source or type(getattr(self, self.called)).__name__)


@final
@dataclass(frozen=True, kw_only=True)
class CaptumAdapter(_Adapter):
    """Any object with captum's ``attribute(inputs, target=...)``.

    Args:
        method: the object, built on the classifier that is explained, or on the bare network in it.

    Raises:
        ConfigError: an object without ``attribute``, or a result of another shape.
        NumericError: a result that is not finite.
    """

    method: _Attributes

    called = "method"

    def __post_init__(self) -> None:
        if not isinstance(self.method, _Attributes):
            raise ConfigError(
                f"method must have attribute(inputs, target=...), found {type(self.method).__name__}"
            )

    def results(self, classifier: AnyClassifier, inputs: Tensor, query: Tensor) -> Sequence[object]:
        """The attribution."""
        return [self.method.attribute(as_built_on(self.method, classifier, inputs), target=query)]


@final
@dataclass(frozen=True, kw_only=True)
class TorchCamAdapter(_Adapter):
    """Any torch-cam extractor: called with classes and logits after a forward pass of the hooked network.

    The maps of several hooked layers are averaged; each one's positive part is in ``raw_layers``.

    Args:
        extractor: called as ``extractor(class_idx=[...], scores=logits, normalized=False)``, returns one
            ``(B, h, w)`` per hooked layer. Its hooks must be on the classifier that is explained, or on the
            bare network in it.

    Raises:
        ConfigError: an extractor that cannot be called, or results of another shape.
        NumericError: a result that is not finite.
    """

    extractor: Callable[..., Sequence[Tensor]]

    called = "extractor"

    def results(self, classifier: AnyClassifier, inputs: Tensor, query: Tensor) -> Sequence[object]:
        """One forward pass, then whatever the extractor does."""
        as_built_on(self.extractor, classifier, inputs)
        scores = scores_of(classifier, query)(inputs)
        maps = self.extractor(class_idx=query.tolist(), scores=scores, normalized=False)
        if not isinstance(maps, (list, tuple)) or not maps:
            raise ConfigError(
                f"{type(self.extractor).__name__} must return a list with one map per hooked layer, found"
                f" {type(maps).__name__}"
            )
        return maps


@final
@dataclass(frozen=True, kw_only=True)
class GradCamAdapter(_Adapter):
    """Any pytorch-grad-cam object: called with images and one target function per image.

    That package scales every image's map to [0, 1] by itself, so that magnitudes are lost.

    Args:
        cam: called as ``cam(input_tensor=images, targets=[...])``, returns an array ``(B, H, W)``. Build it
            on the classifier that is explained, or on the bare network in it.

    Raises:
        ConfigError: an object that cannot be called, or a result of another shape.
        NumericError: a result that is not finite.
    """

    cam: Callable[..., Any]

    called = "cam"

    def results(self, classifier: AnyClassifier, inputs: Tensor, query: Tensor) -> Sequence[object]:
        """The map of each image's query logit."""
        targets = [partial(_query_logit, index) for index in query.tolist()]
        return [self.cam(input_tensor=as_built_on(self.cam, classifier, inputs), targets=targets)]


@final
@dataclass(frozen=True, kw_only=True)
class CallableAdapter(_Adapter):
    """Any function ``(classifier, images, query_class)`` that returns a map or an attribution.

    Args:
        function: called with the frozen classifier, images that ask for gradients, and the query class. The
            classifier gives logits ``(B, K)`` alone and leaves images as they are, whatever the network does.

    Raises:
        ConfigError: something that cannot be called, or a result of another shape.
        NumericError: a result that is not finite.
    """

    function: Callable[[AnyClassifier, Tensor, Tensor], Any]

    called = "function"
    source = "the function"

    def results(self, classifier: AnyClassifier, inputs: Tensor, query: Tensor) -> Sequence[object]:
        """The result of the function."""
        if isinstance(classifier, nn.Module) and not isinstance(classifier, StagedClassifier):
            classifier = Answering(classifier)
        elif not isinstance(classifier, StagedClassifier):
            classifier = partial(ask, classifier)
        return [self.function(classifier, inputs, query)]


def adapted(method: object) -> Saliency:
    """The saliency method itself, or what another package's object is by how it is called.

    ``attribute(inputs, target=...)`` is captum's, ``(input_tensor, targets)`` pytorch-grad-cam's,
    ``(class_idx, scores, ...)`` torch-cam's; ``(classifier, images, query_class)`` is any function's.

    Raises:
        ConfigError: none of these.
    """
    if isinstance(method, Saliency):
        return method
    if isinstance(method, type):
        raise ConfigError(f"the method must be an object, found the class; write {method.__name__}()")
    if isinstance(method, _Attributes):
        return CaptumAdapter(method=method)
    if callable(method):
        names = list(inspect.signature(method).parameters)
        if "input_tensor" in names:
            return GradCamAdapter(cam=method)
        if "class_idx" in names:
            return TorchCamAdapter(extractor=method)
        if len(names) == 3:
            return CallableAdapter(function=method)
    raise ConfigError(
        "the method must be one of verisal.saliency, an object of captum, pytorch-grad-cam or torch-cam, or a"
        f" function (classifier, images, query_class); found {type(method).__name__}"
    )


def as_built_on(peer: object, classifier: AnyClassifier, images: Tensor) -> Tensor:
    """Images as the network of a peer's object takes them: normalised, if that is the one in the classifier.

    Raises:
        ConfigError: the object was built on another network.
    """
    built = (
        peer.model
        if isinstance(peer, _OfModel)
        else peer.forward_func
        if isinstance(peer, _OfForward)
        else None
    )
    if not isinstance(built, nn.Module) or not isinstance(classifier, nn.Module):
        # A function may be around any network.
        return images
    built, explained = plain_network(built), plain_network(classifier)
    if isinstance(explained, Classifier) and built is explained.network:
        return explained.normalization.apply(images)
    if built is not explained:
        raise ConfigError(
            f"{type(peer).__name__} was built on another network ({type(built).__name__}) than the one that"
            f" is explained ({type(explained).__name__}); build it on that one"
        )
    return images


def _query_logit(index: int, logits: Tensor) -> Tensor:
    """Target function of pytorch-grad-cam: one image's logits ``(K,)`` or ``(1, K)`` to its query's logit."""
    return logits[..., index]


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


def _result(results: Sequence[object], images: Tensor, source: str) -> SaliencyResult:
    """Maps of one peer by our conventions; several, one per layer, are averaged."""
    size = (images.shape[-2], images.shape[-1])
    layers = [_values(part, images, source) for part in results]
    maps = [
        layer.clamp_min(0) if layer.shape[1] == 1 else layer.abs().amax(dim=1, keepdim=True)
        for layer in layers
    ]
    resized = tuple(resize_maps(part, size) for part in maps)
    saliency = torch.stack(resized).mean(dim=0)
    attribution = torch.stack([resize_maps(layer, size) for layer in layers]).mean(dim=0)
    return SaliencyResult(saliency, saliency, attribution, raw_layers=resized if len(resized) > 1 else ())


def _values(result: object, images: Tensor, source: str) -> Tensor:
    """``(B, C, h, w)`` float32 on the device of the images.

    Raises:
        ConfigError: naming the shape found.
        NumericError: values that are not finite.
    """
    try:
        values = torch.as_tensor(result).detach().to(images.device, torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{source} must return a tensor or an array, found {type(result).__name__}"
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
