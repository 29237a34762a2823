"""Classifiers as the runs that trained them left them."""

from __future__ import annotations

from pathlib import Path

from verisal.checkpoint import CARD_KEY, IMAGES_KEY, load_checkpoint
from verisal.errors import CheckpointError
from verisal.fingerprint import state_hash
from verisal.models.classifier import Classifier
from verisal.models.sources.libraries import Built
from verisal.models.sources.shipped import SmallResNet

_PREFIX, _NETWORK = "classifier.", "classifier.network."


def from_run(path: Path) -> Built:
    """The classifier of a checkpoint that ``verisal fit`` wrote, with batch normalisation as it was trained.

    Raises:
        CheckpointError: a damaged file, one of another task, or weights that do not fit its card.
    """
    content = load_checkpoint(path)
    card, state = content.get(CARD_KEY, {}), content.get("state_dict", {})
    if card.get("task") != "classifier":
        raise CheckpointError(
            f"{path} is no checkpoint of a classifier but of {card.get('task', 'something without a card')!r}"
        )
    own = {name: card[name] for name in ("widths", "blocks", "channels", "stem_stride") if name in card}
    network = SmallResNet(len(card["class_names"]), **own)
    try:
        network.load_state_dict(
            {name.removeprefix(_NETWORK): part for name, part in state.items() if name.startswith(_NETWORK)}
        )
        mean, std = (state[f"{_PREFIX}{name}"].flatten().tolist() for name in ("mean", "std"))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: weights do not fit its card: {error}") from error
    return Built(
        network.eval(),
        image_size=card["image_size"],
        mean=mean,
        std=std,
        class_names=card["class_names"],
        stages=network.stage_names,
        channels=card.get("channels"),
        seen_images=content.get(IMAGES_KEY, {}),
    )


def folded_hash(classifier: Classifier) -> str:
    """:func:`.state_hash` of what an export makes of the classifier; "" where that has the same weights."""
    network = classifier.network
    if not isinstance(network, SmallResNet) or network.folded:
        return ""
    own, folded = classifier.state_dict(), network.fold().state_dict()
    around = {name: part for name, part in own.items() if not name.startswith("network.")}
    return state_hash(around | {f"network.{name}": part for name, part in folded.items()})
