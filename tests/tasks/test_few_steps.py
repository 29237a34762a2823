"""Trainings of no, few or endless steps: one sentence before any work, or the result of what was trained."""

import csv

import pytest
import yaml

from helpers import tiny_detector
from verisal.checkpoint import load_checkpoint
from verisal.cli import main

# Commands are run for their numbers here.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]


def made(name, **settings):
    return {"class_path": name, "init_args": settings}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Configurations of the three tasks that are trained, and the store of a fitted detector."""
    folder = tmp_path_factory.mktemp("steps")
    scenes = {"image_size": tiny_detector.SIZE, "num_workers": 0, "batch_size": 8}
    classifier = str(tiny_detector.exported(folder))
    tasks = {
        "classifier": (
            made("ClassifierTask", widths=[4, 8, 8, 8]),
            made("ImageData", **scenes, fit_count=20, val_count=6, test_count=6),
        ),
        "masker": (
            made("MaskerTask", classifier=classifier, width_ratio=0.25, optimised_steps=[20], resamples=5),
            made("ImageData", **scenes, fit_count=5, val_count=2, test_count=2),
        ),
    }
    for name, (model, data) in tasks.items():
        content = {"seed_everything": 0, "model": model, "data": data, "wandb": {"mode": "disabled"}}
        content["trainer"] = {"accelerator": "cpu", "max_epochs": 2}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    tiny_detector.config(folder)
    (folder / "detector-store.yaml").rename(folder / "detector.yaml")
    return folder


@pytest.fixture(autouse=True)
def _inside(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["classifier", "masker", "detector"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["max_epochs=0"], "trainer.max_epochs is 0, so that nothing would be trained"),
        (["max_steps=0"], "trainer.max_steps is 0, so that nothing would be trained"),
        (["limit_train_batches=0"], "trainer.limit_train_batches is 0, so that nothing would be trained"),
        (["max_epochs=-1", "max_time=00:00:00:05"], "this training is endless (max_epochs -1, max_steps -1)"),
    ],
)
def test_no_step_and_no_end_are_refused_before_any_work(home, capsys, name, options, told):
    words = [f"--trainer.{option}" for option in options]
    before = sorted(home.rglob("*"))
    assert main(["fit", f"--config={name}.yaml", "--run_dir=refused", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("option", ["limit_val_batches=0", "check_val_every_n_epoch=3"])
def test_a_detector_that_would_keep_nothing_is_refused(home, capsys, option):
    before = sorted(home.rglob("*"))
    assert main(["fit", "--config=detector.yaml", "--run_dir=refused", f"--trainer.{option}"]) == 2
    assert "this training has none" in capsys.readouterr().err
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--data.fit_count=3"],
        ["--trainer.accumulate_grad_batches=7"],
        ["--trainer.limit_train_batches=0.5"],
    ],
)
def test_less_than_a_batch_or_a_step_is_trained(home, tmp_path, options):
    run = tmp_path / "run"
    assert main(["fit", "--config=classifier.yaml", f"--run_dir={run}", *options]) == 0
    assert [row["epoch"] for row in rows_of(run) if row["val/loss"]] == ["0", "1"]
    assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("name", ["classifier", "masker", "detector"])
def test_a_fast_dev_run_runs(home, tmp_path, name):
    command = ["fit", f"--config={name}.yaml", f"--run_dir={tmp_path / name}", "--trainer.fast_dev_run=true"]
    assert main(command) == 0


def test_a_training_that_ends_inside_an_epoch_is_validated_there(home, tmp_path):
    run = tmp_path / "run"
    assert main(["fit", "--config=classifier.yaml", f"--run_dir={run}", "--trainer.max_steps=1"]) == 0
    assert [row["step"] for row in rows_of(run) if row["val/loss"]] == ["0"]
    assert load_checkpoint(run / "checkpoints/best.ckpt")["global_step"] == 1
    run = tmp_path / "detector"
    assert main(["fit", "--config=detector.yaml", f"--run_dir={run}", "--trainer.max_steps=2"]) == 0
    assert int(load_checkpoint(run / "checkpoints/best.ckpt")["state_dict"]["negatives"]) > 200
