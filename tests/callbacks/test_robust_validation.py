"""Accuracy and alarms under attack on a stranger's module: exact numbers, names, and training left alone."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.strangers import (
    MEAN,
    STD,
    Compose,
    Normalize,
    Pictures,
    Stranger,
    TinyNet,
    loader,
    trainer,
)
from verisal.attacks import FGSM, PGD, DeepFoolL2
from verisal.callbacks import RobustValidation
from verisal.cli import main
from verisal.detection import Alarm, load_alarm
from verisal.detectors import Mahalanobis, MaxSoftmax
from verisal.errors import ConfigError
from verisal.functional.adversarial import round_to_8bit
from verisal.models import Classifier

COUNT = 24


def faint(count=COUNT, *, seed=3, transform=None):
    """Pictures so faint that noise of 8 / 255 matters."""
    data = Pictures(count, seed=seed, transform=transform)
    data.images = 0.5 + 0.12 * (data.images - 0.5)
    return data


def normalised(count=COUNT, *, seed=3):
    return faint(count, seed=seed, transform=Compose([Normalize()]))


@pytest.fixture(scope="module")
def trained():
    """Weights of a module that has learned the task well enough that attacks matter."""
    module = Stranger(lr=0.02)
    torch.manual_seed(0)
    trainer(max_epochs=6).fit(module, loader(normalised(48, seed=1), batch_size=8), loader(normalised(4)))
    return module.state_dict()


def stranger(weights):
    module = Stranger()
    module.load_state_dict(weights)
    return module


def classifier_of(module):
    return Classifier(module.net, normalization=(MEAN, STD))


def validated(weights, *callbacks, data=None, batch_size=4, **settings):
    run = trainer(*callbacks, **settings)
    run.validate(stranger(weights), loader(data or normalised(COUNT), batch_size=batch_size), verbose=False)
    return run.callback_metrics


@pytest.fixture(scope="module")
def alarm(trained):
    images = faint(400, seed=8)
    classifier = classifier_of(stranger(trained).eval())
    given = images.images, torch.tensor(images.labels)
    return Alarm.fit(classifier, *given, detector=MaxSoftmax(), attacks=[FGSM(0.1)], false_alarms=0.1)


def test_numbers_are_those_of_the_attacks_themselves(trained, alarm):
    callback = RobustValidation(alarm=alarm)
    logged = validated(trained, callback)
    data, classifier = normalised(COUNT), classifier_of(stranger(trained).eval())
    images, labels = data.images, torch.tensor(data.labels)

    def predicted(images):
        with torch.no_grad():
            return classifier(images).argmax(dim=1)

    right = predicted(images) == labels
    assert 0.5 < right.float().mean() <= 1
    assert logged["val/robust/clean/accuracy"] == right.float().mean()
    rung = alarm(round_to_8bit(images[right]) / 255).alarms.float().mean()
    assert logged["val/robust/clean/alarms"] == pytest.approx(float(rung))
    for name, attack in (("fgsm", FGSM(8 / 255)), ("pgd", PGD(8 / 255, steps=10, step=2 / 255))):
        attacked = attack(classifier, images, labels).images
        accuracy = (right & (predicted(attacked) == labels)).float().mean()
        assert logged[f"val/robust/{name}/accuracy"] == pytest.approx(float(accuracy))
        assert accuracy < right.float().mean()
        stored = round_to_8bit(attacked) / 255
        rung = alarm(stored[right & (predicted(stored) != labels)]).alarms.float().mean()
        assert logged[f"val/robust/{name}/alarms"] == pytest.approx(float(rung))
        score = callback.evaluation.scores[f"val/{name}/robust/accuracy"]
        assert score.n == COUNT
        assert 0 <= score.low <= score.value <= score.high <= 1
    assert not any("fitted" in note for note in callback.evaluation.notes)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_change_nothing(trained, batch_size):
    expected, found = (
        validated(trained, RobustValidation([PGD(0.06, restarts=2)]), batch_size=size)
        for size in (4, batch_size)
    )
    assert found == expected


def test_names_are_known_before_and_typed():
    callback = RobustValidation({"mine": FGSM(0.1)})
    assert callback.names() == ("val/robust/clean/accuracy", "val/robust/mine/accuracy")
    assert RobustValidation([DeepFoolL2()]).names("test")[1] == "test/robust/deep_fool_l2/accuracy"


def test_names_with_an_alarm_are_those_that_are_logged(trained, alarm):
    callback = RobustValidation(alarm=alarm)
    logged = validated(trained, callback)
    assert [name for name in logged if name.startswith("val/robust/")] == list(callback.names())
    evaluation = callback.evaluation
    assert evaluation.logged["val/pgd/robust/alarms"] == "val/robust/pgd/alarms"
    assert evaluation.logged_scores["val/robust/pgd/alarms"] is evaluation.scores["val/pgd/robust/alarms"]
    assert list(evaluation.logged_scores) == list(callback.names())


def test_a_fit_can_keep_the_most_robust_weights_and_trains_as_without(tmp_path):
    def fitted(*callbacks, **settings):
        torch.manual_seed(0)
        module = Stranger(lr=0.02)
        run = trainer(*callbacks, max_epochs=3, default_root_dir=tmp_path, **settings)
        run.fit(module, loader(normalised(16, seed=1)), loader(normalised()))
        return module.state_dict(), run

    plain, _ = fitted()
    best = ModelCheckpoint(monitor="val/robust/pgd/accuracy", mode="max", dirpath=tmp_path)
    callback = RobustValidation([PGD(4 / 255)])
    watched, run = fitted(callback, best, enable_checkpointing=True)
    assert all(torch.equal(weights, watched[name]) for name, weights in plain.items())
    assert best.best_model_score is not None
    assert best.best_model_score >= run.callback_metrics["val/robust/pgd/accuracy"]
    assert callback.affordable >= 8
    assert "val/explaining/share" in run.callback_metrics


def test_pictures_show_attacked_images_and_their_noise(trained):
    callback = RobustValidation(pictures=3)
    validated(trained, callback)
    panels = callback.evaluation.panels
    assert [panel.image_id.split()[1] for panel in panels] == ["fgsm", "pgd"] * 3
    clean = dict(zip(*names_and_images(callback), strict=True))
    for panel in panels:
        assert torch.equal(panel.image, clean[panel.image_id.split()[0]])
        noise = panel.maps["attacked"] - panel.image
        assert torch.allclose(panel.maps["noise x 10, around grey"], 0.5 + 10 * noise, atol=1e-6)
        assert 0 < noise.abs().max() <= 8 / 255 + 1e-6
    validated(trained, shuffled := RobustValidation(pictures=3), batch_size=5)
    assert [panel.image_id for panel in shuffled.evaluation.panels] == [panel.image_id for panel in panels]


def names_and_images(callback):
    run = callback.run
    batch = run.subject.batch_of([torch.stack([normalised(COUNT)[i][0] for i in range(COUNT)]), LABELS])
    return batch.image_ids, batch.images


LABELS = torch.tensor(faint().labels)


def test_an_alarm_of_other_weights_is_used_and_said(trained, alarm, tmp_path):
    alarm.save(tmp_path / "alarm.safetensors")
    moved = {name: weights.clone() for name, weights in trained.items()}
    moved["net.fc.bias"] += 0.01
    for given in (alarm, tmp_path / "alarm.safetensors", str(tmp_path / "alarm.safetensors")):
        callback = RobustValidation([FGSM(8 / 255)], alarm=given)
        logged = validated(moved, callback)
        assert "val/robust/fgsm/alarms" in logged
        (note,) = [note for note in callback.evaluation.notes if "other weights" in note]
        assert "its threshold was made for 10 % of alarms" in note
        same = RobustValidation([FGSM(8 / 255)], alarm=given)
        validated(trained, same)
        assert not any("other weights" in note for note in same.evaluation.notes)
    assert load_alarm(tmp_path / "alarm.safetensors", alarm.classifier).fits()


def test_images_that_the_alarm_was_fitted_on_are_counted(trained, alarm):
    callback = RobustValidation([FGSM(8 / 255)], alarm=alarm, max_images=None)
    data = normalised(400, seed=8)
    validated(trained, callback, data=torch.utils.data.Subset(data, range(60)), batch_size=30)
    (note,) = [note for note in callback.evaluation.notes if "was fitted on" in note]
    count = int(note.split("was fitted on ")[1].split()[0])
    assert f"{count} of 60 of these images" in note
    assert 30 < count < 60


def test_images_without_a_label_are_not_attacked_and_counted(trained):
    data = normalised(8)
    data.labels = [-1, *data.labels[1:]]

    class Lenient(Stranger):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    module = Lenient()
    module.load_state_dict(trained)
    callback = RobustValidation([FGSM(8 / 255)])
    trainer(callback).validate(module, loader(data), verbose=False)
    assert callback.evaluation.scores["val/fgsm/robust/accuracy"].n == 7
    assert callback.evaluation.counts["attacked images"] == 7
    assert any("1 of 8 images have no label" in note for note in callback.evaluation.notes)


def test_an_alarm_of_another_classifier_is_refused(trained):
    stages = Alarm(Mahalanobis(), Classifier(TinyNet(), ["layer1"], normalization=(MEAN, STD)), 0.0)
    stages.classifier.note_size(torch.empty(0, 3, 16, 16))
    with pytest.raises(ConfigError, match=r"4 classes and the stages \['layer1'\], found 4 classes and"):
        validated(trained, RobustValidation(alarm=stages))
    other = Alarm(MaxSoftmax(), Classifier(TinyNet(7), normalization=(MEAN, STD)), 0.0)
    other.classifier.note_size(torch.empty(0, 3, 16, 16))
    with pytest.raises(ConfigError, match="7 classes, found 4 classes; fit an alarm to this classifier"):
        validated(trained, RobustValidation(alarm=other))
    alarm = Alarm(MaxSoftmax(), Classifier(TinyNet(), normalization=(MEAN, STD), image_size=32), 0.0)
    with pytest.raises(
        ConfigError, match="fitted on images of 32 x 32 px, found 16 x 16 px; fit one on images like"
    ):
        validated(trained, RobustValidation(alarm=alarm))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": []}, "attacks must be at least one, none of them called 'clean'"),
        ({"attacks": {"clean": FGSM(0.1)}}, "none of them called 'clean'"),
        ({"attacks": {"A": FGSM(0.1), "a": FGSM(0.2)}}, "would both be logged as 'a'"),
        ({"attacks": ["fgsm"]}, "an attack such as"),
        ({"alarm": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
        ({"pictures": -1}, "pictures"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ConfigError, match=message):
        RobustValidation(**settings)


def test_a_configuration_names_it_like_any_other_callback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"val_count": 4, "val_split": "det_test", "image_size": 64, "batch_size": 4, "num_workers": 0}
    pgd = {"class_path": "PGD", "init_args": {"eps": 0.02, "steps": 2}}
    content = {
        "ckpt_path": "none",
        "wandb": {"mode": "disabled"},
        "model": {"class_path": "FrozenClassifierTask", "init_args": {"classifier": "emoji_scenes_64"}},
        "data": {"class_path": "ImageData", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "callbacks": [{"class_path": "RobustValidation", "init_args": {"attacks": {"weak": pgd}}}],
        },
    }
    Path("robust.yaml").write_text(json.dumps(content))
    assert main(["validate", "--config", "robust.yaml", "--run_dir", "run"]) == 0
    report = json.loads(Path("run/report.val.json").read_text())
    assert report["metrics"]["val/weak/robust/accuracy"]["n"] == 4
    assert len(list(Path("run/figures").glob("*panel*.png"))) == 4


def test_a_subset_is_said_beside_the_cost_and_the_accuracy(trained):
    callback = RobustValidation([FGSM(0.1)], max_images=8)
    validated(trained, callback)
    words = (
        "RobustValidation: every accuracy, val/robust/clean/accuracy too, is that of 8 images of a subset;"
        " what the module logs itself may be that of all"
    )
    assert words in callback.evaluation.notes
    everything = RobustValidation([FGSM(0.1)])
    trainer(everything, max_epochs=1).fit(stranger(trained), loader(), loader())
    (cost,) = [note for note in everything.evaluation.notes if "of an epoch" in note]
    assert cost.startswith("RobustValidation attacks ")
