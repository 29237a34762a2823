"""Data for the examples: drawn shapes as a folder of JPEG files by class, or as images with boxes."""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

CLASSES = {"circle": "crimson", "square": "gold", "triangle": "blue"}


def draw(labels: list[int], seed: int) -> tuple[Image.Image, list[list[int]]]:
    """Shapes of up to two classes on grey noise, 64 px, and their boxes ``[left, top, right, bottom]``."""
    rng = torch.Generator().manual_seed(seed)
    image = Image.fromarray(torch.randint(90, 160, (64, 64, 3), generator=rng, dtype=torch.uint8).numpy())
    boxes = []
    for place, label in enumerate(labels):
        pen, (name, colour) = ImageDraw.Draw(image), list(CLASSES.items())[label]
        side, x, y = (
            int(torch.randint(low, high, (), generator=rng)) for low, high in ((16, 26), (1, 6), (1, 38))
        )
        x += 32 * place if len(labels) > 1 else 3 * (seed % 10)
        if name == "circle":
            pen.ellipse((x, y, x + side, y + side), colour)
        else:
            top = [(x, y), (x + side, y)] if name == "square" else [(x + side // 2, y)]
            pen.polygon([(x, y + side), *top, (x + side, y + side)], colour)
        boxes.append([x, y, x + side + 1, y + side + 1])
    return image, boxes


def image_folder(split: str) -> Path:
    """Images by class of ``train`` or ``val`` in the folder that the command line names, or drawn shapes."""
    if sys.argv[1:]:
        return Path(sys.argv[1], split)
    for number in range(90) if split == "train" else range(90, 120):
        file = Path("shapes", split, list(CLASSES)[number % 3], f"{number}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        draw([number % 3], number)[0].save(file, quality=95)
    return Path("shapes", split)


class ShapesWithBoxes(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images ``(3, 64, 64)`` and targets as torchvision's detectors take them: ``boxes`` and ``labels``."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        seed = self.first + index
        labels = [seed % 3] if seed % 2 else [seed % 3, (seed + 1) % 3]
        image, boxes = draw(labels, seed)
        target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}
        return pil_to_tensor(image) / 255, target


def columns(
    samples: list[tuple[Tensor, dict[str, Tensor]]],
) -> tuple[tuple[Tensor | dict[str, Tensor], ...], ...]:
    """Images and targets of a batch, as the references of torchvision's detectors collate them."""
    return tuple(zip(*samples, strict=True))
