import math

import pytest
import torch

from verisal.detectors import MaxSoftmax


def scores_of(logits):
    return MaxSoftmax().score(lambda images: torch.tensor(logits), torch.zeros(len(logits), 3, 1, 1))


def test_score_is_minus_the_log_odds_of_the_largest_probability():
    # Probabilities 1/2 and 1/4, 1/4: odds one to one. Logits 3 and 0: log odds 3.
    assert scores_of([[math.log(2.0), 0.0, 0.0], [3.0, 0.0, -math.inf]]) == pytest.approx([0.0, -3.0])


def test_order_is_that_of_one_minus_the_probability():
    logits = torch.randn(40, 6, dtype=torch.float64)
    scores = MaxSoftmax().judge({"logits": logits})
    doubt = 1 - logits.softmax(dim=1).amax(dim=1)
    assert scores.argsort().equal(doubt.argsort())


def test_very_confident_predictions_are_told_apart():
    high, higher = scores_of([[50.0, 0.0], [51.0, 0.0]]).tolist()
    assert high - higher == 1.0


def test_confidence_that_is_already_there_gives_the_same_score():
    assert MaxSoftmax.of_confidence(torch.tensor([2.0, -1.0])).tolist() == [-2.0, 1.0]
