"""Weights from files: tensors only, never code, and a clear word where they do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from verisal.errors import CheckpointError

__all__ = ["fit_weights", "read_weights"]

_NAMED = 6


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of a pickle that is read with ``weights_only=True``.

    A mapping under ``state_dict`` or ``model``, and names that all start with ``module.``, are unwrapped.

    Raises:
        CheckpointError: a URL, a missing or damaged file, or one that holds anything but named tensors.
    """
    if "://" in str(path):
        raise CheckpointError(
            f"{path}: weights are not loaded from URLs; download the file and give its path"
        )
    target = Path(path)
    if not target.is_file():
        raise CheckpointError(f"{target} does not exist; give the path of a .safetensors or .pth file")
    if target.suffix == ".safetensors":
        try:
            return _plain_names(load_file(target))
        except SafetensorError as error:
            raise CheckpointError(f"{target} is not a safetensors file: {error}") from None
    try:
        content = torch.load(target, map_location="cpu", weights_only=True)
    # A damaged archive fails with any error, and torch's own words advise to switch the protection off.
    except Exception as error:
        reason = (
            "it holds something other than tensors and plain data, or is damaged"
            if isinstance(error, pickle.UnpicklingError)
            else "it is likely truncated or damaged"
        )
        raise CheckpointError(
            f"{target} ({target.stat().st_size} bytes) cannot be loaded: {reason};"
            " save the network's state_dict() and give that file"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{target} holds no state dict (names to tensors); save the network's state_dict()"
        )
    return _plain_names(content)


def fit_weights(
    network: nn.Module, weights: Mapping[str, Tensor], *, source: object, class_names: Sequence[str]
) -> None:
    """Load all weights into the network.

    Args:
        network: whose parameters and buffers are set.
        weights: by name.
        source: of the weights, for the message.
        class_names: of the network.

    Raises:
        CheckpointError: names or shapes that differ; where only the number of classes does, both numbers
            and the names that are known.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    shapes = {
        name: (tuple(weights[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    }
    if not missing and not unknown and not shapes:
        network.load_state_dict(dict(weights))
        return
    number = len(class_names)
    heads = {found[0] for found, wanted in shapes.values() if wanted[:1] == (number,) and found}
    if (
        not missing
        and not unknown
        and len(heads) == 1
        and all(w[:1] == (number,) for _, w in shapes.values())
    ):
        raise CheckpointError(
            f"{source} was made for {heads.pop()} classes (the file does not name them), but the classifier"
            f" has {number}: {', '.join(class_names)}; give the class_names of the file"
        )
    lines = [
        *_listed("the network has, the file lacks", missing),
        *_listed("the file has, the network lacks", unknown),
        *_listed(
            "other shapes", [f"{name}: file {found}, network {own}" for name, (found, own) in shapes.items()]
        ),
    ]
    raise CheckpointError(
        f"{source} does not fit {type(network).__name__}:\n"
        + "\n".join(lines)
        + "\nCheck the architecture and its arguments"
    )


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"  {title} ({len(names)}): {', '.join(names[:_NAMED])}{more}"]


def _plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapped = bool(weights) and all(name.startswith("module.") for name in weights)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in weights.items()}
