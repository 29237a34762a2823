"""The task of the network of places on a few scenes of the embedded data and the shipped classifier."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer, seed_everything

from verisal.callbacks import LastCheckpoint
from verisal.checkpoint import load_checkpoint
from verisal.cli import main
from verisal.data import ImageData
from verisal.errors import ConfigError
from verisal.models import load_classifier
from verisal.saliency import LearnedMask
from verisal.tasks import PlaceMaskerTask

pytestmark = pytest.mark.usefixtures("without_figures")

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "inference_mode": False,
}
SMALL = {"width": 8, "refine_steps": [1], "compare_images": 4, "resamples": 20}


def scenes(**settings):
    counts = {"fit_count": 96, "val_count": 12, "test_count": 6}
    return ImageData(**counts | settings, batch_size=16, num_workers=0)


def test_training_brings_gates_nearer_to_those_of_the_evidence_masks():
    seed_everything(3, verbose=False)
    losses = []
    for epochs in (1, 5):
        task = PlaceMaskerTask(**SMALL)
        before = {name: value.clone() for name, value in task.classifier.state_dict().items()}
        trainer = Trainer(max_epochs=epochs, **QUIET)
        trainer.fit(task, datamodule=scenes())
        losses.append(float(trainer.callback_metrics["train/place"]))
    assert losses[1] < 0.95 * losses[0]
    metrics = trainer.callback_metrics
    assert float(metrics["val/evidence_masks/unlike"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["val/evidence_masks/evidence_kept"]) == pytest.approx(1, abs=0.1)
    # The network that is judged follows the one in training, and the classifier stays as it was.
    pairs = zip(task.network.parameters(), task.learner.parameters(), strict=True)
    assert any(not mean.equal(now) for mean, now in pairs)
    assert not any(mean.requires_grad for mean in task.network.parameters())
    assert all(value.equal(before[name]) for name, value in task.classifier.state_dict().items())
    assert not any(name.startswith("classifier") for name in task.state_dict())


@pytest.mark.parametrize(
    "settings", [{"width": 1}, {"evidence_weight": -1.0}, {"average": 1.5}, {"taught_images": 0}]
)
def test_settings_out_of_range_are_named(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"{name} must .*, found {value}"):
        PlaceMaskerTask(**settings)


def test_command_trains_goes_on_tests_and_gives_a_usable_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"fit_count": 16, "val_count": 4, "test_count": 6, "batch_size": 8, "num_workers": 0}
    config = {
        "seed_everything": 0,
        "model": {"class_path": "PlaceMaskerTask", "init_args": SMALL | {"taught_images": 12}},
        "data": {"class_path": "ImageData", "init_args": data},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save, states = LastCheckpoint._save, []

    def kept(callback, trainer):
        save(callback, trainer)
        states.append(tmp_path / f"{len(states)}.ckpt")
        shutil.copy(callback.path, states[-1])

    monkeypatch.setattr(LastCheckpoint, "_save", kept)
    assert main(["fit", "--config=config.yaml", "--run_dir=whole"]) == 0
    # States: the start, the second epoch's start, the end.
    half = ["--run_dir=half", f"--resume={states[1]}", "--test_after_fit=false"]
    assert main(["fit", "--config=config.yaml", *half]) == 0
    one, two = (load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "half"))
    assert sum(len(names) for part in one["lessons"] for names, _ in part) == 12
    assert one["lessons"] == two["lessons"]
    assert all(value.equal(two["state_dict"][name]) for name, value in one["state_dict"].items())
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    for row in ("masker", "masker_1_steps", "evidence_masks", "hierarchical_masks", "no_gates", "random"):
        for name in ("energy_inside", "deletion", "insertion", "response_absent", "box_maximum"):
            assert f"test/{row}/{name}" in report["metrics"]
    assert "test/masker/kept_deletion/evidence_masks" in report["metrics"]
    assert report["timings"]["masker (backward passes)"] == 2
    assert report["timings"]["masker / pass"] < report["timings"]["evidence_masks / pass"]
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    curve = importlib.import_module("masker_curve")
    drawn = curve.picture(report).axes[0].lines
    assert [list(line.get_xdata()) for line in drawn] == [[2, 3], [1], [3], [12], [30]]
    images = torch.rand(3, 3, 64, 64)
    classifier = load_classifier("emoji_scenes_64")
    assert main(["export", "whole", "--output", "out"]) == 0
    trained, exported = (
        LearnedMask(checkpoint=path)(classifier, images).saliency
        for path in ("whole/checkpoints/best.ckpt", "out/model.safetensors")
    )
    assert trained.equal(exported)
    assert trained.shape == (3, 1, 64, 64)
