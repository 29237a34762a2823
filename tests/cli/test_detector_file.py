"""Every detector in a checkpoint and in an export: the same scores, or a refusal in one sentence."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import pytest
import torch

from helpers.detector_cases import CASES, fitted, toy_classifier, toy_images
from verisal.checkpoint import CARD_KEY, load_export, save_checkpoint, save_export
from verisal.cli import main
from verisal.detection import Alarm
from verisal.detection.detector_file import read_detector
from verisal.detectors import Logits, MaxSoftmax, Measurement
from verisal.detectors.untrained import UntrainedDetector
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash

ROWS = list(CASES)


def run_of(folder, detectors, *, head, supported=True):
    """A run with these fitted detectors, as the task writes it."""
    classifier = toy_classifier()
    card = {
        "task": "detector", "class_names": list(classifier.class_names), "image_size": 12,
        "stages": list(classifier.stages), "classifier": state_hash(classifier), "rows": list(detectors),
        "detectors": {row: detector.state_settings() for row, detector in detectors.items()},
    }  # fmt: skip
    state = {
        f"detectors.{row}.{name}": tensor
        for row, detector in detectors.items()
        for name, tensor in detector.state().items()
    }
    thresholds = torch.arange(2.0 * len(detectors), dtype=torch.float64).view(-1, 2)
    state |= {
        "thresholds": thresholds,
        "supported": torch.tensor([[supported, False]] * len(detectors)),
        "networks.0.weight": torch.zeros(3),
    }
    settings = {"head": head, "detectors": {row: detector.recipe() for row, detector in detectors.items()}}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "abcd", "stage": "fit"}))
    (folder / "config.yaml").write_text("seed_everything: 3\n")
    checkpoint = {"state_dict": state, CARD_KEY: card, "hyper_parameters": settings}
    save_checkpoint(checkpoint, folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """All detectors in one run and its export."""
    folder = tmp_path_factory.mktemp("files")
    detectors = {row: fitted(case) for row, case in CASES.items()}
    run_of(folder / "run", detectors, head="Vote")
    assert main(["export", str(folder / "run"), "--output", str(folder / "out")]) == 0
    return folder, detectors


@pytest.mark.parametrize("kept", ["run", "out"])
@pytest.mark.parametrize("row", ROWS)
def test_scores_of_a_file_are_those_of_the_detector(home, row, kept):
    folder, detectors = home
    images = toy_images(5)
    again = read_detector(folder / kept).detector(row)
    assert again.score(toy_classifier(), images).equal(detectors[row].score(toy_classifier(), images))


def test_alarm_is_that_of_the_head_above_its_threshold(home):
    folder, detectors = home
    alarm = read_detector(folder / "out").alarm(toy_classifier())
    assert alarm.threshold == 2.0 * ROWS.index("Vote")
    scores = detectors["Vote"].score(toy_classifier(), toy_images(4))
    verdicts = alarm(toy_images(4))
    assert verdicts.scores.equal(scores)
    assert verdicts.alarms.equal(scores > alarm.threshold)


def test_an_export_holds_no_networks_in_training_and_names_thresholds(home):
    tensors, card = load_export(home[0] / "out" / "model.safetensors")
    assert not [name for name in tensors if name.startswith("networks.")]
    assert card["thresholds"]["CNNDetector"] == {"FPR 5 %": 2.0 * ROWS.index("CNNDetector"), "FPR 1 %": None}
    assert card["origin"]["run"] == "abcd"


def changed(home, change):
    """The export with something else in it."""
    tensors, card = load_export(home[0] / "out" / "model.safetensors")
    change(tensors, card)
    target = home[0] / "changed" / "model.safetensors"
    save_export(target, tensors, card)
    return read_detector(target.parent)


def test_nothing_that_a_card_names_is_imported(home):
    file = changed(home, lambda _, card: card["settings"]["detectors"]["Vote"].update({"class": "os.system"}))
    with pytest.raises(CheckpointError, match=r"Vote: no detector can be made of .*os.system"):
        file.detector("Vote")


def test_settings_that_are_not_those_of_training_are_refused(home):
    def change(tensors, card):
        card["settings"]["detectors"]["CNNDetector"]["width"] = 8

    with pytest.raises(CheckpointError, match="CNNDetector: the settings beside it make another detector"):
        changed(home, change).detector("CNNDetector")


def test_settings_of_the_training_alone_may_differ(home):
    def change(tensors, card):
        card["settings"]["detectors"]["CNNDetector"]["learning_rate"] = 0.5

    assert changed(home, change).detector("CNNDetector").state()


def test_a_state_of_another_detector_is_refused(home):
    def change(tensors, card):
        for name in [name for name in tensors if name.startswith("detectors.Mahalanobis.")]:
            tensors[name.replace(".Mahalanobis.", ".KernelDensity.", 1)] = tensors.pop(name)

    with pytest.raises(CheckpointError, match="KernelDensity: this is the state of Mahalanobis"):
        changed(home, change).detector("KernelDensity")


def test_a_file_of_an_earlier_version_or_of_another_task_is_refused(home):
    with pytest.raises(CheckpointError, match="of an earlier version, whose detectors were kept otherwise"):
        changed(home, lambda _, card: card["settings"].pop("detectors"))
    with pytest.raises(CheckpointError, match="holds no detector or alarm \\(it is of: masker\\)"):
        changed(home, lambda _, card: card["checkpoint"]["card"].update(task="masker"))


def test_a_head_without_a_threshold_is_refused(tmp_path):
    file = read_detector(run_of(tmp_path / "run", {"max": MaxSoftmax()}, head="max", supported=False))
    with pytest.raises(ConfigError, match="no threshold for FPR 5 %: it was trained with too few clean"):
        file.alarm(toy_classifier())


def test_another_classifier_is_refused(home):
    other = toy_classifier()
    with torch.no_grad():
        other.network.head.bias += 1
    with pytest.raises(CheckpointError, match="other weights; give the one that its run used"):
        read_detector(Path(home[0]) / "out").alarm(other)


@final
@dataclass(kw_only=True)
class Known(UntrainedDetector):
    """Scores that are known beforehand."""

    source: Measurement = field(default_factory=Logits)

    def judge(self, measured):
        return torch.tensor([2.0, math.nan, 0.5])


def test_an_image_without_a_score_has_no_verdict():
    alarm = Alarm(Known(), toy_classifier(), 1.0)
    scores, alarms = alarm(toy_images(3))
    assert alarms.tolist() == [True, False, False]
    assert alarm.words(scores) == (
        "ALARM: looks adversarial, score 2.00 (alarm above 1.00)",
        "NO VERDICT: the detector has no score for this image",
        "no alarm, score 0.50 (alarm above 1.00)",
    )
