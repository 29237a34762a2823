"""Base of all attacks: checks, purity, seeding, chunks and the final verdict happen here, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from verisal.attacks._victim import ImageToLogits, Victim
from verisal.errors import ConfigError, NumericError
from verisal.fingerprint import Configured
from verisal.functional.adversarial import noise_norm
from verisal.functional.scopes import frozen, gradient_scope, images_at_once, rng_preserved
from verisal.functional.seeding import per_sample
from verisal.types import AttackResult, Norm, check_images


#: Slack of the budget and of the range [0, 1], for other orders of float operations.
SLACK = 1e-6

#: ``draw(one, stream=name)``: one tensor per sample of the chunk, made by ``one(cpu_generator)``.
Draw = Callable[..., Tensor]


class Attack(Configured, ABC):
    """Changes images so that a classifier errs; concrete attacks are frozen dataclasses of plain settings.

    Attributes:
        norm: norm that bounds or measures the attack's noise.
        targeted: True if ``y`` is the class to reach rather than the true label to leave.
    """

    targeted: bool = False

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """Norm in which the attack bounds or minimises its noise."""

    @abstractmethod
    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        """Attacked images ``(B, 3, H, W)`` in [0, 1] of one non-empty chunk.

        Called with gradients enabled, autocast off and the classifier frozen. All randomness must come
        from ``draw``, and every sample must be treated as if it were alone.
        """

    @final
    def __call__(
        self,
        model: ImageToLogits,
        x01: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        sample_ids: Sequence[object] | None = None,
        chunk_size: int = 64,
    ) -> AttackResult:
        """Attack every image of a batch.

        A sample's result depends on the image, its label, its id and the generator's *initial seed* only:
        not on batch mates, batch size, order, the generator's position or the global random state. The
        classifier is put in eval mode and frozen meanwhile, and left exactly as it was, on errors too.
        Works inside ``no_grad``, ``inference_mode`` and autocast; always computes in float32.

        Args:
            model: maps images in [0, 1] to logits ``(B, K)``; any callable, best an ``nn.Module`` (modes
                of a network hidden inside another callable are the caller's business).
            x01: ``(B, 3, H, W)`` float32 in [0, 1].
            y: ``(B,)`` int64, the true label; the class to reach where ``targeted``. Images that the
                classifier already gets wrong are attacked like any other and count as successes here;
                :func:`.judge_8bit` leaves them out. For a classifier that says ``output:
                sigmoid`` the attack is on the decision about the label alone, at a probability of 0.5: with
                several logits the label is the class that is present (``targeted``: to be made present);
                with one logit it is 0 or 1.
            generator: its initial seed seeds all draws.
            sample_ids: one stable name per image; positions 0..B-1 by default.
            chunk_size: images per pass, fewer above 128 x 128 pixels; changes memory and speed, never the
                result (up to float order).

        Returns:
            Attacked images and per-sample bookkeeping, on the device of ``x01``. An unsuccessful sample
            holds the attack's last or best iterate and ``success`` False.

        Raises:
            DataError: images of another shape, dtype or range.
            ConfigError: labels, ids or classifier that do not fit the images.
            NumericError: logits or attacked images that are not finite, or attacked images that leave [0, 1]
                or the budget.
        """
        check_images(x01)
        ids: Sequence[object] = range(len(x01)) if sample_ids is None else sample_ids
        _check_call(x01, y, ids, chunk_size)
        seed = generator.initial_seed()
        results = []
        with ExitStack() as scopes:
            scopes.enter_context(rng_preserved(x01.device))
            if isinstance(model, nn.Module):
                scopes.enter_context(frozen(model))
            scopes.enter_context(gradient_scope(x01.device.type))
            at_once = images_at_once(chunk_size, x01)
            for start in range(0, len(x01), at_once):
                part = slice(start, start + at_once)
                draw = partial(per_sample, seed=seed, sample_ids=ids[part], device=x01.device)
                # Clones, since tensors made under inference mode cannot enter a graph.
                images, labels = x01[part].detach().clone(), y[part].detach().clone().to(x01.device)
                results.append(self._attack_chunk(model, images, labels, draw))
        return _joined(results, x01)

    def _attack_chunk(self, model: ImageToLogits, images: Tensor, labels: Tensor, draw: Draw) -> AttackResult:
        victim = Victim(model, labels, targeted=self.targeted, image=images[:1])
        x_adv = self._perturb(victim, images, draw=draw).detach()
        norms = self._checked_norms(x_adv, images)
        rows = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            logits = victim.logits(x_adv, rows)
        return AttackResult(
            x_adv=x_adv,
            success=victim.reached(logits, rows),
            norms=norms,
            n_fwd=victim.n_fwd,
            n_bwd=victim.n_bwd,
        )

    def _checked_norms(self, x_adv: Tensor, images: Tensor) -> Tensor:
        """Size of the noise per image, of images that are finite, in [0, 1] and within the budget ``eps``."""
        name, count = type(self).__name__, len(images)
        if x_adv.shape != images.shape:
            raise ConfigError(
                f"{name}: attacked images must be {tuple(images.shape)}, found {tuple(x_adv.shape)}"
            )
        values = x_adv.flatten(1)
        broken = ~values.isfinite().all(dim=1)
        if bool(broken.any()):
            raise NumericError(
                f"{name}: attacked images are not finite for {int(broken.sum())} of {count} images; check the"
                " classifier's weights and its normalisation"
            )
        outside = (values.amin(dim=1) < -SLACK) | (values.amax(dim=1) > 1 + SLACK)
        if bool(outside.any()):
            raise NumericError(
                f"{name}: attacked images must lie in [0, 1], found values from {float(values.min()):.4g} to"
                f" {float(values.max()):.4g} in {int(outside.sum())} of {count} images"
            )
        norms = noise_norm(x_adv - images, self.norm)
        # By its name: every attack with a budget calls it so.
        eps = vars(self).get("eps")
        if eps is not None and bool((norms > eps + SLACK * (1 + 10 * eps)).any()):
            raise NumericError(
                f"{name}: noise of {self.norm} norm {float(norms.max()):.6g} found, eps {eps:.6g} allowed"
            )
        return norms


def require(condition: bool, key: str, found: object, expected: str) -> None:
    """Raise :class:`ConfigError` about setting ``key`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key} must be {expected}, found {found!r}")


def _check_call(images: Tensor, labels: Tensor, ids: Sequence[object], chunk_size: int) -> None:
    count = len(images)
    if tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        raise ConfigError(
            f"y must be ({count},) int64, one class per image, found {tuple(labels.shape)} {labels.dtype}"
        )
    if count and int(labels.min()) < 0:
        raise ConfigError(f"y must not be negative, found {int(labels.min())}")
    if len(ids) != count:
        raise ConfigError(f"sample_ids must name all {count} images, found {len(ids)} names")
    require(chunk_size >= 1, "chunk_size", chunk_size, "at least 1")


def _joined(results: Sequence[AttackResult], images: Tensor) -> AttackResult:
    if not results:
        counts = torch.zeros(0, dtype=torch.int64, device=images.device)
        norms = torch.zeros(0, device=images.device)
        return AttackResult(images.detach().clone(), counts.bool(), norms, counts, counts.clone())
    return AttackResult(
        x_adv=torch.cat([result.x_adv for result in results]),
        success=torch.cat([result.success for result in results]),
        norms=torch.cat([result.norms for result in results]),
        n_fwd=torch.cat([result.n_fwd for result in results]),
        n_bwd=torch.cat([result.n_bwd for result in results]),
    )
