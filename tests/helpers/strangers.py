"""Modules, data and loaders as people write them who have never heard of verisal: 16 px, four classes."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CLASSES, SIDE = 4, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize:
    """A transform like torchvision's."""

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        self.mean, self.std = list(mean), list(std)

    def __call__(self, image: Tensor) -> Tensor:
        return (image - image.new_tensor(self.mean)[:, None, None]) / image.new_tensor(self.std)[
            :, None, None
        ]


class Compose:
    """Transforms one after the other, like torchvision's."""

    def __init__(self, transforms: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Tensor) -> Tensor:
        for transform in self.transforms:
            image = transform(image)
        return image


class Pictures(Dataset):
    """(image, label): a bright square in the quarter that the label names, on noise."""

    def __init__(
        self, count: int = 12, *, transform: Callable[[Tensor], Tensor] | None = None, seed: int = 3
    ):
        generator = torch.Generator().manual_seed(seed)
        self.labels = [index % CLASSES for index in range(count)]
        self.images = 0.4 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
        half = SIDE // 2
        for image, label in zip(self.images, self.labels, strict=True):
            row, column = divmod(label, 2)
            image[:, row * half : row * half + half, column * half : column * half + half] += 0.5
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self.labels[index]


class TinyNet(nn.Module):
    """Like a small torchvision network: blocks with batch norm, pooling, dropout, one linear layer."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.layer2 = nn.Sequential(
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x))
        return self.fc(self.dropout(torch.flatten(self.pool(x), 1)))


class Stranger(LightningModule):
    """The module of a tutorial: a network, a loss, an accuracy."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        if net is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                net = TinyNet()
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        self.log("val/accuracy", (self(x).argmax(1) == y).float().mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("test/accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def normalised(count: int = 12, *, seed: int = 3) -> Pictures:
    """Pictures as nearly every project normalises them."""
    return Pictures(count, transform=Compose([Normalize()]), seed=seed)


def loader(data: Dataset | None = None, *, batch_size: int = 4, **settings) -> DataLoader:
    return DataLoader(normalised() if data is None else data, batch_size=batch_size, **settings)


def trainer(*callbacks, **settings) -> Trainer:
    quiet = {
        "logger": False,
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
        "log_every_n_steps": 1,
    }
    return Trainer(callbacks=list(callbacks), **quiet | settings)
