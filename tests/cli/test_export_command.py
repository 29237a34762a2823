"""``verisal export`` and ``verisal test --model``: the same numbers from files that hold no code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.normalizations import CENTRED
from helpers.tiny_detector import SIZE, config, exported, memorised
from verisal.checkpoint import CARD_KEY, load_export, load_weights, save_checkpoint
from verisal.cli import main
from verisal.cli._export import with_export
from verisal.data import EmojiScenes
from verisal.errors import CheckpointError, ConfigError
from verisal.models import Classifier, SmallResNet, load_classifier
from verisal.saliency import MaskNetwork
from verisal.saliency.gates.learned import load_mask_network

# Commands are run for their numbers here.
pytestmark = pytest.mark.usefixtures("without_figures")

CLASSIFIER = """
model: {{class_path: ClassifierTask, init_args: {{blocks: 2}}}}
data: {{class_path: ImageData, init_args: {{image_size: {size}, test_count: 20, num_workers: 0}}}}
trainer: {{accelerator: cpu}}
wandb: {{mode: disabled}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder with the tiny classifier, one fitted detector ``fitted`` and its export ``shared``."""
    folder = tmp_path_factory.mktemp("sharing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", config(folder), "--run_dir", "fitted"]) == 0
        assert main(["export", "fitted", "--output", "shared"]) == 0
        pixels = EmojiScenes("cls_val", 1, size=SIZE)[0].image.mul(255).round().byte()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save("scene.png")
    return folder


@pytest.fixture
def inside(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def run_with(folder, task, state, **card):
    """A run as ``verisal fit`` leaves it, with these weights."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "abcd", "stage": "fit"}))
    (folder / "config.yaml").write_text("seed_everything: 3\n")
    (folder / "report.json").write_text(
        json.dumps({"metrics": {f"test/{task}/accuracy": {"value": 0.5}, "test/other/x": {"value": 1.0}}})
    )
    save_checkpoint({"state_dict": state, CARD_KEY: {"task": task, **card}}, folder / "checkpoints/best.ckpt")
    return folder


def report_of(run):
    return json.loads((Path(run) / "report.json").read_text())["metrics"]


def test_a_classifier_gives_the_same_logits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = SmallResNet(3, widths=(4, 4, 8, 8))
    classifier = Classifier(
        network, network.stage_names, class_names="abc", image_size=16, normalization=CENTRED
    ).eval()
    state = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
    card = {"class_names": list("abc"), "image_size": 16, "widths": [4, 4, 8, 8], "blocks": 1}
    run_with(tmp_path / "run", "classifier", state, **card)
    assert main(["export", "run", "--output", "out"]) == 0
    again = load_classifier("out/model.safetensors")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(images), classifier(images), rtol=1e-4, atol=1e-4)
    origin = load_export("out/model.safetensors")[1]["origin"]
    assert (origin["run"], origin["seed"], origin["checkpoint"]) == ("abcd", 3, "best.ckpt")
    frozen = ["test", "--model=FrozenClassifierTask", "--model.classifier=out/model.safetensors"]
    assert with_export(["test", "--model", "out"]) == [*frozen, "--ckpt_path=none"]


@pytest.mark.slow
def test_a_classifier_is_tested_from_its_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The memorised classifier, as the folder of an export.
    (tmp_path / "classifier").mkdir()
    for suffix in (".safetensors", ".json"):
        (tmp_path / "classifier" / f"model{suffix}").write_bytes(
            exported(tmp_path).with_suffix(suffix).read_bytes()
        )
    settings = tmp_path / "classifier.yaml"
    settings.write_text(CLASSIFIER.format(size=SIZE))
    assert main(["test", "--model=classifier", "--config", str(settings), "--run_dir", "tested"]) == 0
    found = report_of("tested")["test/classifier/accuracy"]
    scenes = EmojiScenes("det_test", 20, size=SIZE).stack(range(20))
    assert found["n"] == 20
    assert found["value"] == pytest.approx(
        float((memorised()(scenes.images).argmax(dim=1) == scenes.labels).float().mean())
    )


def test_a_mask_network_is_the_same_and_says_what_it_is_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = MaskNetwork([4, 8], 3, width_ratio=0.5)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    card = {"network": "MaskNetwork", "channels": [4, 8], "num_classes": 3, "width_ratio": 0.5}
    card |= {"classifier": "f" * 64, "objective": "evidence", "penalty": "per_channel", "reg_weight": 0.2}
    run_with(tmp_path / "run", "masker", state, **card)
    assert main(["export", "run/checkpoints/best.ckpt", "--output", "out"]) == 0
    again, told = load_mask_network("out/model.safetensors")
    assert (told.channels, told.reg_weight, told.objective) == ((4, 8), 0.2, "evidence")
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in network.state_dict().items())
    # What a test loads is the checkpoint that it came from.
    back = load_weights("out/model.safetensors")
    assert back[CARD_KEY] == {"task": "masker", **card}
    assert back["state_dict"].keys() == state.keys()
    assert load_export("out/model.safetensors")[1]["origin"]["test"] == {"test/masker/accuracy": 0.5}


@pytest.mark.slow
def test_a_detector_is_tested_from_its_export_with_the_same_report(inside):
    args = ["test", "--model", "shared", "--config", config(inside), "--run_dir", "again"]
    assert main(args) == 0
    assert report_of("again") == report_of("fitted")


def test_the_card_of_a_detector_holds_rows_thresholds_and_recipes(inside):
    tensors, card = load_export("shared/model.safetensors")
    assert not [name for name in tensors if name.startswith("networks.")]
    rows = card["checkpoint"]["card"]["rows"]
    assert list(card["thresholds"]) == sorted(rows)
    masks = card["thresholds"]["masks"]
    assert masks["FPR 5 %"] == pytest.approx(float(tensors["thresholds"][rows.index("masks"), 0]))
    # FPR 1 % asks for 1000 validation images.
    assert masks["FPR 1 %"] is None
    assert card["settings"]["detectors"]["masks"]["source"]["saliency"]["steps"] == 4
    assert card["settings"]["head"] == "masks_activations"


@pytest.mark.parametrize("detector", ["fitted", "fitted/checkpoints/best.ckpt", "shared"])
def test_explain_judges_images_as_predict_does(inside, detector, capsys):
    classifier = ["--classifier", str(exported(inside)), "--saliency=CentrePrior"]
    out = Path("out", Path(detector).name)
    assert main(["explain", "scene.png", *classifier, "--detector", detector, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "alarm" in printed.lower()
    score = json.loads(str(np.load(out / "scene.png.npz")["settings"]))["detector_score"]
    predict = ["predict", "--config", "fitted/config.yaml", "--data.images=[scene.png]"]
    assert main([*predict, "--run_dir", str(out / "run")]) == 0
    names, values = [line.split(",") for line in (out / "run/predictions.csv").read_text().splitlines()]
    told = dict(zip(names, values, strict=True))
    assert score == pytest.approx(float(told["score/masks_activations"]), abs=1e-5)
    assert ("ALARM" in printed) == (told["alarm"] == "True")


def test_a_detector_of_another_classifier_is_refused(inside, capsys):
    args = ["explain", "scene.png", "--classifier=emoji_scenes_64", "--saliency=CentrePrior"]
    assert main([*args, "--detector=shared", "--output=never"]) == 1
    error = capsys.readouterr().err
    assert "another classifier: images of 32 px, not 64" in error
    assert "other weights" in error
    assert not Path("never").exists()


def test_what_cannot_be_exported_is_told(inside, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no run, checkpoint" in capsys.readouterr().err
    assert main(["export", "shared", "--output", str(tmp_path / "out")]) == 2
    assert "is an export already" in capsys.readouterr().err
    run_with(tmp_path / "run", "transfer", {})
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 2
    assert "of the task 'transfer'" in capsys.readouterr().err


def test_a_word_that_is_no_folder_stays_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["test", "--model", "DetectorTask", "--model.width=4"]
    assert with_export(words) == words
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no run, checkpoint"):
        with_export(["test", "--model", "empty"])


@pytest.mark.parametrize("place", ["missing", "runs/detector/missing", "./missing", "missing.safetensors"])
@pytest.mark.parametrize("words", [["--model={}"], ["--model", "{}"]])
def test_a_place_that_is_not_there_is_told_in_one_sentence(place, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["test", *(word.format(place) for word in words), "--config", "classifier"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"verisal: error: {Path(place)} does not exist; give the folder of a run")
    assert len(told.splitlines()) == 1


def test_a_folder_of_something_else_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    assert main(["test", "--model", "photos", "--config", "classifier"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("verisal: error: photos is no run, checkpoint (.ckpt) or export (.safetensors)")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "value", ["DetectorTask", "helpers.toy.ToyTask", "package.module.Task", "{class_path: A/B}"]
)
def test_classes_and_settings_are_no_places(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_export(["test", "--model", value]) == ["test", "--model", value]


def test_weights_of_no_task_are_refused(inside):
    with pytest.raises(CheckpointError, match="verisal test --model"):
        load_weights(exported(inside))
