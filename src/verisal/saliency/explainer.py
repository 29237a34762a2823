"""A saliency method bound to one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor, nn

from verisal._brief import described
from verisal.errors import ConfigError
from verisal.functional.networks import plain_network
from verisal.functional.outputs import output_of
from verisal.models import Classifier, Target, targeted
from verisal.saliency._base import Saliency
from verisal.saliency.adapters import adapted
from verisal.types import AnyClassifier, AnyQuery, OutputKind, SaliencyResult, StagedClassifier


@final
class Explainer:
    """A saliency method and the network that it explains, as one function of images.

    The network may be one that is still trained: every call explains its weights of the moment. Its stages
    are searched at the first call that needs them, and kept.

    Attributes:
        classifier: the network with its normalisation.
        method: what explains it.

    Args:
        network: a network, or a :class:`verisal.models.Classifier`, or, for methods that look into no layers,
            any function of images in [0, 1].
        method: a saliency method; or an object of captum, pytorch-grad-cam or torch-cam, or a function
            ``(classifier, images, query_class)``, which the adapter of its kind takes (see :func:`adapted`).
        normalization: of the network's input, as of :class:`verisal.models.Classifier`: ``"imagenet"``,
            ``"none"``, ``(mean, std)``, a transform, weights, a data config. None for what the network says.
        stages: names of the layers that methods read; None for those that are found.
        output: what the logits are; None for what the network says, a softmax as a rule.
        target: a score to explain in the place of classes, as of :func:`.targeted`; metrics then take the
            explainer's ``classifier``.

    Raises:
        ConfigError: a normalisation that is not known, or said beside a classifier that has one; the method
            in place of the network.

    Example:
        >>> import torch
        >>> from verisal.saliency import Explainer, Gradient
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> explainer = Explainer(network, Gradient(), normalization="none")
        >>> images = torch.rand(2, 3, 8, 8)
        >>> explainer(images).saliency.shape, explainer.attribute(images, target=3).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        network: AnyClassifier,
        method: Saliency | Callable[..., Any] | object,
        *,
        normalization: object = None,
        stages: Sequence[str] | None = None,
        output: OutputKind | None = None,
        target: Target | None = None,
    ) -> None:
        if isinstance(network, Saliency):
            name = type(network).__name__
            raise ConfigError(f"the network comes first: Explainer(network, {name}()), found the method")
        inner = plain_network(network) if isinstance(network, nn.Module) else network
        if isinstance(inner, nn.Module) and not isinstance(inner, StagedClassifier):
            output = output_of(inner) if output is None else output
            inner = Classifier(inner, stages, normalization=normalization, output=output)
        elif any(option is not None for option in (normalization, stages, output)):
            raise ConfigError(
                "normalization, stages and output describe a bare network, found"
                f" {type(inner).__name__}, which says them itself; leave them out, or give the network"
            )
        self.classifier: AnyClassifier = inner if target is None else targeted(inner, target)
        self.method = adapted(method)

    def __call__(self, images: Tensor, query_class: AnyQuery = None) -> SaliencyResult:
        """Maps of ``images (B, C, H, W)`` in [0, 1]; arguments and errors as of the method's own call."""
        return self.method(self.classifier, images, query_class)

    def attribute(self, images: Tensor, target: AnyQuery = None) -> Tensor:
        """The signed attribution, as captum's methods return it, or the map where the method has none.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            target: the class to explain, in captum's word: None for the predicted one, an int, a list, or a
                tensor ``(B,)``.

        Returns:
            ``(B, C, H, W)``, one channel per colour or one for all; without signs the map ``(B, 1, H, W)``.
        """
        result = self(images, target)
        return result.saliency if result.attribution is None else result.attribution

    def __repr__(self) -> str:
        """Method and network."""
        inner = self.classifier.network if isinstance(self.classifier, Classifier) else self.classifier
        return f"Explainer({type(self.method).__name__} of {described(inner)})"
