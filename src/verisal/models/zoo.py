"""Classifiers by name or path, and how one is written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from verisal.checkpoint import load_export, save_export
from verisal.errors import CheckpointError, ConfigError

from .classifier import Classifier
from .resnet import SmallResNet

__all__ = ["export_classifier", "load_classifier", "shipped_classifiers"]


def shipped_classifiers() -> tuple[str, ...]:
    """Names of the classifiers whose weights are inside the package."""
    folder = resources.files("verisal") / "weights"
    names = (Path(str(item)).stem for item in folder.iterdir() if item.name.endswith(".safetensors"))
    return tuple(sorted(name for name in names if not name.endswith("_masks")))


def export_classifier(path: Path | str, classifier: Classifier, *, origin: Mapping[str, Any]) -> None:
    """Write a trained :class:`SmallResNet` classifier with batch normalisation folded in.

    Args:
        path: ends in ``.safetensors``; a JSON card is written beside it.
        classifier: around a :class:`SmallResNet`.
        origin: where the weights come from (config, accuracy), plain data for the card.

    Raises:
        ConfigError: another network.
    """
    network = classifier.network
    if not isinstance(network, SmallResNet):
        raise ConfigError(f"only SmallResNet classifiers are exported, found {type(network).__name__}")
    folded = network if network.folded else network.fold()
    card = {
        "network": "SmallResNet",
        "widths": list(network.widths),
        "blocks": network.blocks,
        "stages": list(classifier.stages),
        "class_names": list(classifier.class_names),
        "image_size": classifier.image_size,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "origin": dict(origin),
    }
    tensors = {name: tensor.contiguous() for name, tensor in folded.state_dict().items()}
    save_export(path, tensors, card)


def load_classifier(name: str) -> Classifier:
    """A frozen classifier in eval mode, by the name of a shipped one or the path of an export.

    Raises:
        ConfigError: no such name or file.
        CheckpointError: the file is damaged, or is no classifier export.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        if name not in shipped_classifiers():
            raise ConfigError(
                f"unknown classifier {name!r}; known: {', '.join(shipped_classifiers())},"
                " or the path of an exported .safetensors file"
            )
        path = Path(str(resources.files("verisal") / "weights" / f"{name}.safetensors"))
    tensors, card = load_export(path)
    if card.get("network") != "SmallResNet":
        raise CheckpointError(f"{path} is no classifier export: its card names {card.get('network')!r}")
    network = SmallResNet(len(card["class_names"]), widths=card["widths"], blocks=card["blocks"], folded=True)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit its card: {error}") from error
    classifier = Classifier(
        network,
        card["stages"],
        class_names=card["class_names"],
        image_size=card["image_size"],
        mean=card["mean"],
        std=card["std"],
    )
    return classifier.eval().requires_grad_(False)
