"""Maps made from those of another method: one layer of it, a blur of it, and its probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.comparison.smoothness import blur_to_variation, variation_at_equal_mass
from verisal.functional.outputs import ask, output_of, probabilities
from verisal.functional.scopes import gradient_scope
from verisal.saliency._base import Saliency, explaining
from verisal.types import OutputKind, SaliencyResult

__all__ = ["BlurredLike", "OfProbability", "OneLayer"]


@final
@dataclass(frozen=True, kw_only=True)
class OneLayer(Saliency):
    """The raw map of one layer of a hierarchical method, as a method of its own.

    Args:
        base: a method with maps per layer.
        layer: its number, from 0; negative ones count from the last.

    Raises:
        ConfigError: while explaining, a base without such a layer.
    """

    base: Saliency
    layer: int

    needs_module: ClassVar[bool] = True

    def __call__(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, query_class: Tensor
    ) -> SaliencyResult:
        """The layer's map in ``saliency`` and ``raw``."""
        found = self.base(classifier, images, query_class)
        count = len(found.raw_layers)
        if not -count <= self.layer < count:
            raise ConfigError(
                f"OneLayer asks {type(self.base).__name__} for layer {self.layer}, which has {count} layers"
            )
        own = found.raw_layers[self.layer].clamp_min(0)
        return replace(found, saliency=own, raw=own, attribution=None, raw_layers=())


@final
@dataclass(frozen=True, kw_only=True)
class BlurredLike(Saliency):
    """A method's map under the narrowest Gaussian blur that makes it as smooth as another method's map.

    The control for methods that win by being smooth: the same total variation at equal mass, from blur alone.
    A map that is smoother already stays as it is.

    Args:
        base: whose maps are blurred.
        like: whose maps set the smoothness, image by image.
    """

    base: Saliency
    like: Saliency

    needs_module: ClassVar[bool] = True

    def __call__(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, query_class: Tensor
    ) -> SaliencyResult:
        """The blurred map in ``saliency`` and ``raw``."""
        like, found = (method(classifier, images, query_class) for method in (self.like, self.base))
        # Autocast would round the blur to half precision.
        with gradient_scope(images.device.type):
            blurred = blur_to_variation(found.saliency, variation_at_equal_mass(like.saliency))
        return replace(
            found,
            saliency=blurred,
            raw=blurred,
            attribution=None,
            raw_layers=(),
            n_forward=found.n_forward + like.n_forward,
            n_backward=found.n_backward + like.n_backward,
        )


@final
@dataclass(frozen=True, kw_only=True)
class OfProbability(Saliency):
    r"""A method asked about the query's probability where it would be asked about its logit.

    The known case of attribution vanishing: :math:`\partial p_c / \partial z = p_c (e_c - p)` goes to 0 with
    the probability.

    Args:
        base: a method for any callable.

    Raises:
        ConfigError: a base that reads or hooks layers.
    """

    base: Saliency

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.base.needs_module:
            raise ConfigError(
                f"OfProbability needs a method for any callable, and {type(self.base).__name__} reads or"
                " hooks layers; choose Gradient, IntegratedGradients or another one without"
            )

    def __call__(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, query_class: Tensor
    ) -> SaliencyResult:
        """What the base finds for the probability."""
        with explaining(classifier, images, query_class) as (copies, query):
            return self.base(_Probabilities(classifier, output_of(classifier)), copies, query)


@final
@dataclass(frozen=True)
class _Probabilities:
    """Images to the probabilities of all classes, in the place of their logits."""

    classifier: Callable[[Tensor], Tensor]
    output: OutputKind

    def __call__(self, images: Tensor) -> Tensor:
        return probabilities(ask(self.classifier, images), self.output)
