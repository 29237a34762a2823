"""bfloat16 is for training steps; what is reported is computed in float32."""

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from verisal.cli import main
from verisal.cli._trainer import TrainingPrecision, training_precision
from verisal.errors import ConfigError

CONFIG = """
model: {class_path: helpers.toy.ToyTask}
data: {class_path: helpers.toy.ToyData}
trainer: {max_epochs: 2, accelerator: cpu}
wandb: {mode: disabled}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    yield "toy.yaml"
    sys.modules.pop("toy", None)


def test_only_training_steps_are_in_bfloat16(config, monkeypatch):
    from helpers.toy import ToyData, ToyTask

    seen, forward = set(), nn.Linear.forward

    def watched(self, values):
        result = forward(self, values)
        seen.add((self.training, result.dtype))
        return result

    monkeypatch.setattr(nn.Linear, "forward", watched)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        plugins=[TrainingPrecision("cpu")],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **quiet,
    )
    task = ToyTask()
    trainer.fit(task, datamodule=ToyData())
    # Validation is in eval mode.
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    seen.clear()
    trainer.test(task, datamodule=ToyData(), verbose=False)
    trainer.predict(task, datamodule=ToyData())
    assert seen == {(False, torch.float32)}


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("16-mixed", "must be 32-true or bf16-mixed (training steps alone), found '16-mixed'"),
        ("64-true", "must be 32-true or bf16-mixed (training steps alone), found '64-true'"),
        ("bf16-mixed", "bf16-mixed needs a GPU"),
    ],
)
def test_what_cannot_be_trusted_is_refused_in_one_sentence(config, capsys, precision, words):
    assert main(["fit", "--config", config, f"--trainer.precision={precision}"]) == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()


def test_bfloat16_is_for_gpus(monkeypatch):
    for given in (None, 32, "32", "32-true"):
        assert training_precision(given, "auto") == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (plugin,) = training_precision("bf16", "auto")
    assert (plugin.device, plugin.precision) == ("cuda", "bf16-mixed")
    with pytest.raises(ConfigError, match="needs a GPU"):
        training_precision("bf16-mixed", "cpu")
