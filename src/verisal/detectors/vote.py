"""Several detectors as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed
from verisal.types import Measurement

__all__ = ["Vote"]


@final
@dataclass(kw_only=True)
class Vote(Detector):
    """The mean of the scores of several detectors, each fitted on its own.

    Scores are averaged as they are, so voters should give log odds, as networks and regressions that were
    fitted by cross-entropy do. Fitted apart, one voter cannot learn to leave the work to another: what only
    one of them sees on unfamiliar attacks still counts.

    Args:
        voters: detectors that read the same measurement.

    Raises:
        ConfigError: fewer than two voters, or measurements that differ.
    """

    voters: tuple[Detector, ...]

    def __post_init__(self) -> None:
        self.voters = tuple(self.voters)
        if len(self.voters) < 2:
            raise ConfigError(f"a vote needs at least two voters, found {len(self.voters)}")
        read = [voter.measurement.settings() for voter in self.voters]
        if any(settings != read[0] for settings in read):
            raise ConfigError(f"voters must read one measurement, found {read}; give them the same source")

    @property
    def measurement(self) -> Measurement:
        """What all voters read."""
        return self.voters[0].measurement

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Fit every voter, with a seed of its own.

        Raises:
            DataError: too few images of a kind for some voter.
        """
        for number, voter in enumerate(self.voters):
            voter.fit(measured, adversarial, clean, seed=derive_seed(seed, "voter", number))

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` mean scores of what all voters read."""
        return torch.stack([voter.judge(measured).double() for voter in self.voters]).mean(dim=0)
