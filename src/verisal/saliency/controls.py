"""Controls: maps that know nothing of the classifier, and maps derived from those of another method.

A score says something only beside theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError
from verisal.functional.comparison.smoothness import blur_to_variation, variation_at_equal_mass
from verisal.functional.outputs import ask, output_of, probabilities
from verisal.functional.scopes import gradient_scope
from verisal.functional.seeding import content_ids, per_sample
from verisal.saliency._base import Saliency, check_some_images, explaining
from verisal.types import AnyClassifier, OutputKind, SaliencyResult, StagedClassifier, check_query_class


@final
@dataclass(frozen=True, kw_only=True)
class RandomMap(Saliency):
    """Independent values from U(0, 1), drawn by seed and content of the image; the query is ignored.

    Args:
        seed: of the draws. Another seed gives every image another map.
    """

    seed: int = 0

    asks_classifier = False

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """One draw per image in ``saliency`` and ``raw``; the classifier is not called."""
        _check(classifier, images, query_class)
        shape = (1, *images.shape[-2:])
        saliency = per_sample(
            lambda generator: torch.rand(shape, generator=generator),
            seed=self.seed,
            sample_ids=content_ids(images),
            stream="random map",
            device=images.device,
        )
        return SaliencyResult(saliency, saliency)


@final
@dataclass(frozen=True, kw_only=True)
class CentrePrior(Saliency):
    r"""An isotropic Gaussian at the image's centre, the same for every image and query.

    :math:`S = \exp(-r^2 / 2 \sigma^2)` with :math:`\sigma = \min(H, W) / 4` and *r* the distance in pixels
    from the centre.
    """

    asks_classifier = False

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The Gaussian in ``saliency`` and ``raw``; the classifier is not called."""
        _check(classifier, images, query_class)
        height, width = images.shape[-2:]
        spread = 2 * (min(height, width) / 4) ** 2
        rows, columns = (
            (-((torch.arange(length, device=images.device) - (length - 1) / 2) ** 2) / spread).exp()
            for length in (height, width)
        )
        saliency = (rows[:, None] * columns).expand(len(images), 1, -1, -1).clone()
        return SaliencyResult(saliency, saliency)


# Of red, green and blue.
_LUMA = (0.299, 0.587, 0.114)


@final
@dataclass(frozen=True, kw_only=True)
class EdgeDetector(Saliency):
    r"""Sobel's gradient magnitude of the luminance, which any map that traces edges resembles.

    :math:`S = \sqrt{g_x^2 + g_y^2}` with the 3 x 3 Sobel kernels divided by 8, so that *g* is the change of
    luminance per pixel. Luminance is :math:`0.299 R + 0.587 G + 0.114 B` of three channels, and the mean of
    any other number; border pixels are repeated outwards.

    References:
        adebayo2018
    """

    asks_classifier = False

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The magnitude in ``saliency`` and ``raw``; the classifier is not called."""
        _check(classifier, images, query_class)
        count = images.shape[1]
        weights = images.new_tensor(_LUMA if count == 3 else [1 / count] * count).view(1, -1, 1, 1)
        # Sums of slices, not a convolution: autocast would round that to half precision.
        padded = F.pad((images.detach() * weights).sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        across = padded[..., 2:] - padded[..., :-2]
        down = padded[..., 2:, :] - padded[..., :-2, :]
        g_x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
        g_y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
        saliency = torch.hypot(g_x, g_y) / 8
        return SaliencyResult(saliency, saliency)


@final
@dataclass(frozen=True, kw_only=True)
class PixelResidual(Saliency):
    r"""Largest difference over channels of a pixel from the mean of its neighbourhood: what looks like noise.

    :math:`S = \max_c |x_c - \bar x_c|` with the mean over a square of ``side`` pixels, border pixels repeated
    outwards. Beside maps that are to find a patch: grainy ones are found without any network.

    Args:
        side: of the square, odd and at least 3.

    Raises:
        ConfigError: another side.
    """

    side: int = 3

    asks_classifier = False

    def __post_init__(self) -> None:
        if self.side < 3 or self.side % 2 == 0:
            raise ConfigError(f"PixelResidual.side must be odd and at least 3, found {self.side}")

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The residual in ``saliency`` and ``raw``; the classifier is not called."""
        _check(classifier, images, query_class)
        images = images.detach()
        padded = F.pad(images, (self.side // 2,) * 4, mode="replicate")
        # Pooling is no convolution: autocast leaves it in float32.
        residual = images - F.avg_pool2d(padded, self.side, stride=1)
        saliency = residual.abs().amax(dim=1, keepdim=True)
        return SaliencyResult(saliency, saliency)


def _check(classifier: object, images: Tensor, query_class: Tensor) -> None:
    """Refuse what every method refuses; a bare callable does not say how many classes it has."""
    check_some_images(images)
    if isinstance(classifier, StagedClassifier):
        classifier.note_size(images)
        check_query_class(query_class, len(images), classifier.num_classes)
        return
    if tuple(query_class.shape) != (len(images),) or query_class.dtype != torch.int64:
        raise ConfigError(
            f"query class must be ({len(images)},) int64, one class per image,"
            f" found {tuple(query_class.shape)} {query_class.dtype}"
        )
    if bool((query_class < 0).any()):
        raise ConfigError(f"query class must not be negative, found {int(query_class.min())}")


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

    needs_module = True

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The layer's map in ``saliency`` and ``raw``."""
        result = self.base(classifier, images, query_class)
        count = len(result.raw_layers)
        if not -count <= self.layer < count:
            raise ConfigError(
                f"OneLayer asks {type(self.base).__name__} for layer {self.layer}, which has {count} layers"
            )
        own = result.raw_layers[self.layer].clamp_min(0)
        return replace(result, saliency=own, raw=own, attribution=None, raw_layers=())


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

    needs_module = True

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The blurred map in ``saliency`` and ``raw``."""
        like, base = (method(classifier, images, query_class) for method in (self.like, self.base))
        # Autocast would round the blur to half precision.
        with gradient_scope(images.device.type):
            blurred = blur_to_variation(base.saliency, variation_at_equal_mass(like.saliency))
        return replace(
            base,
            saliency=blurred,
            raw=blurred,
            attribution=None,
            raw_layers=(),
            n_forward=base.n_forward + like.n_forward,
            n_backward=base.n_backward + like.n_backward,
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

    def __post_init__(self) -> None:
        if self.base.needs_module:
            raise ConfigError(
                f"OfProbability needs a method for any callable, and {type(self.base).__name__} reads or"
                " hooks layers; choose Gradient, IntegratedGradients or another one without"
            )

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The base's result for the probability."""
        with explaining(classifier, images, query_class) as (copies, query):
            return self.base(_Probabilities(classifier, output_of(classifier)), copies, query)


@final
@dataclass(frozen=True)
class _Probabilities:
    """Images to the probabilities of all classes, in the place of their logits."""

    classifier: AnyClassifier
    output: OutputKind

    def __call__(self, images: Tensor) -> Tensor:
        return probabilities(ask(self.classifier, images), self.output)
