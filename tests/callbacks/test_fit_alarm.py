"""An alarm that is fitted on the images of a test, and never in a fit."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from verisal.attacks import FGSM
from verisal.callbacks import FitAlarm, ReportRun
from verisal.detection import Alarm
from verisal.errors import ConfigError
from verisal.models import Classifier


class Task(LightningModule):
    """Bright images and dark ones, of one channel."""

    def __init__(self):
        super().__init__()
        network = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8))
            network[0].bias.copy_(torch.tensor([32.0, -32.0]))
        self.classifier = Classifier(network, ["0"], normalization="none", channels=1, image_size=8)
        self.spare = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return self.classifier(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]) + self.spare, batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD([self.spare], lr=0.1)


def loader(count):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    base = 0.47 + 0.06 * labels.float().view(-1, 1, 1, 1)
    images = (base + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)).clamp(0, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=64)


def trainer(tmp_path, *callbacks):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, callbacks=list(callbacks), **quiet,
        enable_checkpointing=False,
    )  # fmt: skip


def test_the_alarm_is_that_of_the_same_images_in_memory(tmp_path):
    callback = FitAlarm([FGSM(16 / 255)], false_alarms=0.2)
    task, images = Task(), loader(240)
    trainer(tmp_path, callback, ReportRun(tmp_path / "run")).test(task, images, verbose=False)
    x, y = images.dataset.tensors
    rounded = (x * 255).round() / 255
    own = Alarm.fit(task.classifier, rounded, y, attacks=[FGSM(16 / 255)], false_alarms=0.2)
    # Images are taken by their names, not in the order of the loader.
    assert callback.alarm.false_alarms == 0.2
    assert callback.alarm.seen["fit"].tolist() == own.seen["fit"].tolist()
    assert callback.alarm.fits()
    scores = {str(name): score.value for name, score in callback.evaluation.scores.items()}
    assert scores == {str(name): score.value for name, score in callback.alarm.report.scores.items()}
    assert (tmp_path / "run" / "alarm.safetensors").is_file()
    assert "Vote" in (tmp_path / "run" / "report.md").read_text()


def test_nothing_is_fitted_while_the_network_trains(tmp_path):
    callback = FitAlarm([FGSM(16 / 255)])
    trainer(tmp_path, callback).fit(Task(), loader(8), loader(8))
    assert callback.alarm is None
    assert callback.evaluation is None


def test_too_few_images_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"false_alarms=0\.05 needs 200 clean images"):
        trainer(tmp_path, FitAlarm([FGSM(16 / 255)])).test(Task(), loader(120), verbose=False)
