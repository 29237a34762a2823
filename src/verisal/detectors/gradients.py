"""Numbers of the gradients by the image: sizes, shape, frequencies, and agreement between two views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.detectors.masks import ranked_quantile, ranked_rows
from verisal.detectors.measurements import Measurement
from verisal.functional.filters import fourier, shift_one_pixel
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import frozen, gradient_scope
from verisal.types import StagedClassifier, check_images

_QUANTILES = (0.5, 0.9, 0.99)
# Keeps logarithms finite: log of the least size of a gradient, per value, of which there is no trace left.
_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class GradientScalars(Measurement):
    """``gradient_scalars (B, 42)``, numbers of gradients by the image in two views, and ``logits (B, K)``.

    The views are the image and the image moved by one pixel to the right and down; the class is the one
    predicted on the image itself, in both. The gradients are that of its logit, and that of its log odds
    ``u``, which is the gradient of the cross-entropy to the prediction divided by minus one less its
    probability; unlike that one it does not vanish where the prediction is sure.

    ================================================================================= =========
    what                                                                              how many
    ================================================================================= =========
    :func:`gradient_statistics` of each gradient in each view                         7 x 2 x 2
    log of one less the probability of the class: with the sizes, those of the
    cross-entropy's gradient                                                          1 x 2
    grey levels to ``u = 0`` along the sign of its gradient, and along the gradient,
    to first order; as sign times log(1 + levels)                                     2 x 2
    cosine of the two gradients of a view                                             1 x 2
    cosine of a gradient in both views, moved back; and share of equal signs          2 x 2
    log ratio of a gradient's L2 norm in both views                                   1 x 2
    ================================================================================= =========

    Two forward and four backward passes.

    References:
        lust2020gran

    Differs from:
        the paper, which reads the norms of the gradients by the weights of every layer.
    """

    needs_stages = False

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Numbers and logits of images ``(B, C, H, W)`` in [0, 1]."""
        check_images(images)
        require_softmax(classifier, "GradientScalars, a measurement for detectors of adversarial images,")
        with frozen(classifier), gradient_scope(images.device.type):
            leaf = images.detach().clone().requires_grad_()
            logits = ask(classifier, leaf)
            predicted = logits.detach().argmax(dim=1, keepdim=True)
            first = _gradients(logits, predicted, leaf)
            moved = shift_one_pixel(leaf.detach()).requires_grad_()
            second = _gradients(ask(classifier, moved), predicted, moved)
        # Moved back, so that what belongs to a pixel of the image stands beside it.
        pairs = [
            (one[..., :-1, :-1], two[..., 1:, 1:]) for one, two in zip(first[1:], second[1:], strict=True)
        ]
        columns = [*_of_view(*first), *_of_view(*second)]
        for one, two in pairs:
            columns += [_cosine(one, two), _equal_signs(one, two)]
        for one, two in zip(first[1:], second[1:], strict=True):
            columns.append(_log_size(one) - _log_size(two))
        return {"gradient_scalars": torch.stack(columns, dim=1), "logits": logits.detach()}


def _gradients(logits: Tensor, predicted: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log odds ``(B,)`` of a class, and the gradients of its logit and of the log odds ``(B, C, H, W)``."""
    chosen = logits.gather(1, predicted)[:, 0]
    odds = chosen - logits.scatter(1, predicted, -torch.inf).logsumexp(dim=1)
    (of_logit,) = torch.autograd.grad(chosen.sum(), leaf, retain_graph=True)
    (of_odds,) = torch.autograd.grad(odds.sum(), leaf)
    return odds.detach(), of_logit, of_odds


def _of_view(odds: Tensor, of_logit: Tensor, of_odds: Tensor) -> list[Tensor]:
    """The numbers of a view."""
    flat = of_odds.flatten(1)
    sizes = (flat.abs().sum(dim=1), flat.norm(dim=1))
    levels = [255 * odds / size.clamp_min(_TINY) for size in sizes]
    return [
        *gradient_statistics(of_logit).unbind(dim=1),
        *gradient_statistics(of_odds).unbind(dim=1),
        F.logsigmoid(-odds),
        *(level.sign() * level.abs().log1p() for level in levels),
        _cosine(of_logit, of_odds),
    ]


def gradient_statistics(gradients: Tensor) -> Tensor:
    """Sizes, frequencies and tails of gradients by the image.

    Args:
        gradients: ``(B, C, H, W)``.

    Returns:
        ``(B, 7)``: log of the mean absolute value, of the root mean square and of the largest absolute value;
        the share of the energy beyond half of the highest frequency, across or down; and the log of the
        quantiles .5, .9 and .99 of absolute values (interpolated) over the root mean square.
    """
    absolute = gradients.flatten(1).abs()
    log_rms = _log_size(gradients)
    sizes = [_log(absolute.mean(dim=1)), log_rms, _log(absolute.amax(dim=1))]
    ranked = ranked_rows(absolute)
    tails = [_log(ranked_quantile(ranked, share)) - log_rms for share in _QUANTILES]
    return torch.stack([*sizes, _high_share(gradients), *tails], dim=1)


def _high_share(gradients: Tensor) -> Tensor:
    height, width = gradients.shape[-2:]
    energy = fourier(gradients).abs().square().sum(dim=1)
    down, across = (torch.fft.fftfreq(side, device=gradients.device).abs() for side in (height, width))
    high = torch.maximum(down[:, None], across) > 0.25
    total = energy.sum(dim=(1, 2))
    share: Tensor = energy[:, high].sum(dim=1) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return share


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    one, two = one.flatten(1).double(), two.flatten(1).double()
    sizes = one.norm(dim=1) * two.norm(dim=1)
    cosine: Tensor = (one * two).sum(dim=1) / sizes.clamp_min(_TINY**2)
    return cosine.float()


def _equal_signs(one: Tensor, two: Tensor) -> Tensor:
    # Of images one pixel high nothing is left beside the moved copy.
    equal = (one.sign() == two.sign()).flatten(1)
    return equal.sum(dim=1) / max(equal.shape[1], 1)


def _log_size(gradients: Tensor) -> Tensor:
    return _log(gradients.flatten(1).square().mean(dim=1).sqrt())


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(_TINY).log()
