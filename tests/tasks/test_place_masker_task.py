"""The task of the network of places on a few scenes of the embedded data and the shipped classifier."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything

from helpers.listed_names import unlisted
from helpers.mask_tasks import QUIET, assert_resumed_run_is_taught_the_same, scenes, write_config
from verisal.cli import main
from verisal.errors import ConfigError
from verisal.models import load_classifier
from verisal.saliency import LearnedMask
from verisal.tasks import PlaceMaskerTask

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]

SMALL = {"width": 8, "refine_steps": [1], "compare_images": 4, "resamples": 20}


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
    assert unlisted(metrics) == []
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
    counts = {"fit": 16, "val": 4, "test": 6, "batch_size": 8}
    settings = SMALL | {"taught_images": 12}
    write_config(tmp_path, "PlaceMaskerTask", settings, **counts, epochs=2, seed_everything=0)
    assert_resumed_run_is_taught_the_same(tmp_path, monkeypatch, taught=12)
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
