"""Rules of the study of detection on masks, on evaluations made by hand."""

import pytest

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies import ReliableDetection, page_text

CONTROLS = ("activations", "raw_residuals")
RIVALS = ("mahalanobis", "shift_consistency")
ROWS = ("masks", "masks_unmoved", *CONTROLS, *RIVALS)


def study():
    return ReliableDetection(
        commands=["verisal test --config x.yaml"], setting={"images": "few"}, controls=CONTROLS
    )


def around(value, half=0.01):
    return Score(value, value - half, value + half, n=40)


def made(*, unmoved=0.95, masks=0.97, ahead=None, lacking=()):
    areas = {"masks": masks, "masks_unmoved": unmoved}
    scores = {}
    for row in ROWS:
        for column in ("mean_seen", "mean_unseen", "worst_unseen"):
            scores[f"test/{row}/auroc/{column}"] = around(areas.get(row, 0.8))
        scores[f"test/{row}/fpr/clean"] = around(0.05)
        if row != "masks":
            gap = (ahead or {}).get(row, 0.1)
            scores[f"test/masks_minus_{row}/difference/mean_unseen"] = around(gap)
    return Evaluation(
        "test",
        {key: one for key, one in scores.items() if key not in lacking},
        counts={"clean": 40},
        # One line per image, as detectors give them, and none per score.
        samples={"image_id": ["a", "b"], "group": ["clean", "fgsm"], **{row: [0.0, 1.0] for row in ROWS}},
    )


def verdicts(**settings):
    return [one.verdict for one in study().result(made(**settings)).findings]


def test_every_claim_can_hold_and_fail():
    assert verdicts() == ["holds"] * 4
    behind = dict.fromkeys(ROWS, -0.1)
    assert verdicts(unmoved=0.7, masks=0.7, ahead=behind) == ["does not hold here"] * 4


def test_one_that_keeps_up_leaves_part_of_a_claim():
    assert verdicts(ahead={"shift_consistency": 0.005}) == ["holds", "holds", "holds", "holds in part"]
    assert verdicts(ahead={"activations": -0.02}) == ["holds", "holds", "holds in part", "holds"]


def test_an_interval_over_the_limit_is_not_enough():
    assert verdicts(unmoved=0.905)[1] == "does not hold here"


def test_who_is_ahead_is_said():
    found = study().result(made(ahead={"shift_consistency": -0.05, "mahalanobis": 0.3}))
    rivals = found.findings[3]
    assert "ahead of 1 of 2, behind `shift_consistency`" in rivals.evidence
    assert "-0.050 [-0.060, -0.040]" in rivals.evidence
    assert "ahead of 4 of 5 other detectors, behind 1" in found.summary


def test_the_page_is_the_same_each_time():
    first, again = (page_text(study().result(made()), "x") for _ in range(2))
    assert first == again
    assert "| `masks` | 0.970 [0.960, 0.980] |" in first


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("test/masks_unmoved/auroc/mean_unseen", "detector 'masks_unmoved', which the evaluation lacks"),
        ("test/masks_minus_mahalanobis/difference/mean_unseen", "is 'masks' the head"),
        ("test/masks/auroc/worst_unseen", "auroc/worst_unseen"),
    ],
)
def test_a_missing_score_is_named(lacking, words):
    with pytest.raises(ConfigError, match=words):
        study().result(made(lacking=[lacking]))


def test_it_needs_controls():
    with pytest.raises(ConfigError, match="compares masks with controls"):
        ReliableDetection(commands=["x"], setting={}, controls=())
