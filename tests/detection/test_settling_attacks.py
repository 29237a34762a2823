"""Adaptive attacks that go on with more steps until their outcome has settled."""

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from helpers.tiny_transfer import rows, study
from verisal.detection.adaptive import AdaptiveSuite, Attacked, adaptive_scores, attack_defence
from verisal.detectors import MaxSoftmax
from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap
from verisal.tasks import TransferTask

EPS = 96 / 255


def suite(**settings):
    return AdaptiveSuite(
        **{"eps": (EPS,), "steps": 1, "restarts": 1, "weights": (1.0,), "matching": False} | settings
    )


def target(threshold):
    classifier = toy_classifier()
    images = toy_images(24)
    labels = classifier(images).argmax(dim=1)
    return Attacked(MaxSoftmax(), classifier, threshold, (images * 255).round().byte()), images, labels


def attacked(made, threshold, **shown):
    defence, images, labels = target(threshold)
    attacks = made.attacks(EPS)
    name = "selective" if made.settle is None else "all"
    bytes_ = (images * 255).round().byte()
    return attack_defence(
        attacks[name],
        made,
        defence,
        images=bytes_,
        labels=labels,
        image_ids=list(map(str, range(24))),
        seed=0,
        **shown,
    )


def past(found, threshold):
    return found["fooled"] & (found["score"] <= threshold)


@pytest.fixture(scope="module")
def threshold():
    found = attacked(suite(steps=16), None)
    return found["score"][found["fooled"]].median().item()


def test_one_try_says_nothing_of_settling(threshold):
    found = attacked(suite(), None)
    assert (found["steps"] == 1).all()
    assert found["settled"].all()
    # Wanted, but without a threshold nobody knows what is past the alarm.
    assert not attacked(suite(settle=0.1), None)["settled"].any()


def test_steps_are_doubled_for_those_that_are_left_until_nothing_moves(threshold):
    one = attacked(suite(), threshold)
    more = attacked(suite(settle=0.02, doublings=6), threshold)
    assert past(more, threshold).sum() > past(one, threshold).sum()
    assert (past(more, threshold) | ~past(one, threshold)).all()
    assert set(more["steps"].tolist()) <= {2**power for power in range(7)}
    # Those that were past it at once were not attacked again.
    assert (more["steps"][past(one, threshold)] <= more["steps"].max() // 2).all()
    assert more["settled"].unique().numel() == 1


def test_what_had_not_settled_is_said(threshold):
    cut_off = attacked(suite(settle=1e-9, doublings=1), threshold)
    assert not cut_off["settled"].any()
    scores = torch.linspace(-3, 3, 24, dtype=torch.float64)
    for found, said in ((cut_off, True), (attacked(suite(), threshold), False)):
        _, notes = adaptive_scores(
            {("logits", EPS, "all"): found}, scores, threshold, row="alarm", bootstrap=Bootstrap(20)
        )
        assert any("had not settled" in note for note in notes) == said


def test_a_study_attacks_the_rows_that_a_suite_names(tmp_path):
    own = suite(rows=("max_softmax",), settle=0.1, doublings=1, eps=(8 / 255,))
    module = study(tmp_path, adaptive={"logits": own}, adaptive_images=4, seeds=1)
    scores = module.evaluation.scores
    assert scores["test/max_softmax/adaptive_right_or_rejected/eps_8"].n == 4
    assert not [name for name in scores if "consistency/adaptive" in str(name)]


def test_a_row_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"adaptive\.logits\.rows names masks; the rows are consistency"):
        TransferTask(detectors=rows(), head="consistency", adaptive={"logits": suite(rows=("masks",))})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"eps": ()}, "radii above 0"), ({"settle": 0.0}, "settle"), ({"doublings": -1}, "doublings")],
)
def test_settings_out_of_range_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        suite(**wrong)


def test_a_long_attack_says_in_a_log_what_it_is_at(threshold, monkeypatch, capsys):
    monkeypatch.setattr("verisal.progress.shown._SECONDS_BETWEEN_LINES", 0.0)
    attacked(suite(), threshold)
    assert capsys.readouterr().err == ""
    attacked(suite(steps=4), threshold, doing="attacks that know max_softmax")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "attacks that know max_softmax, selective, 4 steps, 24 images"
    assert len(lines) >= 4
