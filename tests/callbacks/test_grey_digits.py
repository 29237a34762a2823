"""MNIST and FashionMNIST in torchvision's form on disk, one channel from the file to the picture."""

import gzip
import struct

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from verisal.attacks import FGSM
from verisal.callbacks import ReportRun, RobustValidation, SaliencyMetrics, SaliencyPanels
from verisal.metrics import PerturbationCurve
from verisal.saliency import GradCAM, Gradient


def write_idx(root, name, count):
    """Bright squares at one of four places, in the four files of a set of this name."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.arange(count) % 4
        images = generator.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 16 * (label // 2), 16 * (label % 2)
            image[top : top + 10, left : left + 10] += 180
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + values.tobytes())


class Digits(LightningModule):
    """As the first tutorials have it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("kind", [datasets.MNIST, datasets.FashionMNIST])
@pytest.mark.slow
def test_one_channel_goes_to_the_end(tmp_path, kind):
    write_idx(tmp_path, kind.__name__, 64)
    transform = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1307,), (0.3081,))]
    )
    train, test = (
        DataLoader(kind(tmp_path, train=train, transform=transform), batch_size=16, shuffle=train)
        for train in (True, False)
    )
    methods = [Gradient(), GradCAM()]
    metrics = SaliencyMetrics(methods, [PerturbationCurve("deletion", steps=8)])
    robust, panels = RobustValidation([FGSM(0.1)]), SaliencyPanels(methods, max_images=2)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=6, logger=False, default_root_dir=tmp_path,
        callbacks=[metrics, robust, panels, ReportRun(tmp_path / "run")], **quiet,
    )  # fmt: skip
    trainer.fit(Digits(), train, test)
    trainer.validate(trainer.lightning_module, test, verbose=False)
    auc = {name.row: score.value for name, score in metrics.evaluation.scores.items() if name.part == "auc"}
    assert auc["gradient"] < auc["random"]
    values = {str(name): score.value for name, score in robust.evaluation.scores.items()}
    assert values["val/clean/robust/accuracy"] == 1
    # The loader's images are one channel in [0, 1] again, and the picture of them is grey.
    (first, _) = panels.evaluation.panels
    raw = kind(tmp_path, train=False).data.float() / 255
    assert (first.image[0] - raw).abs().amax(dim=(1, 2)).min() < 1e-5
    assert all(torch.equal(first.image[0], channel) for channel in first.image)
    assert (
        np.asarray(Image.open(tmp_path / "run" / "figures" / "val_panel_saliency_0.png").convert("RGB")).std()
        > 0
    )
