"""Base of all saliency methods, and the scope in which they may call a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, DataError
from verisal.fingerprint import Configured
from verisal.functional.networks import plain_network, staged_network
from verisal.functional.outputs import output_of, probabilities
from verisal.functional.per_image import at_row, joined_results, rows_waiting
from verisal.functional.scopes import differentiated, predicted_classes
from verisal.models import Classifier, Target, targeted
from verisal.models.classifier import as_it_says
from verisal.types import (
    AnyClassifier,
    AnyQuery,
    OutputKind,
    SaliencyResult,
    StagedClassifier,
    check_images,
    check_query_class,
    query_classes,
)

ScoreKind = Literal["logit", "probability"]

ONE_SCORE = (
    "choose a method that asks for the score of one class: Gradient, GradCAM, Occlusion or RISE, or"
    " HierarchicalMasks with objective evidence"
)
"""Advice for classifiers whose labels are decided one by one."""


class Saliency(Configured, ABC):
    """A method that explains one query class per image.

    Sub-classes are frozen dataclasses, so that their settings are plain data and can key a cache.
    """

    # Without annotation: whoever reads the hints of a sub-class has the names of that class's module alone.
    needs_module = False
    """True if the classifier must be an ``nn.Module``, whose layers are read, rather than any callable."""

    asks_classifier = True
    """False if the map is made from the image alone."""

    shares_passes = False
    """True if an image that is in the batch several times, with a query each, is passed once for all."""

    def _decisive(self) -> dict[str, Any]:
        """With the default of ``chunk_size``, as what is held at once changes nothing but rounding."""
        settings = super()._decisive()
        if is_dataclass(self):
            for item in fields(self):
                if item.name == "chunk_size" and item.default is not MISSING:
                    settings["chunk_size"] = item.default
        return settings

    @final
    def __call__(
        self,
        classifier: AnyClassifier,
        images: Tensor,
        query_class: AnyQuery = None,
        *,
        target: Target | None = None,
    ) -> SaliencyResult:
        """Explain one class per image, or another score.

        The classifier's weights, gradients, modes, flags and hooks, and the global random state, are the
        same after the call, whether it returns or raises.

        Args:
            classifier: a :class:`verisal.models.Classifier`; or a network or function that takes images in
                [0, 1], or says how they are to be normalised, as networks of timm do. Where a method reads
                stages, those of a bare network are searched at every call: :class:`.Explainer` keeps them.
            images: ``(B, C, H, W)`` float32 in [0, 1], before normalisation.
            query_class: None for the class that is predicted for each image (in eval mode; the pass counts in
                ``n_forward``), an int for one class, or ``(B,)`` integers.
            target: a score to explain in the place of a class's, as of :func:`.targeted`.

        Returns:
            The maps; ``query_class`` says which class each of them explains, None for a target's score.

        Raises:
            DataError: no image, or images that are none.
            ConfigError: a query class or a classifier that does not fit.
        """
        check_some_images(images)
        if target is not None:
            if query_class is not None:
                raise ConfigError("query_class and target both say what is explained; give one of them")
            classifier = targeted(classifier, target)
        classifier = as_it_says(classifier)
        query = None if query_class is None else query_classes(query_class, len(images), images.device)
        rows = rows_waiting(classifier, len(images))
        with _checked(images):
            if rows is None:
                return self._result(classifier, images, query)
            results = []
            for row in range(rows):
                with at_row(classifier, row):
                    asked = None if query is None else query[row : row + 1]
                    results.append(self._result(classifier, images[row : row + 1], asked))
        return joined_results(results)

    def _result(
        self, classifier: AnyClassifier, images: Tensor, query_class: Tensor | None
    ) -> SaliencyResult:
        if query_class is not None:
            result = self.explain(classifier, images, query_class)
            return replace(result, query_class=query_class, class_names=_names(classifier))
        if not self.asks_classifier or output_of(classifier) == "score":
            query = torch.zeros(len(images), dtype=torch.int64, device=images.device)
            return self.explain(classifier, images, query)
        query, passes = self._predicted(classifier, images)
        result = self.explain(classifier, images, query)
        passes += result.n_forward
        return replace(result, query_class=query, n_forward=passes, class_names=_names(classifier))

    def _predicted(self, classifier: AnyClassifier, images: Tensor) -> tuple[Tensor, float]:
        """``(B,)`` int64 predicted classes, and the passes per image they took.

        A sub-class that shows the network other images than these may override it.
        """
        return predicted_classes(classifier, images), 1

    @abstractmethod
    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Explain ``query_class (B,)`` int64 on ``images (B, C, H, W)`` in [0, 1]; :meth:`__call__` calls it.

        Raises:
            DataError: no image, or images that are none.
            ConfigError: a query class or a classifier that does not fit.
        """


def _names(classifier: AnyClassifier) -> tuple[str, ...]:
    network = plain_network(classifier) if isinstance(classifier, nn.Module) else classifier
    return network.given_names if isinstance(network, Classifier) else ()


@contextmanager
def _checked(images: Tensor) -> Iterator[None]:
    """These images, and parts of them, need no further check inside: methods ask for one at every door."""
    token = _CHECKED.set(_whole(images))
    try:
        yield
    finally:
        _CHECKED.reset(token)


_CHECKED: ContextVar[Tensor | None] = ContextVar("checked images", default=None)


def _whole(images: Tensor) -> Tensor:
    """The tensor of which these images are a view."""
    return images if images._base is None else images._base


def check_some_images(images: Tensor) -> None:
    """Raise ``DataError`` unless there are images, and at least one."""
    if isinstance(images, Tensor) and _whole(images) is _CHECKED.get():
        return
    check_images(images)
    if len(images) == 0:
        raise DataError(f"there is no image to explain, found {tuple(images.shape)}; leave empty batches out")


def staged(classifier: object, images: Tensor, method: str) -> StagedClassifier:
    """The classifier as one with stages, outside of the wrappers of torch; a refusal for others.

    Those of a bare network, which takes images in [0, 1], are searched at the size of the images.
    """
    check_some_images(images)
    if isinstance(classifier, nn.Module):
        network = plain_network(classifier)
        if not isinstance(network, StagedClassifier):
            classifier = Classifier(network, normalization="none")
    found = staged_network(classifier, method)
    found.note_size(images)
    return found


@contextmanager
def explaining(
    classifier: AnyClassifier, images: Tensor, query_class: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The scope in which a method may call and differentiate the classifier.

    Inside, the classifier is frozen and in eval mode, gradients are on, autocast is off; modes, flags and
    the global random state are restored on leaving, on exceptions too.

    Yields:
        Copies of images and query class that may enter a graph whatever mode the caller is in.

    Raises:
        DataError: no image, or images that are none.
        ConfigError: a query class that does not fit; checked by :func:`query_score` where the classifier does
            not say how many classes it has.
    """
    check_some_images(images)
    if isinstance(classifier, StagedClassifier):
        classifier.note_size(images)
        check_query_class(query_class, len(images), classifier.num_classes)
    with differentiated(classifier, device=images.device):
        yield images.detach().clone(), query_class.clone()


def query_score(
    logits: Tensor, query_class: Tensor, kind: ScoreKind, *, output: OutputKind = "softmax"
) -> Tensor:
    """``(B,)``: logit or probability of each image's query class, from ``logits (B, K)``.

    Args:
        logits: of the images.
        query_class: ``(B,)`` int64.
        kind: which of the two.
        output: how logits become probabilities.

    Raises:
        ConfigError: a query class that does not fit the logits.
    """
    check_query_class(query_class, len(logits), logits.shape[1])
    return known_query_score(logits, query_class, kind, output=output)


def known_query_score(
    logits: Tensor, query_class: Tensor, kind: ScoreKind, *, output: OutputKind = "softmax"
) -> Tensor:
    """:func:`query_score` of a query that is known to fit: a look at it waits for the device."""
    values = logits if kind == "logit" else probabilities(logits, output)
    return values.gather(1, query_class[:, None])[:, 0]


def signed_result(
    values: Tensor, *, n_forward: float = 0, n_backward: float = 0, baseline: str = ""
) -> SaliencyResult:
    """A signed attribution ``(B, C, h, w)`` and the map that it gives.

    The map is the positive part of one channel, and the largest absolute value over several.
    """
    saliency = values.clamp_min(0) if values.shape[1] == 1 else values.abs().amax(dim=1, keepdim=True)
    return SaliencyResult(
        saliency, saliency, values, n_forward=n_forward, n_backward=n_backward, baseline=baseline
    )
