"""The digits from nothing to an alarm with a report, by the config that is shipped, with fewer steps."""

import csv
import json
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from helpers.listed_names import unlisted
from verisal.cli import main
from verisal.data import AnnotatedImages, Digits, ImagesLike, ImageSplits
from verisal.detection import load_alarm
from verisal.errors import CheckpointError
from verisal.models import load_classifier

pytestmark = pytest.mark.usefixtures("without_figures")

CONFIG = Path(__file__).parents[2] / "configs" / "data" / "digits.yaml"
GREY = ImagesLike(class_names=tuple("0123456789"), image_size=8, channels=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    text = CONFIG.read_text()
    for full, few in (
        ("max_epochs: 12", "max_epochs: 3"),
        ("max_images: 64", "max_images: 4"),
        ("attacks: *attacks", "attacks: *attacks\n        false_alarms: 0.1"),
    ):
        assert text.count(full) == 1
        text = text.replace(full, few)
    (folder / "digits.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quiet = ["--wandb.mode=disabled", "--trainer.accelerator=cpu", "--data.test_count=420"]
        with redirect_stdout(StringIO()) as said:
            assert main(["fit", "--config", "digits.yaml", "--run_dir", "run", *quiet]) == 0
        (folder / "said.txt").write_text(said.getvalue())
        assert main(["export", "run", "--output", "exported"]) == 0
    return folder


def test_it_is_trained_explained_attacked_and_guarded(run):
    metrics = json.loads((run / "run" / "report.json").read_text())["metrics"]
    accuracy = {row: metrics[f"test/{row}/robust/accuracy"]["value"] for row in ("clean", "fgsm", "pgd")}
    assert accuracy["clean"] > 0.8
    assert accuracy["pgd"] <= accuracy["fgsm"] < accuracy["clean"]
    for row in ("gradient", "grad_cam", "occlusion", "random", "centre"):
        curve = metrics[f"test/{row}/deletion[dataset_mean]_steps16/auc"]
        assert curve["n"] + curve["undefined"] == 4
    for attack in ("fgsm", "pgd", "cw_l2"):
        assert metrics[f"test/Vote/auroc/{attack}"]["n"] > 0
    report = (run / "run" / "report.md").read_text()
    assert "| Vote |" in report
    assert "- kinds of attacks that the alarm never saw before: cw_l2" in report
    with (run / "run" / "metrics.csv").open(newline="") as file:
        assert unlisted(csv.DictReader(file).fieldnames) == []


def test_its_classifier_and_its_alarm_are_found_again(run):
    exported = str(run / "exported" / "model.safetensors")
    classifier = load_classifier(exported)
    assert (classifier.channels, classifier.image_size) == (1, 8)
    images = AnnotatedImages(ImageSplits(images=Digits(), ratios=(0, 1, 0)), "val", classifier=classifier)
    batch = torch.stack([images[place].image for place in range(64)])
    labels = torch.tensor([images[place].label for place in range(64)])
    assert (classifier(batch).argmax(dim=1) == labels).float().mean() > 0.8
    # The export is the same classifier in other numbers: the alarm of either is that of both.
    found = [load_alarm(run / place, classifier) for place in ("run", "exported")]
    found.append(load_alarm(run / "exported", load_classifier(run / "run")))
    assert all(alarm.fits() for alarm in found)
    scores = [alarm(batch).scores for alarm in found]
    assert found[0](batch).alarms.float().mean() < 0.5
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-3, atol=1e-3)
    other = load_classifier(exported)
    other.network.head.bias += 1
    with pytest.raises(CheckpointError, match="other weights"):
        load_alarm(run / "exported", other)


def test_the_image_of_the_run_is_one_of_the_data_and_its_alarm_takes_it(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    assert main(["test", "--config", "run/config.yaml", "--run_dir", "tested", "--wandb.mode=disabled"]) == 0
    capsys.readouterr()
    said = Path("said.txt").read_text()
    (command,) = (line for line in said.splitlines() if line.startswith("  use the alarm: verisal "))
    assert main(shlex.split(command.partition(": verisal ")[2])) == 0
    assert Path("tested/example.png").read_bytes() == Path("run/example.png").read_bytes()
    # A run that tested another one's weights can be tested as that one can.
    again = ["--run_dir", "again", "--wandb.mode=disabled", "--data.test_count=300"]
    assert main(["test", "--config", "tested/config.yaml", *again]) == 0
    first = ["explain", "run/example.png", "--saliency.settle=1"]
    verdicts = []
    # A run that tests another one's weights knows where they are.
    for number, place in enumerate(("run", "exported", "tested", "exported/alarm.safetensors")):
        assert main([*first, "--detector", place, "--output", str(number)]) == 0
        verdicts += [line for line in capsys.readouterr().out.splitlines() if "example.png: " in line]
    assert len(verdicts) == 5  # with that of the printed command
    assert len({line.partition(" ->")[0] for line in verdicts}) == 1
    shown = np.asarray(Image.open("run/example.png"))
    digits = load_digits().images * 255 / 16
    assert shown.shape == (8, 8)
    assert np.abs(digits - shown).max(axis=(1, 2)).min() < 1
