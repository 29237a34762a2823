import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from verisal.callbacks import NumericGuard
from verisal.errors import NumericError
from verisal.types import Batch, Sample


class Task(LightningModule):
    def __init__(self, bad: str) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.bad = bad

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch.images.mean((1, 2, 3))[:, None]).mean()
        if batch_idx == 1 and self.bad in ("nan", "inf"):
            return loss * float(self.bad)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 2 and self.bad == "weight":
            nn.init.constant_(self.layer.bias, float("nan"))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader():
    samples = [
        Sample(
            torch.rand(3, 4, 4),
            0,
            f"image-{index}",
            torch.zeros(1, dtype=torch.int64),
            torch.ones(1, 4, 4, dtype=torch.bool),
            torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
        )
        for index in range(6)
    ]
    return DataLoader(samples, batch_size=2, collate_fn=Batch.collate)


def trainer(tmp_path):
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[NumericGuard(tmp_path)],
    )


@pytest.mark.parametrize(("bad", "words"), [("nan", "loss is nan"), ("inf", r"loss is -?inf")])
def test_bad_loss_stops_before_the_weights_change_and_names_the_images(tmp_path, bad, words):
    task = Task(bad)
    with pytest.raises(NumericError, match=words):
        trainer(tmp_path).fit(task, loader())
    record = json.loads((tmp_path / "numeric_error.json").read_text())
    assert (record["epoch"], record["batch_index"], record["step"]) == (0, 1, 1)
    assert record["image_ids"] == ["image-2", "image-3"]
    assert all(bool(torch.isfinite(value).all()) for value in task.state_dict().values())


def test_bad_weight_stops_at_the_end_of_the_epoch(tmp_path):
    with pytest.raises(NumericError, match=r"weights are not finite, the first is layer\."):
        trainer(tmp_path).fit(Task("weight"), loader())
    assert "layer.bias" in json.loads((tmp_path / "numeric_error.json").read_text())["weights"]


def test_finite_training_is_left_alone(tmp_path):
    trainer(tmp_path).fit(Task("nothing"), loader())
    assert not (tmp_path / "numeric_error.json").exists()
