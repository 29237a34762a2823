"""Responses, norms and boxes of maps by class rank, worked by hand."""

import math

import pytest
import torch

from verisal.errors import DataError
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ClassRankScores
from verisal.types import SaliencyResult

BOX = torch.tensor([[0.0, 0.0, 2.0, 2.0]])


def maps(corner, elsewhere=0.0, *, moved=False):
    """A 6 x 6 map with a square of 2 x 2 px in the upper left corner, or in the lower right one."""
    values = torch.full((1, 1, 6, 6), float(elsewhere))
    values[..., *((slice(4, 6), slice(4, 6)) if moved else (slice(0, 2), slice(0, 2)))] = corner
    return SaliencyResult(saliency=values, raw=values)


def rows(scores, *results, boxes=(BOX,), valid=None):
    counts = torch.ones(len(results) - 1, 1, dtype=torch.bool) if valid is None else valid
    found = scores.rows_of(results, boxes, valid=counts)
    return dict(zip(scores.table.columns, found[0].tolist(), strict=True))


def test_a_faint_copy_answers_faintly_at_the_same_place():
    found = rows(ClassRankScores(["rank2"], threshold=0.5), maps(4), maps(1))
    assert found["right[c0]"] == 1
    assert found["response[rank2]"] == found["norm[rank2]"] == pytest.approx(0.25)
    assert found["spearman[rank2]"] == pytest.approx(1.0)
    # On its own range its box is right; on the scale of the first map there is none.
    assert (found["false_rel[rank2]"], found["false_abs[rank2]"]) == (1, 0)


def test_a_map_elsewhere_finds_nothing_of_the_first_object():
    found = rows(ClassRankScores(["last"], threshold=0.5), maps(4), maps(4, moved=True))
    assert (found["response[last]"], found["norm[last]"]) == (1, 1)
    assert (found["false_rel[last]"], found["false_abs[last]"]) == (0, 0)
    assert found["spearman[last]"] < 0


def test_an_empty_map_is_an_answer_and_has_no_similarity():
    found = rows(ClassRankScores(["last"], threshold=0.5), maps(4), maps(0))
    assert (found["response[last]"], found["norm[last]"]) == (0, 0)
    assert (found["false_rel[last]"], found["false_abs[last]"]) == (0, 0)
    assert math.isnan(found["spearman[last]"])
    assert math.isnan(found["ssim[last]"])
    # Nothing can be said relative to an empty first map.
    assert math.isnan(rows(ClassRankScores(["last"], threshold=0.5), maps(0), maps(4))["norm[last]"])


def test_what_does_not_count_is_undefined():
    scores = ClassRankScores(["rank2", "last"], threshold=0.5)
    valid = torch.tensor([[False], [True]])
    found = rows(scores, maps(4), maps(1), maps(2), valid=valid)
    assert math.isnan(found["response[rank2]"])
    assert found["response[last]"] == pytest.approx(0.5)
    broken = maps(4)
    broken.raw[0, 0, 3, 3] = math.nan
    assert all(math.isnan(one) for name, one in rows(scores, broken, maps(1), maps(1)).items())


def test_without_box_or_threshold_there_is_nothing_about_boxes():
    for scores, boxes in (
        (ClassRankScores(["last"], threshold=0.5), (torch.empty(0, 4),)),
        (ClassRankScores(["last"]), (BOX,)),
    ):
        found = rows(scores, maps(4), maps(1), boxes=boxes)
        assert found["response[last]"] == pytest.approx(0.25)
        assert all(math.isnan(found[name]) for name in ("right[c0]", "false_rel[last]", "false_abs[last]"))


def test_margins_are_made_image_by_image():
    scores = ClassRankScores(["last"], threshold=0.5)
    valid = torch.ones(1, 1, dtype=torch.bool)
    for name, other in (("a", maps(4)), ("b", maps(4, moved=True))):
        scores.table.update([name], scores.rows_of([maps(4), other], (BOX,), valid=valid))
    image_ids, columns = scores.columns()
    assert image_ids == ("a", "b")
    assert columns["margin_rel[last]"].tolist() == [0, 1]
    assert scores.scores_of(columns, Bootstrap(10))["margin_rel[last]"].value == 0.5


def test_a_result_too_few_is_named():
    with pytest.raises(DataError, match=r"each of \['rank2', 'last'\].*found 2 and 1"):
        rows(ClassRankScores(["rank2", "last"]), maps(1), maps(1))
