"""The measures of gate noise on a network whose logits are known at every gate."""

import pytest
import torch

from verisal.callbacks.gate_noise import gate_noise
from verisal.types import StageOutputs

#: Gate to the logits of two classes; 1 is without gates.
LOGITS = {0.0: [0.0, 0.5], 0.5: [3.0, 1.5], 1.0: [2.0, -2.0]}


class Planted:
    """One stage of 4 x 4 cells; the logits hang on the mean of the gate."""

    def stage_outputs(self, images):
        return StageOutputs(self.logits_at(torch.ones(len(images))), (torch.ones(len(images), 1, 4, 4),))

    def gated(self, first, gates):
        return self.logits_at(gates[0].flatten(1).mean(dim=1))

    def logits_at(self, means):
        return torch.tensor([LOGITS[round(float(mean), 6)] for mean in means])


class Half:
    """Gates of one half everywhere."""

    def gates(self, network, images, query):
        return (torch.full((len(images), 1, 4, 4), 0.5),)


def test_excess_is_what_lies_above_both_the_ungated_logit_and_the_one_without_evidence():
    queries = [torch.tensor([0, 0]), torch.tensor([1, 1])]
    rows = gate_noise(Planted(), Half(), torch.rand(2, 3, 8, 8), queries, 1.0)
    change, excess, fall, mirrored = rows[0].view(2, 4).T.tolist()
    # The range of the logits is 4. Class 0: 3 against 2 and 0; class 1: 1.5 against -2 and .5.
    assert change == pytest.approx([1 / 4, 3.5 / 4])
    assert excess == pytest.approx([1 / 4, 1 / 4])
    # A gate that is the same everywhere is its own blur and its own mirror image.
    assert (fall, mirrored) == (pytest.approx([0, 0]), pytest.approx([0, 0]))
    assert rows[1].equal(rows[0])


class Ramp:
    """Gates that fall from left to right."""

    def gates(self, network, images, query):
        return (torch.linspace(1, 0, 4).expand(len(images), 1, 4, 4).clone(),)


class Left(Planted):
    """The logit of class 0 is the gate of the first column."""

    def gated(self, first, gates):
        column = gates[0][:, 0, :, 0].mean(dim=1)
        return torch.stack([column, torch.zeros_like(column)], dim=1)


def test_falls_compare_with_the_blurred_and_the_mirrored_gate():
    (row,) = gate_noise(Left(), Ramp(), torch.rand(1, 3, 8, 8), [torch.tensor([0])], 1.0)
    change, excess, fall, mirrored = row.tolist()
    assert change == pytest.approx((1 - 2) / 4)  # 2 without gates
    assert excess == pytest.approx((1 - 2) / 4)
    assert mirrored == pytest.approx((1 - 0) / 4)
    assert 0.05 < fall < 0.25  # the blurred first column lies between the first two
