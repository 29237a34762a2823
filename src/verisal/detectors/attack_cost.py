"""How many small steps it takes to change the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.functional.scopes import frozen, gradient_scope
from verisal.types import Measurement, StagedClassifier, check_images

__all__ = ["AttackCost", "StepsToFlip"]


@final
@dataclass(frozen=True, kw_only=True)
class StepsToFlip(Measurement):
    r"""``steps (B,)``: gradient-sign steps until the prediction changes, with a fraction.

    From the image, without a random start,

    .. math:: x_{t+1} = \mathrm{clip}_{[0,1]}(x_t - \alpha\,\mathrm{sign}\,\nabla m(x_t)), \qquad
              m = f_c - \max_{k \ne c} f_k

    with *c* the class predicted on the image itself. The crossing is interpolated between the last margin
    above 0 and the first that is not. Where none of ``max_steps`` steps changes the prediction, the value is
    ``max_steps`` and what is left of the margin as ``m / (1 + m)``, so that no two images tie.

    Costs at most ``max_steps + 1`` forward and ``max_steps`` backward passes; images that are done take part
    in no further pass.

    Args:
        step: length of a step, in [0, 1] pixel units.
        max_steps: most steps.

    Raises:
        ConfigError: settings out of range.
    """

    step: float = 0.25 / 255
    max_steps: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1 or self.max_steps < 1:
            raise ConfigError(
                "StepsToFlip needs a step in (0, 1], such as 0.001 for a quarter of a grey level, and"
                f" max_steps of at least 1; found step={self.step}, max_steps={self.max_steps}"
            )

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Steps for images ``(B, 3, H, W)`` in [0, 1]."""
        check_images(images)
        with frozen(classifier), gradient_scope(images.device.type):
            current = images.detach().clone()
            with torch.no_grad():
                logits = ask(classifier, current)
            own = logits.argmax(dim=1)
            before = _margin(logits, own)
            steps = self.max_steps + before / (1 + before)
            rows = torch.arange(len(images), device=images.device)
            for step in range(self.max_steps):
                if len(rows) == 0:
                    break
                current, after = self._stepped(classifier, current, own)
                crossed = after <= 0
                # A margin that was 0 from the start is a tie, and costs nothing.
                share = before / (before - after).clamp_min(torch.finfo(before.dtype).tiny)
                steps[rows] = torch.where(crossed, step + share, self.max_steps + after / (1 + after))
                rows, current, own, before = (part[~crossed] for part in (rows, current, own, after))
        return {"steps": steps}

    def _stepped(self, classifier: StagedClassifier, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.requires_grad_()
        (gradient,) = torch.autograd.grad(_margin(ask(classifier, leaf), own).sum(), leaf)
        with torch.no_grad():
            moved = (images - self.step * gradient.sign()).clamp(0, 1)
            return moved, _margin(ask(classifier, moved), own)


@final
@dataclass(kw_only=True)
class AttackCost(Detector):
    """Scores an image by minus the number of steps that change its prediction.

    An adversarial image was stopped just beyond the border, so that little brings it back.

    Args:
        step: length of a step, in [0, 1] pixel units.
        max_steps: most steps.

    Raises:
        ConfigError: settings out of range.

    References:
        zhao2021attack

    Differs from:
        - One attack, whose steps follow the margin rather than the cross-entropy, which goes flat for
          confident predictions; the paper compares several attacks.
        - The crossing is interpolated, so that the score is continuous; it needs no fitting.
    """

    step: float = 0.25 / 255
    max_steps: int = 40

    def __post_init__(self) -> None:
        # Made here once, so that settings are refused before anything is measured.
        _ = self.measurement

    @property
    def measurement(self) -> Measurement:
        """The number of steps."""
        return StepsToFlip(step=self.step, max_steps=self.max_steps)

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """The score has no parameters; nothing is read."""

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores from ``steps (B,)``."""
        return -measured["steps"]


def _margin(logits: Tensor, own: Tensor) -> Tensor:
    """Logit of each image's own class minus the largest other one."""
    others = logits.scatter(1, own[:, None], -torch.inf).amax(dim=1)
    return logits.gather(1, own[:, None])[:, 0] - others
