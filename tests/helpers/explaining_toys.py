"""A task with a small classifier, annotated samples of 16 x 12 px, and a method that counts its images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from helpers.strangers import trainer as trainer
from verisal.saliency import Saliency
from verisal.types import Batch, SaliencyResult, Sample

CLASSES, SIZE = 4, (16, 12)


@final
@dataclass(frozen=True, kw_only=True)
class Brightness(Saliency):
    """The query's logit times the distance from a grey level; counts images and notes queries."""

    grey: float = 0.4

    needs_module: ClassVar[bool] = False
    seen: ClassVar[list[tuple[float, int]]] = []

    def explain(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, query_class: Tensor
    ) -> SaliencyResult:
        self.seen.extend((self.grey, int(query)) for query in query_class)
        with torch.no_grad():
            weight = classifier(images).gather(1, query_class[:, None]).view(-1, 1, 1, 1)
        attribution = (images - self.grey) * (weight.abs() + 0.1)
        saliency = attribution.abs().amax(dim=1, keepdim=True)
        return SaliencyResult(
            saliency=saliency, raw=saliency, attribution=attribution, n_forward=1.0, n_backward=0.5
        )


class Samples(Dataset[Sample]):
    """Random images with one object of the label's class, and one of another class in every other."""

    def __init__(self, count: int, *, name: str = "toy", labels: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(11)
        self.images = torch.rand(count, 3, *SIZE, generator=generator)
        self.name = name
        self.labels = torch.arange(count) % CLASSES if labels is None else labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        labels = [label, (label + 1) % CLASSES][: 1 + index % 2]
        masks = torch.zeros(len(labels), *SIZE, dtype=torch.bool)
        masks[0, 2:8, 1:6] = True
        boxes = torch.tensor([[1.0, 2.0, 6.0, 8.0], [7.0, 9.0, 11.0, 15.0]])[: len(labels)]
        if len(labels) > 1:
            masks[1, 9:15, 7:11] = True
        return Sample(
            self.images[index], label, f"{self.name}/{index:03d}", torch.tensor(labels), masks, boxes
        )


class Network(torch.nn.Sequential):
    """Says how it would normalise, so that a baseline can be the data set's mean."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__(*layers)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))


class Task(LightningModule):
    """Trains a classifier with dropout and batch norm, so that modes and draws matter."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.classifier = Network(
                torch.nn.Conv2d(3, 6, 3, stride=2),
                torch.nn.BatchNorm2d(6),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.3),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(6, CLASSES),
            )
            torch.nn.init.normal_(self.classifier[-1].weight, std=4.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self.classifier(batch.images), batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/seen", float(len(batch)), batch_size=len(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def loader(count: int = 10, *, batch_size: int = 4, shuffle: bool = False, **settings) -> DataLoader:
    return DataLoader(
        Samples(count, **settings), batch_size=batch_size, shuffle=shuffle, collate_fn=Batch.collate
    )


def right_labels(count: int) -> Tensor:
    """The classes that an untrained task predicts: every image is classified correctly."""
    task = Task().eval()
    with torch.no_grad():
        return task.classifier(Samples(count).images).argmax(dim=1)
