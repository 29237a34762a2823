import math

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.detectors import LearnedConsistency
from verisal.errors import DataError
from verisal.functional.statistics import auroc

_numbers = LearnedConsistency()._numbers


def measured(logits, shifted):
    return {"logits": torch.tensor(logits), "shifted/logits": torch.tensor(shifted)}


def test_the_four_numbers_by_hand():
    # p = (3/4, 1/4), p' = (1/4, 3/4).
    odds = math.log(3)
    (numbers,) = _numbers(measured([[odds, 0.0]], [[0.0, odds]])).tolist()
    # The mean of the squared changes of log p is (log 3)^2 for both classes.
    assert numbers == pytest.approx([odds, -odds, 1.0, 2 * math.log(odds)], abs=1e-6)


def test_an_unchanged_answer_has_no_distance_and_a_finite_logarithm():
    (numbers,) = _numbers(measured([[2.0, 0.0, 0.0]], [[2.0, 0.0, 0.0]])).tolist()
    odds = 2 - math.log(2)
    assert numbers == pytest.approx([odds, odds, 0.0, math.log(1e-8)], abs=1e-5)


def test_adding_a_constant_to_all_logits_changes_nothing():
    rng = torch.Generator().manual_seed(0)
    logits, shifted = torch.randn(2, 6, 5, generator=rng)
    moved = {"logits": logits + 7, "shifted/logits": shifted - 3}
    torch.testing.assert_close(
        _numbers(moved), _numbers({"logits": logits, "shifted/logits": shifted}), rtol=1e-4, atol=1e-4
    )


def planted(count, *, seed):
    """Answers that survive the move on the first half, and turn on the second."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=rng) * 2
    shifted = logits + 0.2 * torch.randn(count, 4, generator=rng)
    turned = torch.arange(count) >= count // 2
    shifted[turned] = logits[turned].flip(1)
    return {"logits": logits, "shifted/logits": shifted}, turned


def test_answers_that_turn_with_the_move_are_told_from_those_that_stay():
    given, turned = planted(80, seed=0)
    detector = LearnedConsistency()
    detector.fit(given, turned, ~turned)
    fresh, turned = planted(60, seed=1)
    scores = detector.judge(fresh)
    assert auroc(scores[turned], scores[~turned]) > 0.97


def test_the_seed_is_not_read():
    given, turned = planted(40, seed=0)
    scores = []
    for seed in (0, 1):
        detector = LearnedConsistency()
        detector.fit(given, turned, ~turned, seed=seed)
        scores.append(detector.judge(given))
    assert scores[0].equal(scores[1])


def test_scores_are_the_same_from_images_and_from_what_was_measured():
    given, turned = planted(40, seed=0)
    detector, classifier, images = LearnedConsistency(), toy_classifier(), toy_images(5)
    detector.fit(given, turned, ~turned)
    both = detector.measurement(classifier, images)
    assert set(both) == {"logits", "shifted/logits"}
    assert detector.score(classifier, images).equal(detector.judge(both))


@pytest.mark.parametrize(("few", "kind"), [(3, "adversarial"), (77, "clean")])
def test_too_few_images_of_a_kind_are_refused(few, kind):
    given, _ = planted(80, seed=0)
    flags = torch.arange(80) < few
    with pytest.raises(DataError, match=f"at least 4 {kind} images to fit, found 3"):
        LearnedConsistency().fit(given, flags, ~flags)
