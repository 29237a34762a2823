"""The config of CIFAR-10 from the files to an alarm, on a few images in its form on disk."""

import json
from pathlib import Path

import pytest

from helpers.make_packed import make_packed
from verisal.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]

CONFIG = Path(__file__).parents[2] / "configs" / "data" / "cifar10.yaml"


def test_the_config_trains_explains_and_guards_a_classifier(tmp_path, monkeypatch):
    make_packed(tmp_path / "data" / "cifar10", "CIFAR10", monkeypatch, count=150)
    text = CONFIG.read_text()
    for full, few in (
        ("[32, 64, 128, 256]", "[8, 16, 16, 16]"),
        ("max_shift: 4", "max_shift: 0"),
        ("batch_size: 128", "batch_size: 32"),
        ("max_epochs: 12", "max_epochs: 2"),
        # Bars are bright enough for attacks of 2 / 255 to do nothing.
        ("{class_path: FGSM, init_args: {eps: 0.00784314}}", "{class_path: FGSM, init_args: {eps: 0.3}}"),
        ("{class_path: PGD, init_args: {eps: 0.00784314}}", "{class_path: PGD, init_args: {eps: 0.3}}"),
        ("max_images: 64", "max_images: 4"),
        ("max_images: 500", "max_images: 20"),
        ("max_images: 2000", "false_alarms: 0.2"),
    ):
        assert text.count(full) == 1
        text = text.replace(full, few)
    (tmp_path / "cifar10.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    quiet = ["--wandb.mode=disabled", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", "cifar10.yaml", "--run_dir", "run", *quiet]) == 0
    metrics = json.loads((tmp_path / "run" / "report.json").read_text())["metrics"]
    assert metrics["test/clean/robust/accuracy"]["value"] > 0.8
    for row in ("gradient", "grad_cam", "evidence_masks", "random", "centre"):
        assert metrics[f"test/{row}/deletion[dataset_mean]_steps16/auc"]["n"] > 0
    assert (tmp_path / "run" / "alarm.safetensors").is_file()
