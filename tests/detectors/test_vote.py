from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import pytest
import torch
from torch import Tensor

from verisal.detectors import (
    CNNDetector,
    Detector,
    LogitMargin,
    Logits,
    MaxSoftmax,
    Measurement,
    Pixels,
    ShiftConsistency,
    Vote,
)
from verisal.errors import ConfigError


@final
@dataclass(kw_only=True)
class Remembers(Detector):
    """Scores the first logit times a factor, and remembers how it was fitted."""

    source: Measurement = field(default_factory=Logits)
    factor: float = 1.0
    given: list[tuple[int, int, int]] = field(init=False, default_factory=list, repr=False, compare=False)

    def fit(
        self,
        measured: Mapping[str, Tensor],
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.given.append((int(adversarial.sum()), int(clean.sum()), seed))

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        return measured["logits"][:, 0] * self.factor


def test_score_is_the_plain_mean_of_the_voters():
    vote = Vote(voters=(Remembers(factor=1.0), Remembers(factor=-4.0), Remembers(factor=0.0)))
    scores = vote.judge({"logits": torch.tensor([[2.0, 9.0], [-1.0, 9.0]])})
    assert scores.tolist() == [-2.0, 1.0]
    assert scores.dtype == torch.float64


def test_two_rules_on_logits_by_hand():
    # Of two classes the log odds are the margin: both voters say minus 3.
    scores = Vote(voters=(MaxSoftmax(), LogitMargin())).judge({"logits": torch.tensor([[3.0, 0.0]])})
    assert scores.tolist() == pytest.approx([-3.0])


def test_every_voter_is_fitted_on_the_same_rows_with_a_seed_of_its_own():
    voters = (Remembers(), Remembers())
    vote = Vote(voters=voters)
    for seed in (0, 1):
        flags = torch.arange(5) < 2, torch.arange(5) > 3
        vote.fit({"logits": torch.zeros(5, 2)}, *flags, seed=seed)
    assert all([given[:2] for given in voter.given] == [(2, 1)] * 2 for voter in voters)
    assert len({given[2] for voter in voters for given in voter.given}) == 4


def test_gradients_pass_through_to_every_voter():
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    Vote(voters=(Remembers(factor=1.0), Remembers(factor=3.0))).judge({"logits": logits}).sum().backward()
    assert logits.grad.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("voters", [(), (MaxSoftmax(),)])
def test_fewer_than_two_voters_are_refused(voters):
    with pytest.raises(ConfigError, match=f"at least two voters, found {len(voters)}"):
        Vote(voters=voters)


def test_voters_that_read_different_measurements_are_refused():
    with pytest.raises(ConfigError, match="must read one measurement"):
        Vote(voters=(MaxSoftmax(), ShiftConsistency()))


def test_one_voter_not_fitted_says_so():
    network = CNNDetector(source=Pixels(), reads=("image",))
    vote = Vote(voters=(network, CNNDetector(source=Pixels(), reads=("image",), grid=8)))
    with pytest.raises(ConfigError, match="learned nothing yet"):
        vote.judge({"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})
