"""What W&B hears of a command while it runs and when it ends: losses of steps, alerts, exit codes."""

import csv

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from verisal.cli._command import Command
from verisal.cli._trainer import StepLoss
from verisal.errors import ConfigError, NumericError
from verisal.reporting import CsvSink, WandbSink


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (self.weight - 1.0).square() + 0.0 * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25)


@pytest.mark.parametrize(
    ("every", "accumulated", "steps"), [(2, 1, ["1", "3"]), (1, 2, ["0", "1", "2"]), (9, 1, [])]
)
def test_losses_of_single_steps_are_logged_as_often_as_the_trainer_says(tmp_path, every, accumulated, steps):
    trainer = Trainer(
        max_epochs=1, log_every_n_steps=every, accumulate_grad_batches=accumulated, logger=CsvSink(tmp_path),
        callbacks=[StepLoss()], accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(torch.zeros(5), batch_size=1))
    file = tmp_path / "metrics.csv"
    rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
    assert [row["step"] for row in rows] == steps
    if accumulated == 1:
        # The weight halves its distance to 1 with every step.
        assert [float(row["train/loss_step"]) for row in rows] == [0.25 ** int(row["step"]) for row in rows]


class Lines(Line):
    summed_losses = 4


def test_of_several_networks_it_is_the_mean(tmp_path):
    class Trained:
        global_step, log_every_n_steps, loggers = 1, 1, [CsvSink(tmp_path)]

    StepLoss().on_train_batch_end(Trained(), Lines(), {"loss": torch.tensor(6.0)}, None, 0)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,train/loss_step", ",0,1.5"]


class Followed:
    id = "followed"

    def __init__(self):
        self.told = []

    def alert(self, **words):
        self.told.append(words)

    def finish(self, exit_code):
        self.told.append(exit_code)


@pytest.mark.parametrize("code", [0, 1])
def test_a_number_that_is_not_finite_is_told_and_no_other_error(tmp_path, code):
    run = Followed()
    command = Command(loggers=[WandbSink(offline=True, save_dir=tmp_path, experiment=run)])
    command.alert(ConfigError("a typo"))
    assert run.told == []
    command.alert(NumericError("training loss is nan"))
    assert (run.told[0]["text"], run.told[0]["level"]) == ("training loss is nan", "ERROR")
    command.code = code
    command.close()
    assert run.told[1:] == [code]
