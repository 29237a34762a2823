"""The classifier under attack: logits and image gradients in float32, every pass counted per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.attacks._scale import warn_of_probabilities
from verisal.errors import ConfigError

__all__ = ["ImageToLogits", "Victim", "cross_entropy"]

ImageToLogits = Callable[[Tensor], Tensor]


@final
class Victim:
    """What an attack may ask about the classifier, for the samples of one chunk.

    ``rows`` says which samples of the chunk a batch holds, so that finished samples can be left out and
    the passes are still counted for the right ones.

    Args:
        model: maps ``(n, 3, H, W)`` in [0, 1] to logits ``(n, K)``.
        labels: ``(B,)`` int64, true label, or goal class where ``targeted``.
        targeted: whether the attack wants the prediction to become ``labels`` rather than to leave it.
    """

    def __init__(self, model: ImageToLogits, labels: Tensor, *, targeted: bool) -> None:
        self.labels = labels
        self.targeted = targeted
        self.n_fwd = torch.zeros_like(labels)
        self.n_bwd = torch.zeros_like(labels)
        self._model = model
        self._num_classes: int | None = None
        self._scale_known = False

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits ``(n, K)`` float32 of ``images (n, 3, H, W)``, which belong to samples ``rows (n,)``."""
        logits = self._model(images)
        if self._num_classes is None:
            self._num_classes = self._checked_classes(logits, len(images))
        self.n_fwd[rows] += 1
        return logits.float()

    def gradient(
        self, images: Tensor, rows: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and one backward pass.

        Args:
            images: ``(n, 3, H, W)``.
            rows: ``(n,)`` int64, the samples of the chunk that the images belong to.
            loss: maps logits ``(n, K)`` and labels ``(n,)`` to one loss per sample ``(n,)``.

        Returns:
            Loss per sample ``(n,)``, its gradient ``(n, 3, H, W)`` and the logits ``(n, K)``, all detached.

        Raises:
            ConfigError: the logits do not depend on the image in a differentiable way.
        """
        leaf = images.detach().requires_grad_()
        logits = self._climbed(leaf, rows)
        losses = loss(logits, self.labels[rows])
        _require_graph(losses)
        # The sum keeps samples apart: no term of one sample depends on another.
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        self.n_bwd[rows] += 1
        return losses.detach(), gradient.detach(), logits.detach()

    def gradients(
        self, images: Tensor, rows: Tensor, losses: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One forward pass and one backward pass for each of several losses, computed as they are taken.

        Args:
            images: ``(n, 3, H, W)``.
            rows: ``(n,)`` int64, the samples of the chunk that the images belong to.
            losses: maps logits ``(n, K)`` to ``L`` losses per sample ``(n, L)``.

        Yields:
            For each loss, its values ``(n,)`` and their gradient ``(n, 3, H, W)``, detached.

        Raises:
            ConfigError: the logits do not depend on the image in a differentiable way.
        """
        leaf = images.detach().requires_grad_()
        columns = losses(self._climbed(leaf, rows)).unbind(dim=1)
        for index, column in enumerate(columns, start=1):
            _require_graph(column)
            (gradient,) = torch.autograd.grad(column.sum(), leaf, retain_graph=index < len(columns))
            self.n_bwd[rows] += 1
            yield column.detach(), gradient.detach()

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        """``(n,)`` bool: the prediction is the goal class, or, untargeted, is no longer the label."""
        hit = logits.argmax(dim=1) == self.labels[rows]
        return hit if self.targeted else ~hit

    def _climbed(self, leaf: Tensor, rows: Tensor) -> Tensor:
        logits = self.logits(leaf, rows)
        if not self._scale_known:
            warn_of_probabilities(logits)
            self._scale_known = True
        return logits

    def _checked_classes(self, logits: Tensor, batch: int) -> int:
        if logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 2:
            raise ConfigError(
                f"the classifier must map {batch} images to logits ({batch}, K) with K >= 2,"
                f" found {tuple(logits.shape)}"
            )
        classes = logits.shape[1]
        if int(self.labels.max()) >= classes:
            raise ConfigError(
                f"labels must lie in 0..{classes - 1}, as the classifier has {classes} classes,"
                f" found {int(self.labels.max())}"
            )
        return classes


def _require_graph(losses: Tensor) -> None:
    if not losses.requires_grad:
        raise ConfigError(
            "the classifier's logits carry no gradient to the image, which this attack needs;"
            " remove no_grad, detach and conversions to numpy from the classifier's forward"
        )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per sample ``(n,)``."""
    return F.cross_entropy(logits, labels, reduction="none")
