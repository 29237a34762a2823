import math

import pytest
import torch

from verisal.detection.end_to_end import end_to_end, nearest_of_other_class, strongest
from verisal.errors import DataError
from verisal.functional.statistics import Bootstrap

NAN = math.nan
FOOLED = torch.tensor([[True, True, False, False], [True, False, False, True]])
SCORES = torch.tensor([[3.0, -1.0, NAN, -9.0], [2.0, -5.0, 0.0, 4.0]])


def test_strongest_is_the_lowest_score_among_those_that_fool():
    found = strongest(FOOLED, SCORES)
    assert found.attack.tolist() == [1, 0, -1, 1]
    assert found.fooled.tolist() == [True, True, False, True]
    assert found.score[[0, 1, 3]].tolist() == [2.0, -1.0, 4.0]
    assert math.isnan(found.score[2])


def test_ties_go_to_the_first_attack_and_an_infinite_score_is_one():
    found = strongest(
        torch.tensor([[True, False], [True, True]]), torch.tensor([[1.0, 0.0], [1.0, math.inf]])
    )
    assert found.attack.tolist() == [0, 1]
    assert found.score.tolist() == [1.0, math.inf]


def test_a_fooling_image_without_a_score_is_refused():
    scores = SCORES.clone()
    scores[1, 3] = NAN
    with pytest.raises(DataError, match="1 images that fool the classifier have no score"):
        strongest(FOOLED, scores)
    with pytest.raises(DataError, match="has no score"):
        end_to_end(FOOLED[1], scores[1], torch.zeros(4), 0.0, Bootstrap())


def test_shapes_that_differ_are_refused():
    with pytest.raises(DataError, match=r"must both be \(attacks, images\), found \(4,\) and \(4,\)"):
        strongest(FOOLED[0], SCORES[0])
    with pytest.raises(DataError, match="must have one entry per image"):
        end_to_end(FOOLED[0], SCORES[0], torch.zeros(3), 0.0, Bootstrap())


def test_end_to_end_counts_each_image_once():
    fooled = torch.tensor([True, True, True, True, False])
    scores = torch.tensor([5.0, 0.5, 2.0, 2.5, NAN])
    clean = torch.tensor([0.0, 1.0, 3.0, -1.0, 2.5])
    found = end_to_end(fooled, scores, clean, 2.0, Bootstrap(200))
    assert found.fooled.value == pytest.approx(0.8)
    # 5 and 2.5 lie above 2, which itself is no alarm.
    assert (found.detected.value, found.detected.n) == (0.5, 4)
    # Of 16 pairs of attacked and clean scores: 4 + 2 + 3 + 3 are in order.
    assert found.auroc.value == pytest.approx(12 / 16)
    assert found.right_or_rejected.value == pytest.approx(3 / 5)
    assert found.clean_rejected.value == pytest.approx(2 / 5)
    assert found.right_or_rejected.low <= 0.6 <= found.right_or_rejected.high
    assert set(vars(found)) == {"fooled", "detected", "auroc", "right_or_rejected", "clean_rejected"}
    remark = found.remark(4 / 255)
    assert remark.startswith("still right or rejected: 0.600 at eps 4/255.")
    assert "at eps 2/255" in remark


def test_the_worst_case_is_the_mean_of_minima_over_attacks():
    clean, threshold = torch.zeros(4), 2.5
    alone = [end_to_end(f, s, clean, threshold, Bootstrap(0)) for f, s in zip(FOOLED, SCORES, strict=True)]
    assert [row.right_or_rejected.value for row in alone] == [0.75, 0.75]
    worst = strongest(FOOLED, SCORES)
    together = end_to_end(worst.fooled, worst.score, clean, threshold, Bootstrap(0))
    # The first image passes the second attack, the second image the first.
    assert together.right_or_rejected.value == 0.5


def test_nothing_fooled_is_undefined_where_it_is_about_fooling_images():
    nothing = torch.zeros(3, dtype=torch.bool)
    found = end_to_end(nothing, torch.full((3,), NAN), torch.tensor([0.0, 1.0, 2.0]), 5.0, Bootstrap(50))
    assert (found.fooled.value, found.right_or_rejected.value) == (0.0, 1.0)
    assert math.isnan(found.detected.value)
    assert found.detected.n == 0
    assert math.isnan(found.auroc.value)


def test_the_guide_is_the_nearest_image_of_another_class():
    pool = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    index = nearest_of_other_class(
        torch.tensor([[0.1, 0.0], [0.1, 0.0]]), torch.tensor([0, 1]), pool, torch.tensor([0, 1, 2])
    )
    assert index.tolist() == [1, 0]
    with pytest.raises(DataError, match="no image of another class"):
        nearest_of_other_class(pool[:1], torch.tensor([0]), pool, torch.zeros(3, dtype=torch.int64))
