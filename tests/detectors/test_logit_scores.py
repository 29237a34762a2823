import math

import pytest
import torch

from verisal.detectors import LogitMargin, SoftmaxEntropy


def judged(detector, logits):
    return detector.judge({"logits": torch.tensor(logits)}).tolist()


def test_entropy_is_that_of_the_softmax_output_in_logarithms():
    # 1/2, 1/4, 1/4: entropy 1.5 log 2. Uniform over three: log 3.
    found = judged(SoftmaxEntropy(), [[math.log(2.0), 0.0, 0.0], [7.0, 7.0, 7.0]])
    assert found == pytest.approx([math.log(1.5 * math.log(2)), math.log(math.log(3))], abs=1e-6)


def test_entropy_of_a_class_that_is_impossible_has_no_share():
    assert judged(SoftmaxEntropy(), [[0.0, 0.0, -math.inf]]) == pytest.approx([math.log(math.log(2))])


def test_entropies_of_very_confident_predictions_are_told_apart():
    # For odds of exp(x) to one the entropy is about (x + 1) exp(-x), far below what 1 - p can hold.
    first, second = judged(SoftmaxEntropy(), [[100.0, 0.0], [101.0, 0.0]])
    assert first == pytest.approx(math.log(101) - 100, abs=1e-6)
    assert second == pytest.approx(math.log(102) - 101, abs=1e-6)


def test_entropy_has_no_step_where_its_arithmetic_changes():
    odds = torch.tensor([39.999, 40.001], dtype=torch.float64)
    found = SoftmaxEntropy().judge({"logits": torch.stack([odds, torch.zeros(2)], dim=1)})
    assert (found[0] - found[1]).item() == pytest.approx(0.002, rel=0.05)


def test_margin_is_minus_the_difference_of_the_two_largest_logits():
    assert judged(LogitMargin(), [[1.0, 4.0, 3.0], [-5.0, -5.0, -9.0]]) == [-1.0, 0.0]


def test_margin_does_not_look_at_the_other_classes():
    assert judged(LogitMargin(), [[4.0, 3.0, 2.9], [4.0, 3.0, -50.0]]) == pytest.approx([-1.0, -1.0])
