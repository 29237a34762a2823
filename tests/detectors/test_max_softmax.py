import math

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.detectors import DetectorFeatures, MaxSoftmax, ShiftConsistency
from verisal.saliency import HierarchicalMasks


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


def test_scores_of_one_shared_measurement_are_those_of_their_own():
    masks = HierarchicalMasks(objective="evidence", reg_weight=1.0, steps=1, learning_rate=1.0)
    source = DetectorFeatures(saliency=masks, queries=("prediction",), views=("original", "shifted"))
    classifier, images = toy_classifier(), toy_images(4)
    measured = source(classifier, images)
    assert MaxSoftmax(source=source).judge(measured).equal(-measured["confidence"])
    assert ShiftConsistency(source=source).judge(measured).equal(measured["shift_distance"])
    for make in (MaxSoftmax, ShiftConsistency):
        own = make().score(classifier, images)
        torch.testing.assert_close(make(source=source).judge(measured), own, rtol=1e-4, atol=1e-5)
