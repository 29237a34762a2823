"""The classifier under attack: logits, image gradients and losses in float32, passes counted per sample."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError, NumericError
from verisal.functional.adversarial import noise_norm
from verisal.functional.label_sets import set_cross_entropy
from verisal.functional.outputs import (
    NO_GRADIENT,
    ask,
    check_labels,
    check_logits,
    decision,
    name_of,
    output_of,
    require_classes,
    sound_logits,
)

ImageToLogits = Callable[[Tensor], Tensor]
LossName = Literal["ce", "dlr", "margin"]

# Keeps the ratio finite where the logits are all equal.
_TINY = 1e-12
_ROUNDING = 1e-3
_PROBABILITIES = (
    "the classifier's rows lie in [0, 1] and sum to 1: they are probabilities, not logits, and a softmax that"
    " is nearly sure leaves an attack hardly any gradient, so that the classifier looks more robust than it"
    " is; remove the softmax from its forward"
)


@final
class Victim:
    """Answers of the classifier that an attack may ask for, about the samples of one chunk.

    Every method is told the ``rows``, which samples of the chunk its images belong to, so that finished
    samples can be left out and the passes are still counted for the right ones.

    Logits and gradients must be finite. To look means to wait for the device, once for all that came since:
    every method does so but where it is told ``later``, when :meth:`left` or :meth:`verify` does.

    Args:
        model: maps ``(n, C, H, W)`` in [0, 1] to logits ``(n, K)``.
        labels: ``(B,)`` int64, true label, or goal class where ``targeted``; sets of labels ``(B, K)`` 1, 0
            and -1 for a classifier for several.
        targeted: True if the prediction is to become ``labels`` rather than to leave them.
        image: ``(1, C, H, W)``, needed where the classifier says ``output: sigmoid`` and asked about once
            then, uncounted: how many logits there are decides what the labels mean.

    Attributes:
        rows: ``(B,)`` int64, all samples of the chunk.
        num_classes: that the attack chooses among; 0 until logits were asked for.
        labels: ``(B,)`` as given; for a classifier with ``output: sigmoid`` the decision about each label or
            set of labels (see :func:`.decision`), which is all that the attack sees: two logits, and labels 0
            and 1; of sets one logit for each label and one for all, and labels 0.
    """

    def __init__(
        self, model: ImageToLogits, labels: Tensor, *, targeted: bool, image: Tensor | None = None
    ) -> None:
        self.targeted = targeted
        self.rows = torch.arange(len(labels), device=labels.device)
        self.n_fwd = torch.zeros_like(self.rows)
        self.n_bwd = torch.zeros_like(self.rows)
        self._model = model
        self._output = output_of(model)
        self._given, self.labels = labels, labels
        self.num_classes = 0
        self._scale_known = False
        self._due: list[tuple[Tensor, Callable[[], object]]] = []
        self.looks = 0
        """How often anything that is due was looked at."""
        require_classes(model, "an attack", instead="attack the classifier without the target")
        if self._output == "sigmoid":
            if image is None:
                raise ConfigError("output: sigmoid needs an image that tells the number of logits")
            with torch.no_grad():
                logits = ask(model, image)
            self._check(logits)
            _, self.labels = decision(logits.expand(len(labels), -1), labels, self._output)

    def logits(self, images: Tensor, rows: Tensor, *, later: bool = False) -> Tensor:
        """Logits ``(n, K)`` float32 of ``images (n, C, H, W)``."""
        logits = self._asked(images, rows)
        self.n_fwd[rows] += 1
        if not later:
            self.verify()
        return logits

    def uncounted(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits as of :meth:`logits`, for passes that are counted otherwise."""
        logits = self._asked(images, rows)
        self.verify()
        return logits

    def due(self, sound: Tensor, refuse: Callable[[], object]) -> None:
        """Look at ``sound ()`` when the others are looked at, and call ``refuse``, which raises, if false."""
        self._due.append((sound, refuse))

    def verify(self) -> None:
        """Raise if anything that came since the last look is not sound; the first of it."""
        self.left(self.rows[:0].bool())

    def left(self, mask: Tensor) -> Tensor:
        """Places of the true ones of ``mask (n,)`` int64, in order; looks at what is due at the same time.

        Raises:
            NumericError: logits or gradients that are not finite.
        """
        due, self._due = self._due, []
        if not len(mask) and not due:
            return self.rows[:0]
        self.looks += 1
        # One copy to the processor, however many there are.
        answers = torch.cat([mask, *(sound.view(1) for sound, _ in due)]).tolist()
        for sound, (_, refuse) in zip(answers[len(mask) :], due, strict=True):
            if not sound:
                refuse()
        places = [place for place, true in enumerate(answers[: len(mask)]) if true]
        return torch.tensor(places, dtype=torch.int64, device=mask.device)

    def _asked(self, images: Tensor, rows: Tensor) -> Tensor:
        answer = ask(self._model, images, allow_nan=True)
        self.due(sound_logits(answer), partial(check_logits, answer.detach(), name_of(self._model)))
        logits = answer.float()
        if not self.num_classes:
            self.verify()
            self._check(logits)
        if self._output == "softmax":
            return logits
        return decision(logits, self._labels_of(images, rows, logits.shape[1]), self._output)[0]

    def gradient(
        self,
        images: Tensor,
        rows: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        later: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and one backward pass.

        Args:
            images: ``(n, C, H, W)``.
            rows: ``(n,)`` int64.
            loss: maps logits ``(n, K)`` and labels ``(n,)`` to one loss per sample ``(n,)``.
            later: do not look at logits and gradient now; what is not finite is 0 then.

        Returns:
            Loss per sample ``(n,)``, its gradient ``(n, C, H, W)`` and the logits ``(n, K)``, all detached.

        Raises:
            ConfigError: the logits do not depend on the image in a differentiable way.
        """
        leaf = images.detach().requires_grad_()
        logits = self._climbed(leaf, rows)
        losses = loss(logits, self.labels[rows])
        # The sum keeps samples apart: no term of one sample depends on another.
        gradient = self._slope(losses, leaf)
        self.n_bwd[rows] += 1
        if not later:
            self.verify()
        return losses.detach(), gradient, logits.detach()

    def gradients(
        self, images: Tensor, rows: Tensor, losses: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One forward pass and one backward pass for each of several losses, computed as they are taken.

        Nothing is looked at; what is not finite is 0.

        Args:
            images: ``(n, C, H, W)``.
            rows: ``(n,)`` int64.
            losses: maps logits ``(n, K)`` to ``L`` losses per sample ``(n, L)``.

        Yields:
            For each loss, its values ``(n,)`` and their gradient ``(n, C, H, W)``, detached.
        """
        leaf = images.detach().requires_grad_()
        columns = losses(self._climbed(leaf, rows)).unbind(dim=1)
        for index, column in enumerate(columns, start=1):
            gradient = self._slope(column, leaf, again=index < len(columns))
            self.n_bwd[rows] += 1
            yield column.detach(), gradient

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        """``(n,)`` bool: the prediction is the goal class, or, untargeted, is no longer the label.

        Of sets of labels: all asked labels are decided as given, or, untargeted, any of them is not.
        """
        hit = logits.argmax(dim=1) == self.labels[rows]
        return hit if self.targeted else ~hit

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy per sample ``(n,)``; of sets of labels the mean binary one of the asked labels."""
        return set_cross_entropy(logits) if self._given.ndim > 1 else cross_entropy(logits, labels)

    def rising_loss(self, name: LossName) -> Callable[[Tensor, Tensor], Tensor]:
        """Loss ``(n,)`` of logits and labels that an attack maximises, see :func:`rising_loss`."""
        if name == "dlr" and self._given.ndim > 1:
            raise ConfigError(
                "the dlr loss divides by a difference of classes that exclude each other, and labels (B, K)"
                " are each decided by themselves; use loss: margin"
            )
        return rising_loss(name, targeted=self.targeted, entropy=self.cross_entropy)

    def _climbed(self, leaf: Tensor, rows: Tensor) -> Tensor:
        logits = self.logits(leaf, rows, later=True)
        if not self._scale_known:
            _warn_of_probabilities(logits)
            self._scale_known = True
        return logits

    def _slope(self, losses: Tensor, leaf: Tensor, *, again: bool = False) -> Tensor:
        # Logits may be in the graph of parameters and not in that of the image.
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=again, allow_unused=True)
        if gradient is None:
            raise ConfigError(NO_GRADIENT)
        return self.sound(gradient.detach(), "loss")

    def sound(self, gradient: Tensor, what: str) -> Tensor:
        """The gradient ``(n, C, H, W)`` of something, looked at with the others; 0 where it is not finite."""
        finite = gradient.isfinite()
        self.due(finite.all(), partial(_refuse, gradient, what))
        # An iterate that is no image would let the next pass fail with another error.
        return gradient.where(finite, 0)

    def _check(self, logits: Tensor) -> None:
        check_labels(self._given, logits.shape[1])
        self.num_classes = logits.shape[1] if self._output == "softmax" else 2

    def _labels_of(self, images: Tensor, rows: Tensor, classes: int) -> Tensor:
        """Label or set of labels that is attacked, for each image; one logit alone needs none."""
        if classes == 1 and self._given.ndim == 1:
            return self._given.new_zeros(len(images))
        if len(rows) == len(images):
            return self._given[rows]
        raise ConfigError(
            f"with output: sigmoid and {classes} labels it must be known to which sample each of the"
            f" {len(images)} images belongs that are asked about at once; set calls: per_image"
        )


def _refuse(gradient: Tensor, what: str) -> None:
    broken = ~gradient.flatten(1).isfinite().all(dim=1)
    raise NumericError(
        f"the gradient of the {what} is not finite for {int(broken.sum())} of {len(gradient)} images;"
        " look for roots, logarithms or divisions at 0 in the classifier, or for infinite logits,"
        " and take another loss or label"
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per sample ``(n,)``."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(
    logits: Tensor, labels: Tensor, *, targeted: bool, largest: Callable[[Tensor, int], Tensor] = torch.amax
) -> Tensor:
    """Best other logit minus the label's; targeted: the goal's logit minus the best other.

    ``largest`` reduces the other logits along a dimension; ``torch.logsumexp`` is a smooth maximum.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    # -inf and not 0: the other logits may all be negative.
    other = largest(logits.scatter(1, labels[:, None], -torch.inf), 1)
    return own - other if targeted else other - own


def rising_loss(
    name: LossName, *, targeted: bool, entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy
) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss ``(n,)`` of logits ``(n, K)`` and labels ``(n,)`` that an attack maximises.

    ``ce`` is the cross-entropy ``entropy``, ``margin`` see :func:`margin`, ``dlr`` the margin divided by the
    difference of the largest and the third largest logit (targeted: the mean of the third and the fourth),
    which makes it independent of the logits' scale. Targeted, the cross-entropy is that of the goal, negated.

    References:
        croce2020
    """
    if name == "ce":
        sign = -1.0 if targeted else 1.0
        return lambda logits, labels: sign * entropy(logits, labels)
    return partial(margin if name == "margin" else _dlr, targeted=targeted)


def dlr_classes(*, targeted: bool) -> int:
    """Number of classes that the dlr loss needs."""
    return 4 if targeted else 3


def _dlr(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    needed = dlr_classes(targeted=targeted)
    if logits.shape[1] < needed:
        raise ConfigError(
            f"the {'targeted ' if targeted else ''}dlr loss needs a classifier of at least {needed} classes,"
            f" found {logits.shape[1]}; use loss: margin"
        )
    top = logits.topk(needed, dim=1).values
    width = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 0] - top[:, 2]
    return margin(logits, labels, targeted=targeted) / (width + _TINY)


def unit(vectors: Tensor) -> Tensor:
    """Each sample at length 1, however small its values; exactly zero stays zero."""
    shape = (-1, *[1] * (vectors.ndim - 1))
    largest = noise_norm(vectors, "linf").view(shape)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    length = noise_norm(scaled, "l2").view(shape)
    return scaled / torch.where(length > 0, length, 1)


def wide(values: Tensor) -> Tensor:
    """``(n,)`` as ``(n, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)


def _warn_of_probabilities(logits: Tensor) -> None:
    """Warn where every row lies in [0, 1] and sums to 1: a softmax is inside the network.

    Shown once in a process, not at every batch, unless a filter says otherwise. Rows that are all exactly 0
    and 1 may as well be the logits of a network made by hand, and pass.
    """
    rows = logits.detach()
    probabilities = (rows >= 0) & (rows <= 1 + _ROUNDING)
    sums = (rows.sum(dim=1) - 1).abs() <= _ROUNDING
    if bool(probabilities.all() & sums.all() & ((rows > 0) & (rows < 1)).any()):
        filtered = any(
            module is None
            and issubclass(UserWarning, category)
            and (words is None or re.match(words, _PROBABILITIES))
            for _, words, category, module, _ in warnings.filters
        )
        if filtered:
            warnings.warn(_PROBABILITIES, stacklevel=2)
        else:
            _warn_once()


@cache
def _warn_once() -> None:
    """Warn once in a process: Python's own once lasts until any code touches a filter."""
    warnings.warn(_PROBABILITIES, stacklevel=3)
