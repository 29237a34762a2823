"""Adversarial noise, per sample: norms, projection, 8-bit rounding, noise controls, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.label_sets import label_sets
from verisal.functional.outputs import ask, check_labels, decision, output_of
from verisal.functional.scopes import scoring
from verisal.functional.seeding import per_sample
from verisal.types import Norm


def noise_norm(noise: Tensor, norm: Norm) -> Tensor:
    r"""Norm of each sample's noise over all its values.

    Args:
        noise: ``(B, ...)`` float.
        norm: ``linf`` (largest absolute value) or ``l2`` (root of the sum of squares).

    Returns:
        ``(B,)``.
    """
    flat = noise.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1) if flat.shape[1] else flat.new_zeros(len(flat))
    size: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return size


def project_noise(noise: Tensor, eps: float, norm: Norm) -> Tensor:
    """Nearest noise inside the ball of radius ``eps``; samples inside it stay as they are."""
    if norm == "linf":
        return noise.clamp(-eps, eps)
    size = noise_norm(noise, "l2").view(-1, *[1] * (noise.ndim - 1))
    return noise * (eps / size.clamp_min(1e-12)).clamp_max(1.0)


def round_to_8bit(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, as any stored image is; returns uint8.

    Divide by 255 for the image that a classifier sees.
    """
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def scale_to_l2(images: Tensor, directions: Tensor, norms: Tensor) -> Tensor:
    """Add noise along ``directions`` in whole 8-bit steps, so that its L2 norm *after* clamping is ``norms``.

    Unrounded noise of a small norm would vanish, and that of a large norm shrink at black and white pixels;
    a control made so would be weaker than the attack it is compared with. Whole steps make later rounding
    of an 8-bit image a no-op.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        directions: ``(B, C, H, W)``, any scale.
        norms: ``(B,)`` L2 norms >= 0 to reach, from below: the result is the largest scale whose norm does
            not exceed it. Norms that no change inside [0, 1] along the direction reaches give less.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    shape = (-1, *[1] * (images.ndim - 1))

    def moved(scale: Tensor) -> Tensor:
        steps = (directions * scale.view(shape) * 255).round() / 255
        return (images + steps).clamp(0, 1)

    # The norm never falls as the scale grows, so bisection finds the largest scale within the norm.
    low = torch.zeros_like(norms)
    high = 64 * norms / noise_norm(directions, "l2").clamp_min(1e-12)
    for _ in range(32):
        middle = (low + high) / 2
        inside = noise_norm(moved(middle) - images, "l2") <= norms
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return moved(low)


def near_border(
    model: Callable[[Tensor], Tensor],
    clean: Tensor,
    attacked: Tensor,
    labels: Tensor,
    shares: Tensor,
    *,
    rounds: int = 5,
) -> Tensor:
    r"""Images just over the decision border, between clean images and attacked ones that fool.

    On the straight line from the clean image x to the attacked one x', the least share t that fools is
    bisected, and the image at :math:`t + u\,(1 - t)` is given: u = 0 stands at the border, u = 1 is x'.
    Costs one forward pass a round. Whether the image still fools once it is rounded is to be judged
    afterwards.

    Args:
        model: maps images in [0, 1] to logits ``(B, K)``; put in eval mode meanwhile if it is a module.
        clean: ``(B, C, H, W)`` that the model gets right.
        attacked: like ``clean``, that it gets wrong.
        labels: ``(B,)`` int64 true classes.
        shares: ``(B,)`` u of each image, in [0, 1].
        rounds: of the bisection; the border is found to 1 / 2^rounds of the distance.

    Returns:
        ``(B, C, H, W)`` in [0, 1], not rounded.
    """
    wrong, right = (clean.new_full((len(clean),), value) for value in (1.0, 0.0))
    with scoring(model, clean.device):
        for _ in range(rounds if len(clean) else 0):
            middle = (wrong + right) / 2
            fooled = ask(model, torch.lerp(clean, attacked, _per_image(middle))).argmax(dim=1) != labels
            wrong, right = torch.where(fooled, middle, wrong), torch.where(fooled, right, middle)
    return torch.lerp(clean, attacked, _per_image(wrong + shares * (1 - wrong)))


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def gaussian_noise(images: Tensor, norms: Tensor, *, seed: int, sample_ids: Sequence[object]) -> Tensor:
    """Images with Gaussian noise of given L2 norms: the control that stands beside an L2 attack.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        norms: ``(B,)``, e.g. :attr:`Verdict.l2` of the same images under attack.
        seed: the run's seed.
        sample_ids: one stable name per image; noise depends on seed and name only.

    Returns:
        ``(B, C, H, W)`` in [0, 1]; see :func:`scale_to_l2` for the rounding.

    Raises:
        ConfigError: norms or names that do not fit the images.
    """
    if tuple(norms.shape) != (len(images),) or len(sample_ids) != len(images):
        raise ConfigError(
            f"norms and sample_ids must have one entry per image ({len(images)}),"
            f" found {tuple(norms.shape)} and {len(sample_ids)}"
        )
    if len(images) == 0:
        return images.clone()
    if not bool((norms >= 0).all()):
        raise ConfigError("norms must be >= 0, found a negative or NaN norm")

    def draw(rng: torch.Generator) -> Tensor:
        return torch.randn(images.shape[1:], generator=rng)

    stream, device = "gaussian noise", images.device
    directions = per_sample(draw, seed=seed, sample_ids=sample_ids, stream=stream, device=device)
    return scale_to_l2(images, directions, norms.to(images))


@final
@dataclass(frozen=True)
class Verdict:
    """Effect of an attack once its images are stored with 8 bits.

    Attributes:
        images: ``(B, C, H, W)`` uint8, the attacked images as stored.
        clean_prediction: ``(B,)`` int64, of the clean images as stored. For a classifier with
            ``output: sigmoid`` predictions are decisions: 1 where the label (of one logit: the class) is
            more probable than not, else 0; they are correct as :func:`decision` says. Of sets of labels they
            are 0 where all asked labels are as given, else 1 + the label that is furthest from it.
        prediction: ``(B,)`` int64, of the attacked images as stored.
        clean_correct: ``(B,)`` bool, clean prediction equals the label.
        success: ``(B,)`` bool, clean correct and the attacked prediction differs from the label.
        success_unrounded: ``(B,)`` bool, the same before rounding.
        l2: ``(B,)`` L2 norm of the change between both stored images, in [0, 1] pixel units.
        linf: ``(B,)`` Linf norm of it.
    """

    images: Tensor
    clean_prediction: Tensor
    prediction: Tensor
    clean_correct: Tensor
    success: Tensor
    success_unrounded: Tensor
    l2: Tensor
    linf: Tensor

    __repr__ = brief

    @property
    def success_rate(self) -> float:
        """Share of the correctly classified images that the attack turned, after rounding; NaN if none."""
        return _rate(self.success, self.clean_correct)

    @property
    def success_rate_unrounded(self) -> float:
        """The same before rounding."""
        return _rate(self.success_unrounded, self.clean_correct)


def judge_8bit(
    model: Callable[[Tensor], Tensor],
    clean: Tensor,
    attacked: Tensor,
    labels: Tensor,
    *,
    chunk_size: int = 256,
) -> Verdict:
    """Round clean and attacked images to 8 bits, classify both, and say which attacks survive.

    Args:
        model: maps images in [0, 1] to logits; put in eval mode meanwhile if it is a module.
        clean: ``(B, C, H, W)`` float in [0, 1].
        attacked: like ``clean``.
        labels: ``(B,)`` int64 true labels (not the goal of a targeted attack); for a classifier for several
            labels also ``(B, K)`` 1, 0, and -1 or NaN where a label is not asked: an image is correct where
            all asked labels are.
        chunk_size: images per forward pass.

    Raises:
        DataError: shapes that differ, or attacked images that are not finite.
        NumericError: logits that are not numbers.
        ConfigError: labels beyond the classes.
    """
    if clean.shape != attacked.shape or len(labels) != len(clean):
        raise DataError(
            f"clean and attacked images and labels must fit each other,"
            f" found {tuple(clean.shape)}, {tuple(attacked.shape)} and {tuple(labels.shape)}"
        )
    if labels.ndim > 1:
        labels = label_sets(labels)
    if not bool(attacked.isfinite().all()):
        raise DataError("attacked images hold NaN or infinite values; rounding would hide them")
    clean_8bit, attacked_8bit = round_to_8bit(clean), round_to_8bit(attacked)
    with scoring(model, clean.device):
        clean_prediction, wanted = _predictions(model, clean_8bit, labels, chunk_size)
        prediction, unrounded = (
            _predictions(model, images, labels, chunk_size)[0] for images in (attacked_8bit, attacked)
        )
    correct = clean_prediction == wanted
    change = attacked_8bit.float() / 255 - clean_8bit.float() / 255
    return Verdict(
        images=attacked_8bit,
        clean_prediction=clean_prediction,
        prediction=prediction,
        clean_correct=correct,
        success=correct & (prediction != wanted),
        success_unrounded=correct & (unrounded != wanted),
        l2=noise_norm(change, "l2"),
        linf=noise_norm(change, "linf"),
    )


def _predictions(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Decisions of the classifier, and the right ones: for a sigmoid about the labels, see decision."""
    output, nothing = output_of(model), torch.zeros(0, dtype=torch.int64, device=images.device)
    parts = [(nothing, nothing)]
    for start in range(0, len(images), chunk_size):
        part, asked = images[start : start + chunk_size], labels[start : start + chunk_size]
        logits = ask(model, part.float() / 255 if part.dtype == torch.uint8 else part)
        check_labels(asked, logits.shape[1])
        decided, wanted = decision(logits, asked, output)
        parts.append((decided.argmax(dim=1), wanted))
    predictions, labels_of_them = zip(*parts, strict=True)
    return torch.cat(predictions), torch.cat(labels_of_them)


def _rate(hits: Tensor, among: Tensor) -> float:
    count = int(among.sum())
    return float(hits.sum()) / count if count else float("nan")
