"""Images that serve two purposes, also in commands and runs that follow one another, are refused."""

from __future__ import annotations

from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from verisal.checkpoint import IMAGES_KEY
from verisal.data import OF_CLASSIFIER, KnowsImages, different, guard_seen, guard_splits, shared_images
from verisal.models import Classifier
from verisal.types import HasClassifier

_USES = {"fit": ("fit", "val"), "validate": ("val",), "test": ("test",), "predict": ()}
# What the images of a use must not have been before.
_APART = {"fit": ("val",), "val": ("fit", "classifier"), "test": ("fit", "val", "classifier")}
_TOLD = {
    "fit": "the images that the checkpoint was fitted on",
    "val": "the images by which the checkpoint was chosen",
    "classifier": OF_CLASSIFIER["fit"],
}


@final
class ImageGuard(Callback):
    """Compares the images of a command with each other and with those that its weights depend on.

    Images are compared by their pixels, see :class:`.ImageDigests`. A fit writes those that it
    fits and validates on into its checkpoints, from where they get into exports, and beside them those that
    trained its classifier, where that one knows. Refused before any work are, in a fit, an image of two
    splits; in a validation, one that was fitted on; in a test, one that was fitted or validated on, or
    trained the classifier. Predictions claim nothing: there the shared images are named in a line.

    Data modules that are no :class:`.KnowsImages` are left alone, and so are checkpoints from
    before there were records, of which a line tells.

    Args:
        tests: True if a fit is followed by a test, whose images then are compared beforehand.
    """

    def __init__(self, *, tests: bool = False) -> None:
        super().__init__()
        self._tests = tests
        self._seen: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the images that the command reads.

        Raises:
            DataError: an image serves two purposes.
        """
        data = _data(trainer)
        uses = _USES[stage]
        if data is None or not uses:
            return
        trained = _classifier_images(pl_module)
        if stage == "fit":
            compared = (*uses, "test") if self._tests else uses
            guard_splits({use: data.digests(use) for use in compared})
            self._seen = {use: different(data.digests(use).values) for use in uses}
            used = trained or _classifier_images(data)
            if "fit" in used:
                self._seen["classifier"] = used["fit"]
            uses = compared
        for use in uses:
            known = {"val": ("fit",), "test": ("fit", "val")}.get(use, ())
            seen = {key: trained[key] for key in known if key in trained}
            if seen:
                guard_seen(data.digests(use), use, seen, told=OF_CLASSIFIER)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write down the images that the weights depend on."""
        if self._seen:
            checkpoint[IMAGES_KEY] = dict(self._seen)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the images that the command reads with those that the weights depend on.

        Raises:
            DataError: an image serves two purposes.
        """
        data, fn = _data(trainer), str(trainer.state.fn.value if trainer.state.fn else "")
        if data is None or fn not in _USES:
            return
        seen = checkpoint.get(IMAGES_KEY)
        if not seen:
            _say(trainer, "images: the checkpoint does not tell which ones it was fitted on; not compared")
            return
        for use in _USES[fn]:
            before = {key: seen[key] for key in _APART[use] if key in seen}
            guard_seen(data.digests(use), use, before, told=_TOLD)
        if fn == "predict":
            digests = data.digests("predict")
            if names := shared_images(digests, torch.cat(list(seen.values()))):
                _say(
                    trainer,
                    f"images: {len(names)} of {len(digests.names)} are among those that the weights depend on"
                    f" ({', '.join(names[:2])}); their scores say little of new images",
                )
        for use, values in self._seen.items():
            self._seen[use] = different(torch.cat([values, seen.get(use, values)]))


def _data(trainer: Trainer) -> KnowsImages | None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return data if isinstance(data, KnowsImages) else None


def _classifier_images(owner: object) -> dict[str, Tensor]:
    """What trained the frozen classifier of a task or data module, where it has one that knows."""
    classifier = owner.classifier if isinstance(owner, HasClassifier) else None
    return dict(classifier.seen_images) if isinstance(classifier, Classifier) else {}


def _say(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        print(line, flush=True)
