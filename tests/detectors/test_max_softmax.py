import math

import pytest
import torch

from verisal.detectors import MaxSoftmax


def scores_of(logits):
    return MaxSoftmax(lambda images: torch.tensor(logits)).score(torch.zeros(len(logits), 3, 1, 1))


def test_score_is_minus_the_log_odds_of_the_largest_probability():
    # Probabilities 1/2 and 1/4, 1/4: odds one to one. Logits 3 and 0: log odds 3.
    assert scores_of([[math.log(2.0), 0.0, 0.0], [3.0, 0.0, -math.inf]]) == pytest.approx([0.0, -3.0])


def test_order_is_that_of_one_minus_the_probability():
    logits = torch.randn(40, 6, dtype=torch.float64)
    scores = MaxSoftmax(lambda images: logits).score(torch.zeros(40, 3, 1, 1))
    doubt = 1 - logits.softmax(dim=1).amax(dim=1)
    assert scores.argsort().equal(doubt.argsort())


def test_very_confident_predictions_are_told_apart():
    high, higher = scores_of([[50.0, 0.0], [51.0, 0.0]]).tolist()
    assert high - higher == 1.0


def test_confidence_that_is_already_there_gives_the_same_score():
    assert MaxSoftmax.of_confidence(torch.tensor([2.0, -1.0])).tolist() == [-2.0, 1.0]


def test_fitting_changes_nothing():
    detector = MaxSoftmax(lambda images: images[:, :, 0, 0])
    images = torch.rand(4, 3, 2, 2)
    before = detector.score(images)
    detector.fit(images, torch.tensor([True, False, True, False]))
    assert detector.score(images).equal(before)
