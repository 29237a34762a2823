"""Networks on other channels than three that see what a network on RGB images sees."""

import copy

import torch
from torch import Tensor, nn

from verisal.models import Classifier

COUNTS = (1, 2, 3, 4, 13)


def as_rgb(images: Tensor) -> Tensor:
    """What the network on RGB images gets: grey three times, the second of two twice, the first of many."""
    picked = {1: [0, 0, 0], 2: [0, 1, 1]}.get(images.shape[1], [0, 1, 2])
    return images[:, picked]


def merged(values: Tensor, channels: int) -> Tensor:
    """Gradients or weights ``(B, 3, ...)`` of RGB images as those of images of other channels."""
    if channels == 1:
        return values.sum(dim=1, keepdim=True)
    if channels == 2:
        return torch.stack([values[:, 0], values[:, 1] + values[:, 2]], dim=1)
    unread = torch.zeros_like(values[:, :1]).expand(-1, channels - 3, *values.shape[2:])
    return torch.cat([values, unread], dim=1)


def on_channels(network: nn.Module, channels: int) -> nn.Module:
    """A network whose logits for ``images`` are those of ``network`` for ``as_rgb(images)``."""
    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            kept = {key: getattr(module, key) for key in ("stride", "padding")}
            other = nn.Conv2d(channels, module.out_channels, module.kernel_size, **kept)
            other.weight, other.bias = nn.Parameter(merged(module.weight.detach(), channels)), module.bias
            holder, _, own = name.rpartition(".")
            setattr(network.get_submodule(holder), own, other)
            break
    return network


def classifier_on(classifier: Classifier, channels: int) -> Classifier:
    """The same of a classifier whose normalisation is alike for all channels."""
    first = classifier.normalization
    return Classifier(
        on_channels(classifier.network, channels),
        classifier.stages,
        normalization=(first.mean[0], first.std[0]),
        class_names=classifier.class_names,
        image_size=classifier.image_size,
    ).eval()


class InUnits(nn.Module):
    """A network that takes values of a range, as those of radiology do, and gives all logits or one.

    ``one``: the second logit less the first.
    """

    def __init__(self, network: nn.Module, bounds: tuple[float, float], *, one: bool = False) -> None:
        super().__init__()
        (self.low, high), self.network, self.one = bounds, network, one
        self.width = high - self.low

    def forward(self, values: Tensor) -> Tensor:
        logits = self.network((values - self.low) / self.width)
        return logits[:, 1:2] - logits[:, :1] if self.one else logits


def images_of(channels: int, count: int, size: tuple[int, int], *, seed: int = 5) -> Tensor:
    """8-bit images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, *size), generator=generator) / 255
