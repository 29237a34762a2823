"""The mask model's task on a few scenes of the embedded data and the shipped classifier."""

import copy
import csv
import json

import pytest
import torch
from lightning import Trainer, seed_everything

from helpers.listed_names import unlisted
from helpers.mask_tasks import QUIET, assert_resumed_run_is_taught_the_same, scenes, write_config
from verisal.checkpoint import load_checkpoint
from verisal.cli import main
from verisal.errors import ConfigError
from verisal.models import load_classifier
from verisal.saliency import LearnedMask
from verisal.tasks import MaskerTask
from verisal.tasks.masker.lessons import drawn_queries

pytestmark = pytest.mark.slow


def fitted(task, *, epochs=1):
    seed_everything(3, verbose=False)
    trainer = Trainer(max_epochs=epochs, **QUIET)
    trainer.fit(task, datamodule=scenes())
    return trainer


def small(**settings):
    known = {"optimised_steps": (20,), "refine_steps": (1,), "compare_images": 4, "reg_ramp": 0.0}
    return MaskerTask(**known | settings)


def test_training_lowers_the_objective_and_leaves_the_classifier_alone():
    task = small()
    before = copy.deepcopy(task.classifier.state_dict())
    trainer = fitted(task)
    first = float(trainer.callback_metrics["val/masker/objective"])
    trainer.fit_loop.max_epochs = 0
    trainer = fitted(task, epochs=4)
    assert float(trainer.callback_metrics["val/masker/objective"]) < 0.7 * first
    assert all(value.equal(before[name]) for name, value in task.classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in task.classifier.parameters())
    assert not any(name.startswith("classifier") for name in task.state_dict())


def test_distillation_moves_the_gates_towards_the_optimised_ones():
    gaps = []
    for weight in (0.0, 300.0):
        task = small(
            distil_weight=weight, reg_weight=0.3, optimised_reg_weight=0.3, reg_start=0.001, reg_ramp=1.0
        )
        fitted(task)
        batch = next(iter(_loader()))
        outputs = task.classifier.stage_outputs(batch.images)
        query = outputs.logits.argmax(dim=1)
        goal = task._optimised(20).gates(task.classifier, batch.images, query)
        found = task(outputs, query)
        gap = [(one - two).detach().abs().mean() for one, two in zip(found, goal, strict=True)]
        gaps.append(float(torch.stack(gap).mean()))
    assert gaps[1] < 0.9 * gaps[0], gaps


def _loader():
    data = scenes()
    data.setup("validate")
    return data.val_dataloader()


def test_queries_are_the_prediction_half_of_the_time_and_absent_classes_else():
    torch.manual_seed(0)
    logits = torch.rand(6000, 24)
    rank = logits.argsort(dim=1, descending=True).argsort(dim=1)
    drawn = rank.gather(1, drawn_queries(logits)[:, None])[:, 0]
    assert float((drawn == 0).float().mean()) == pytest.approx(1 / 2, abs=0.03)
    assert float((drawn == 1).float().mean()) == pytest.approx(1 / 6, abs=0.02)
    # The least likely is also one of the classes outside the first five.
    assert float((drawn == 23).float().mean()) == pytest.approx(1 / 6 + 1 / 6 / 19, abs=0.02)
    assert not ((drawn > 1) & (drawn < 5)).any()


def test_lambda_rises_evenly_in_its_logarithm():
    task = MaskerTask(reg_weight=2.0, reg_start=0.01, reg_ramp=0.5)

    class Planned:
        estimated_stepping_batches = 100
        global_step = 0

    seen = []
    for step in (0, 25, 50, 100):
        planned = Planned()
        planned.global_step = step
        task.__dict__["_trainer"] = planned
        seen.append(task._current_reg_weight())
    assert seen == pytest.approx([0.02, 0.2, 2.0, 2.0])


@pytest.mark.parametrize(
    "settings",
    [{"reg_weight": 0.0}, {"reg_start": 0.0}, {"reg_ramp": 1.5}, {"distil_weight": -1.0}],
)
def test_settings_out_of_range_are_named(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"{name} must be .*, found {value}"):
        MaskerTask(**settings)


def test_command_trains_tests_and_gives_a_usable_method(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {"optimised_steps": [20], "refine_steps": [2], "compare_images": 4, "resamples": 50}
    counts = {"fit": 32, "val": 8, "test": 6, "batch_size": 16}
    write_config(tmp_path, "MaskerTask", settings, **counts, epochs=1, seed_everything=0)
    assert main(["fit", "--config", "config.yaml", "--run_dir", "run"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    metrics = report["metrics"]
    for row in ("masker", "masker_2_steps", "optimised_20_steps", "random"):
        for column in ("objective", "logit_change", "unchanged", "energy_inside", "deletion"):
            assert metrics[f"test/{row}/{column}"]["n"] == 6
    assert metrics["test/masker_2_steps/objective"]["value"] <= metrics["test/masker/objective"]["value"]
    assert "test/masker/kept_energy_inside/optimised_20_steps" in metrics
    assert report["timings"]["masker / classifier"] > 1
    assert report["timings"]["optimised_20_steps (ms per image)"] > report["timings"]["masker (ms per image)"]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        names = set(csv.DictReader(file).fieldnames)
    assert {"train/loss", "val/masker/objective", "val/optimised_20_steps/objective"} <= names
    assert unlisted(names) == []
    assert main(["test", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["metrics"] == metrics
    assert "## Timings" in (tmp_path / "run" / "report.md").read_text()
    # Two steps have been made; with smaller batches four are to come, and lambda rises over 0.7 of all six.
    more = ["--run_dir=run", "--resume=auto", "--trainer.max_epochs=2", "--data.batch_size=8"]
    assert main(["fit", "--config=run/config.yaml", *more, "--test_after_fit=false"]) == 0
    assert load_checkpoint("run/checkpoints/last.ckpt")["lr_schedulers"] == [{"last_epoch": 6}]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        seen = [float(row["train/reg_weight"]) for row in csv.DictReader(file) if row["train/reg_weight"]]
    rising = [0.2 * 0.1 ** (1 - min(1, step / 4.2)) for step in (2, 3, 4, 5)]
    assert seen[-1] == pytest.approx(sum(rising) / 4)
    batch = next(iter(_loader()))
    method = LearnedMask(checkpoint="run/checkpoints/best.ckpt")
    query = load_classifier("emoji_scenes_64")(batch.images).argmax(dim=1)
    saliency = method(load_classifier("emoji_scenes_64"), batch.images, query).saliency
    assert saliency.shape == (12, 1, 64, 64)
    capsys.readouterr()


def test_a_resumed_run_is_taught_with_the_same_gates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"optimised_steps": [20], "refine_steps": [], "compare_images": 1}
    settings |= {"distil_weight": 3.0, "distil_images": 6}
    counts = {"fit": 8, "val": 4, "test": 4, "batch_size": 4}
    write_config(tmp_path, "MaskerTask", settings, **counts, epochs=2, test_after_fit=False)
    assert_resumed_run_is_taught_the_same(tmp_path, monkeypatch, taught=6)
