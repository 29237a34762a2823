"""A guard in the place of its classifier, and what of it can be exported."""

import subprocess
import sys

import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.attacks import FGSM
from verisal.detection import Alarm, Guard
from verisal.detectors import (
    Flipped,
    LearnedConsistency,
    LogitTrees,
    Mahalanobis,
    MaxSoftmax,
    MeanFiltered,
    MedianFiltered,
    Moved,
    Scaled,
    ViewConsistency,
    ViewLogits,
    Vote,
)
from verisal.errors import ConfigError, DataError
from verisal.functional.outputs import ask
from verisal.saliency import EvidenceMasks, Gradient

VIEWS = ViewLogits(views=(Moved(1, 0), Flipped(), MeanFiltered(3), MedianFiltered(3), Scaled(0.5)))
DETECTORS = {
    "learned_consistency": LearnedConsistency(),
    "view_consistency": ViewConsistency(source=VIEWS),
    "default_views": ViewConsistency(),
    "logit_trees": LogitTrees(source=VIEWS, trees=20, ranks=3),
    "vote": Vote(voters=(ViewConsistency(source=VIEWS), LogitTrees(source=VIEWS, trees=20, ranks=3))),
    "max_softmax": MaxSoftmax(),
    "mahalanobis": Mahalanobis(),
}
ONE_PASS = [name for name in DETECTORS if name != "mahalanobis"]


@pytest.fixture(scope="module")
def problem():
    classifier, images = toy_classifier(), toy_images(240)
    with torch.no_grad():
        return classifier, images, ask(classifier, images).argmax(dim=1)


@pytest.fixture(scope="module")
def alarms(problem):
    return {
        name: Alarm.fit(*problem, detector=detector, attacks=[FGSM(0.1)], false_alarms=0.1, progress=False)
        for name, detector in DETECTORS.items()
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_it_says_what_classifier_and_alarm_say(problem, alarms, name):
    classifier, images, _ = problem
    logits, scores, rings = Guard(classifier, alarms[name])(images[:32])
    with torch.no_grad():
        torch.testing.assert_close(logits, ask(classifier, images[:32]), rtol=1e-5, atol=1e-5)
    literal = alarms[name](images[:32])
    torch.testing.assert_close(scores.double(), literal.scores.double(), rtol=1e-3, atol=1e-4)
    sure = (literal.scores - alarms[name].threshold).abs() > 1e-3
    assert rings[sure].equal(literal.alarms[sure])
    assert not logits.requires_grad


def test_all_views_go_through_the_network_in_one_batch(problem, alarms):
    classifier, images, _ = problem
    guard, passes = Guard(classifier, alarms["view_consistency"]), []
    handle = classifier.network.register_forward_hook(lambda *given: passes.append(len(given[2])))
    try:
        answer = guard(images[:8])
    finally:
        handle.remove()
    assert passes == [48]
    assert answer.logits.shape == (8, 5)
    assert guard(images[:0]).scores.shape == (0,)


def test_it_is_made_of_files_and_of_an_alarm_alone(problem, alarms, tmp_path):
    classifier, images, _ = problem
    alarm = alarms["learned_consistency"]
    alarm.save(tmp_path / "alarm.safetensors")
    fresh = Guard(None, alarm)(images[:8])
    stored = Guard(classifier, tmp_path / "alarm.safetensors")(images[:8])
    assert stored.scores.equal(fresh.scores)
    with pytest.raises(ConfigError, match="holds no classifier; give Guard the one"):
        Guard(None, tmp_path / "alarm.safetensors")
    with pytest.raises(DataError):
        Guard(classifier, alarm)(images[0])


def test_the_map_is_that_of_the_predicted_class(problem, alarms):
    classifier, images, labels = problem
    guard = Guard(classifier, alarms["learned_consistency"])
    shown = guard.where(images[:4])
    assert shown.shape == (4, 1, *images.shape[-2:])
    assert shown.equal(EvidenceMasks()(classifier, images[:4], labels[:4]).saliency)
    other = Guard(classifier, alarms["learned_consistency"], saliency=Gradient())
    assert other.where(images[:4]).equal(Gradient()(classifier, images[:4], labels[:4]).saliency)


@pytest.mark.parametrize("name", ["learned_consistency", "view_consistency", "logit_trees", "vote"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_same_as_an_onnx_file(problem, alarms, tmp_path, name):
    runtime = pytest.importorskip("onnxruntime", reason="install verisal[onnx] and onnxruntime")
    classifier, images, _ = problem
    guard = Guard(classifier, alarms[name])
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(
        guard.one_pass(), (images[:4],), dynamo=True, dynamic_shapes=(batch,), verbose=False
    )
    program.save(tmp_path / "guard.onnx")
    session = runtime.InferenceSession(tmp_path / "guard.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        logits, scores, rings = session.run(None, {session.get_inputs()[0].name: images[:count].numpy()})
        expected = guard(images[:count])
        torch.testing.assert_close(torch.tensor(logits), expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(scores).double(), expected.scores.double(), rtol=0, atol=1e-4)
        sure = (expected.scores - guard.alarm.threshold).abs() > 1e-3
        assert torch.tensor(rings)[sure].equal(expected.alarms[sure])


LOADED = """
import sys
import torch
program = torch.export.load(sys.argv[1]).module()
images, logits, scores, alarms = torch.load(sys.argv[2])
for count in (1, 3, len(images)):
    found = program(images[:count])
    for own, expected in zip(found[:2], (logits, scores), strict=True):
        torch.testing.assert_close(own.double(), expected[:count].double(), rtol=0, atol=1e-4)
    assert found[2].dtype == torch.bool
assert not [name for name in sys.modules if name.startswith("verisal")]
print("equal")
"""


@pytest.mark.parametrize("name", ONE_PASS)
@pytest.mark.slow
def test_an_exported_guard_gives_the_same_without_this_package(problem, alarms, tmp_path, name):
    classifier, images, _ = problem
    guard = Guard(classifier, alarms[name])
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(guard.one_pass(), (images[:4],), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "guard.pt2")
    torch.save((images[:16], *guard(images[:16])), tmp_path / "expected.pt")
    files = [str(tmp_path / "guard.pt2"), str(tmp_path / "expected.pt")]
    command = [sys.executable, "-c", LOADED, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.strip() == "equal", done.stderr


def test_an_alarm_that_reads_stages_is_not_exported(problem, alarms):
    with pytest.raises(ConfigError, match="Mahalanobis on PooledActivations asks the classifier for more"):
        Guard(problem[0], alarms["mahalanobis"]).one_pass()
