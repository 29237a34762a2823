import math

import pytest
import torch

from verisal.functional.outputs import log_odds


def test_two_classes_give_the_difference_of_the_logits():
    assert log_odds(torch.tensor([[3.0, 1.0], [-1.0, 4.0]])).tolist() == [2.0, 5.0]


def test_equals_the_literal_log_odds_of_the_largest_probability():
    logits = 3 * torch.randn(50, 7, dtype=torch.float64)
    for found, row in zip(log_odds(logits).tolist(), logits.tolist(), strict=True):
        weights = [math.exp(value) for value in row]
        top = max(weights) / sum(weights)
        assert found == pytest.approx(math.log(top / (1 - top)), abs=1e-12)


def test_does_not_saturate_where_the_probability_rounds_to_one():
    logits = torch.tensor([[60.0, 0.0, 0.0], [80.0, 0.0, 0.0]])
    assert logits.softmax(dim=1)[:, 0].tolist() == [1.0, 1.0]
    assert log_odds(logits).tolist() == pytest.approx([60 - math.log(2), 80 - math.log(2)])


def test_ties_and_shifts():
    # Three equal classes: probability a third, odds one to two, whatever is added to all logits.
    assert log_odds(torch.full((1, 3), 9.0)).item() == pytest.approx(-math.log(2))
    logits = torch.randn(4, 5)
    torch.testing.assert_close(log_odds(logits + 7), log_odds(logits), rtol=1e-5, atol=1e-5)
    assert log_odds(torch.zeros(0, 3)).shape == (0,)
