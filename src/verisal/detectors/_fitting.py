"""What detectors that learn share: checks of what they are given, patterns of names, logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self, final

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError

__all__ = ["LogisticScore", "distances", "matching", "require_rows", "unfitted"]


def unfitted(detector: object) -> ConfigError:
    """The error of a detector that is asked before it has learned."""
    name = type(detector).__name__
    return ConfigError(f"{name} has learned nothing yet; call fit with measured images before judge or score")


def require_rows(
    detector: object, adversarial: Tensor, clean: Tensor, *, least_clean: int, least_adversarial: int = 0
) -> None:
    """Check that there are enough images of each kind to learn from.

    Raises:
        DataError: too few of a kind, or flags that contradict each other.
    """
    name = type(detector).__name__
    if bool((adversarial & clean).any()):
        raise DataError(
            f"{name}: {int((adversarial & clean).sum())} images are flagged adversarial and clean"
        )
    for kind, flags, least in (
        ("clean", clean, least_clean),
        ("adversarial", adversarial, least_adversarial),
    ):
        if int(flags.sum()) < least:
            raise DataError(
                f"{name} needs at least {least} {kind} images to fit, found {int(flags.sum())} of"
                f" {len(flags)}; fit on more images{' or on attacks that succeed' * (kind != 'clean')}"
            )


def matching(measured: Mapping[str, Tensor], patterns: Sequence[str]) -> list[str]:
    """Names of measured tensors that match the patterns, pattern by pattern, each once.

    Raises:
        ConfigError: a pattern that no name matches.
    """
    found: list[str] = []
    for pattern in patterns:
        names = sorted(name for name in measured if fnmatchcase(name, pattern))
        if not names:
            raise ConfigError(
                f"no measured tensor is named like {pattern!r}; measured are {', '.join(sorted(measured))}"
            )
        found += [name for name in names if name not in found]
    return found


def distances(vectors: Tensor, references: Tensor) -> Tensor:
    """Euclidean distances ``(B, N)`` of ``(B, C)`` to ``(N, C)``, the same whatever else is in the batch."""
    # The faster way by a matrix product loses small distances, and changes with the batch.
    return torch.cdist(vectors, references, compute_mode="donot_use_mm_for_euclid_dist")


@final
@dataclass(frozen=True)
class LogisticScore:
    """A logistic regression on standardised features; its score is the log odds.

    Attributes:
        mean: ``(F,)`` of the fitted rows.
        scale: ``(F,)`` deviation of the fitted rows.
        weight: ``(F,)`` on standardised features.
        bias: scalar.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def fitted(cls, features: Tensor, adversarial: Tensor) -> Self:
        """Learn from ``features (N, F)``; both classes weigh the same. The optimum is unique: no seed."""
        # Imported here: it takes as long as everything else of this room together.
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        scaled = scaler.fit_transform(features.double().cpu().numpy())
        model = LogisticRegression(class_weight="balanced", max_iter=2000)
        model.fit(scaled, adversarial.cpu().numpy())
        parts = (scaler.mean_, scaler.scale_, model.coef_[0], model.intercept_[0])
        return cls(*(torch.as_tensor(part, dtype=torch.float64, device=features.device) for part in parts))

    def __call__(self, features: Tensor) -> Tensor:
        """Log odds ``(B,)`` float64 of ``features (B, F)``."""
        return ((features.double() - self.mean) / self.scale * self.weight).sum(dim=1) + self.bias
