"""Several detectors as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from verisal.detectors.base import Detector
from verisal.detectors.consistency import LogitTrees, ViewConsistency
from verisal.detectors.measurements import Measured, Measurement
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed


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

    source: Measurement = field(init=False, repr=False, compare=False)
    voters: tuple[Detector, ...]

    def __post_init__(self) -> None:
        self.voters = tuple(self.voters)
        if len(self.voters) < 2:
            raise ConfigError(f"a vote needs at least two voters, found {len(self.voters)}")
        read = [voter.measurement.settings() for voter in self.voters]
        if any(settings != read[0] for settings in read):
            raise ConfigError(f"voters must read one measurement, found {read}; give them the same source")
        self.source = self.voters[0].source

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Fit every voter, with a seed of its own."""
        for number, voter in enumerate(self.voters):
            own = derive_seed(seed, "voter", number)
            voter.fit(measured, adversarial, clean, images=images, seed=own)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` mean scores of what all voters read."""
        return torch.stack([voter.judge(measured).double() for voter in self.voters]).mean(dim=0)

    def state_settings(self) -> dict[str, Any]:
        """Those of the voters."""
        return self.settings() | {"voters": [voter.state_settings() for voter in self.voters]}

    def state(self) -> dict[str, Tensor]:
        """The states of all voters, under their numbers."""
        return {
            f"Vote.{number}.{name}": tensor
            for number, voter in enumerate(self.voters)
            for name, tensor in voter.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Give every voter its part."""
        own = self._own(state) if state else {}
        if strange := {name.partition(".")[0] for name in own} - set(map(str, range(len(self.voters)))):
            raise ConfigError(f"this is the state of a vote of {max(map(int, strange)) + 1} voters or more")
        for number, voter in enumerate(self.voters):
            start = f"{number}."
            voter.restore({n.removeprefix(start): t for n, t in own.items() if n.startswith(start)})


def default_detector() -> Vote:
    """What an alarm is fitted with unless another detector is given.

    A regression and boosted trees on the same answers to nine views of an image. On the data sets that we
    measured the one is ahead on some and the other on others; their mean is level with the better one, or
    ahead of both. Gradients pass through the regression alone.
    """
    return Vote(voters=(ViewConsistency(), LogitTrees()))
