"""A linear classifier on random points: enough for every command, in well under two seconds."""

import os
import signal
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from verisal.errors import ConfigError, DataError
from verisal.results import Evaluation, Score


class ToyTask(LightningModule):
    def __init__(
        self, width: int = 4, classes: int = 2, lr: float = 0.1, nan_at_step: int | None = None
    ) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, classes))
        self.width, self.classes, self.lr, self.nan_at_step = width, classes, lr, nan_at_step
        self.monitor, self.monitor_mode = "val/accuracy", "max"
        self.evaluation: Evaluation | None = None

    def card(self) -> dict[str, Any]:
        return {"classes": [f"class {index}" for index in range(self.classes)], "width": self.width}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        points, labels = batch
        loss = nn.functional.cross_entropy(self.network(points), labels)
        if self.nan_at_step is not None and self.global_step >= self.nan_at_step:
            loss = loss * float("nan")
        _stop_if_asked(self.global_step)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(points))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/accuracy", self._accuracy(batch), batch_size=len(batch[0]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/accuracy", self._accuracy(batch), batch_size=len(batch[0]))

    def on_test_epoch_end(self) -> None:
        value = float(self.trainer.callback_metrics.get("test/accuracy", torch.tensor(0.0)))
        weight = float(self.network[0].weight.double().sum())
        self.evaluation = Evaluation(
            "test",
            {
                "test/toy/accuracy/all": Score(value, float("nan"), float("nan"), 32),
                "test/toy/weight/all": Score(weight, float("nan"), float("nan"), 32),
            },
        )

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Any]:
        scores = self.network(batch[0])[:, 1]
        return {"image_id": [f"{batch_idx}-{row}" for row in range(len(scores))], "score": scores}

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)}

    def _accuracy(self, batch: list[Tensor]) -> Tensor:
        return (self.network(batch[0]).argmax(1) == batch[1]).float().mean()


class ScriptedTask(ToyTask):
    """Finds the given accuracy in each epoch; whatever else may be wrong is a setting, too."""

    def __init__(
        self,
        values: Sequence[float] = (0.1, 0.5, 0.2, 0.3),
        lr: float = 0.1,
        decay: float = 0.7,
        betas: tuple[float, float] = (0.9, 0.999),
        monitor: str = "val/accuracy",
        schedule: Literal["step", "cosine"] = "step",
        classes: int = 2,
        refuse: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(lr=lr, classes=classes)
        self.values, self.decay, self.betas, self.monitor = values, decay, betas, monitor
        self.schedule, self.refuse = schedule, refuse

    def setup(self, stage: str) -> None:
        self._refuse_in("setup")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._refuse_in("step")
        self.log("val/accuracy", self.values[self.current_epoch], batch_size=len(batch[0]))
        self.log("val/other", 1.0, batch_size=len(batch[0]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._refuse_in("step")
        super().test_step(batch, batch_idx)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Any]:
        self._refuse_in(f"batch {batch_idx}")
        return super().predict_step(batch, batch_idx)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, betas=self.betas)
        schedules = torch.optim.lr_scheduler
        if self.schedule == "cosine":
            schedule = schedules.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": schedules.StepLR(optimizer, 1, self.decay)}

    def _refuse_in(self, place: str) -> None:
        if self.refuse == place:
            raise ConfigError(f"refused in {place}")


class BareTask(LightningModule):
    """Says nothing about what its weights were made for."""

    def __init__(self, width: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.network = ToyTask(width, classes).network

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/mean", self.network(batch[0]).mean(), batch_size=len(batch[0]))


def _stop_if_asked(step: int) -> None:
    """``TOY_STOP=6:SIGINT`` sends the signal in step 6, once: how a test presses Ctrl-C."""
    wanted, _, name = os.environ.get("TOY_STOP", "").partition(":")
    if wanted == str(step):
        os.environ["TOY_STOP"] = ""
        os.kill(os.getpid(), signal.Signals[name])


class Unreadable(TensorDataset):
    """A data set of which no image can be read."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(*tensors)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        raise DataError(f"image {index} cannot be read")


class ToyData(LightningDataModule):
    def __init__(
        self, width: int = 4, count: int = 32, num_workers: int = 0, images: str | None = None
    ) -> None:
        super().__init__()
        self.width, self.count, self.num_workers, self.images = width, count, num_workers, images

    def setup(self, stage: str) -> None:
        if self.images is not None and not os.path.isdir(self.images):
            raise DataError(f"{self.images} does not exist")
        generator = torch.Generator().manual_seed(7)
        points = torch.randn(self.count, self.width, generator=generator)
        self.points = TensorDataset(points, (points.sum(1) > 0).long())
        if self.images is not None:
            self.points = Unreadable(self.points.tensors)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=8, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=8, num_workers=self.num_workers)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()


class NamedImages(ToyData):
    """Predicts for images that its user names."""

    def __init__(self, images: Sequence[str] = ()) -> None:
        super().__init__()
        self.named = images

    def predict_dataloader(self) -> DataLoader[Any]:
        if not self.named:
            raise ConfigError("predict needs images: add --data.images='[PATH, ...]'")
        return super().predict_dataloader()


class TestedData(LightningDataModule):
    """Has data for a test alone."""

    __test__ = False

    def test_dataloader(self) -> DataLoader[Any]:
        module = ToyData()
        module.setup("test")
        return module.test_dataloader()
