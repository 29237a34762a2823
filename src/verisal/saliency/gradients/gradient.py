"""What gradient-like methods share: a signed attribution per colour channel, and how it becomes a map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.functional.baselines.plain import bound
from verisal.functional.networks import check_hookable, plain_network
from verisal.functional.outputs import ask
from verisal.saliency._base import Saliency, explaining
from verisal.types import AnyClassifier, SaliencyResult, StagedClassifier, check_query_class


@dataclass(frozen=True)
class Attribution:
    """Signed attribution of one batch and what it cost.

    Attributes:
        values: ``(B, 3, H, W)`` signed.
        n_forward: network forward passes per image.
        n_backward: network backward passes per image.
        baseline: name of the baseline image, empty where there is none.
    """

    values: Tensor
    n_forward: float
    n_backward: float
    baseline: str = ""


class GradientMethod(Saliency):
    """A method with a signed attribution per colour channel, so that others can wrap it.

    The saliency map is the largest absolute attribution over the channels.
    """

    @abstractmethod
    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """Attribution of ``images (B, 3, H, W)``, which may leave [0, 1], for ``query_class (B,)``.

        To be called inside :func:`explaining`, which freezes the classifier and turns gradients on.
        """

    @final
    def __call__(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Attribution of one batch, and its largest absolute value over the channels as the map."""
        with explaining(classifier, images, query_class) as (inputs, query):
            found = self.attribute(classifier, inputs, query)
        values = found.values.detach()
        saliency = values.abs().amax(dim=1, keepdim=True)
        return SaliencyResult(
            saliency=saliency,
            raw=saliency,
            attribution=values,
            n_forward=found.n_forward,
            n_backward=found.n_backward,
            baseline=found.baseline,
        )


def scores_of(classifier: AnyClassifier, query_class: Tensor) -> Callable[[Tensor], Tensor]:
    """The classifier's logits ``(B, K)``, and a refusal of a query class that they do not have.

    A classifier with stages says how many classes it has, and the query was checked before; any other is
    checked when it is called.
    """
    known = isinstance(classifier, StagedClassifier)

    def checked(images: Tensor) -> Tensor:
        logits = ask(classifier, images)
        if not known:
            check_query_class(query_class, len(query_class), logits.shape[1])
        return logits

    return checked


def network_of(classifier: object, method: str) -> nn.Module:
    """The classifier as a module whose layers can be hooked, inside :func:`uncompiled`.

    Raises:
        ConfigError: it is a function, or TorchScript has compiled it or a part of it.
    """
    if not isinstance(classifier, nn.Module):
        raise ConfigError(
            f"{method} hooks the layers of a torch.nn.Module, found {type(classifier).__name__};"
            " wrap the network: Classifier(network, stages=[...], ...)"
        )
    check_hookable(classifier, method)
    return plain_network(classifier)


def check_baseline(baseline: Baseline, method: str) -> None:
    """Raise unless the baseline is one image, whatever is removed.

    Raises:
        ConfigError: it depends on which pixels are removed, and the method removes none.
    """
    if baseline.needs_mask:
        raise ConfigError(
            f"{method} compares with one whole baseline image, and {baseline.name} is made for a mask of"
            " removed pixels; choose a baseline that needs none, e.g. Constant or DatasetMean"
        )


def check_counts(**counts: int) -> None:
    """Raise unless every number is at least 1.

    Raises:
        ConfigError: naming all numbers found.
    """
    if min(counts.values()) < 1:
        found = ", ".join(f"{name}={count}" for name, count in counts.items())
        raise ConfigError(f"{' and '.join(counts)} must be at least 1; found {found}")


def baseline_images(
    baseline: Baseline, classifier: AnyClassifier, images: Tensor, query_class: Tensor
) -> Tensor:
    """Baseline of every image ``(B, 3, H, W)``; images outside [0, 1] count as clamped."""
    return bound(baseline, classifier)(images.clamp(0, 1), query_class=query_class).clone()


def in_chunks(
    attribute: Callable[[Tensor, Tensor], Attribution], images: Tensor, query_class: Tensor, chunk_size: int
) -> Attribution:
    """``attribute`` of at most ``chunk_size`` images at a time."""
    parts = [
        attribute(some, query)
        for some, query in zip(
            torch.split(images, chunk_size), torch.split(query_class, chunk_size), strict=True
        )
    ]
    return replace(parts[0], values=torch.cat([part.values for part in parts]))


def sample_groups(samples: int, batch: int, chunk_size: int) -> Iterator[range]:
    """Indices of samples to evaluate together, so that ``batch`` images times them fit ``chunk_size``."""
    size = max(1, chunk_size // batch)
    for start in range(0, samples, size):
        yield range(start, min(start + size, samples))
