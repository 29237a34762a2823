"""bfloat16 is for training steps; what is reported is computed in float32."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from verisal.cli import main
from verisal.cli._precision import training_precision
from verisal.errors import ConfigError

CONFIG = """
model: {class_path: toy.ToyTask}
data: {class_path: toy.ToyData}
trainer: {max_epochs: 2, accelerator: cpu}
wandb: {mode: disabled}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "e2e"))
    (tmp_path / "toy.yaml").write_text(CONFIG)
    yield "toy.yaml"
    sys.modules.pop("toy", None)


@pytest.mark.parametrize(
    ("precision", "trained"),
    [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32), (None, torch.float32)],
)
def test_only_training_steps_are_in_bfloat16(config, monkeypatch, precision, trained):
    seen, forward = set(), nn.Linear.forward

    def watched(self, values):
        result = forward(self, values)
        seen.add((self.training, result.dtype))
        return result

    monkeypatch.setattr(nn.Linear, "forward", watched)
    more = [] if precision is None else [f"--trainer.precision={precision}"]
    assert main(["fit", "--config", config, "--run_dir", "run", *more]) == 0
    # Validation and the test at the end are in eval mode.
    assert seen == {(True, trained), (False, torch.float32)}
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == precision
    seen.clear()
    fitted = json.loads(Path("run/report.json").read_text())["metrics"]
    assert main(["test", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    assert seen == {(False, torch.float32)}
    assert json.loads(Path("again/report.json").read_text())["metrics"] == fitted


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_refused_in_one_sentence(config, capsys, precision):
    assert main(["fit", "--config", config, f"--trainer.precision={precision}"]) == 2
    error = capsys.readouterr().err
    assert (
        f"trainer.precision must be 32-true or bf16-mixed (training steps alone), found '{precision}'"
        in error
    )
    assert not Path("runs").exists()


def test_the_autocast_is_for_the_device_of_the_training(monkeypatch):
    assert training_precision(32, "auto") == []
    for there, given, device in ((False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        (plugin,) = training_precision("bf16", given)
        assert (plugin.device, plugin.precision) == (device, "bf16-mixed")
    with pytest.raises(ConfigError):
        training_precision("transformer-engine", "auto")
