"""Guards: images that serve two purposes are refused, and numbers that are not finite end a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from verisal._files import write_atomic
from verisal.checkpoint import IMAGES_KEY
from verisal.data.guard import OF_CLASSIFIER, KnowsImages, different, guard_seen, guard_splits, shared_images
from verisal.errors import NumericError
from verisal.models import Classifier
from verisal.progress import tell
from verisal.types import Batch, HasClassifier

_USES = {"fit": ("fit", "val"), "validate": ("val",), "test": ("test",), "predict": ()}
# Uses that the images of a use must not have had before.
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
    trained its classifier, where it knows them. Refused before any work are, in a fit, an image of two
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
    """Images that trained the frozen classifier of a task or data module, where it knows them."""
    classifier = owner.classifier if isinstance(owner, HasClassifier) else None
    return dict(classifier.seen_images) if isinstance(classifier, Classifier) else {}


def _say(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        tell(line)


@final
class NumericGuard(Callback):
    """Raises :class:`NumericError` when a training loss, a weight or a buffer is NaN or infinite.

    The loss is read before the backward pass, so the weights are still those of the step before. Weights
    are read before each validation and at the end of each training epoch: before a checkpoint is written.
    A record is kept in ``numeric_error.json`` in the run folder.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self._batch_index = -1
        self._image_ids: tuple[str, ...] = ()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remember which images the next loss is of."""
        self._batch_index = batch_idx
        self._image_ids = batch.image_ids if isinstance(batch, Batch) else ()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss."""
        if not bool(torch.isfinite(loss.detach()).all()):
            self._stop(trainer, f"training loss is {float(loss.detach().float().mean())}", [])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights before they are judged."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._check_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights before they are saved."""
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        broken = [
            name
            for name, tensor in pl_module.state_dict().items()
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if broken:
            self._stop(trainer, f"{len(broken)} weights are not finite, the first is {broken[0]}", broken)

    def _stop(self, trainer: Trainer, what: str, broken: list[str]) -> None:
        record: dict[str, Any] = {
            "what": what,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "batch_index": self._batch_index,
            "image_ids": list(self._image_ids),
            "weights": broken,
            "config": "config.yaml",
        }
        rank = f".{trainer.global_rank}" if trainer.global_rank else ""
        target = self.run_dir / f"numeric_error{rank}.json"
        write_atomic(target, (json.dumps(record, indent=2) + "\n").encode())
        raise NumericError(
            f"{what} in epoch {trainer.current_epoch}, batch {self._batch_index}; training stopped."
            f" The checkpoints in {self.run_dir / 'checkpoints'} are from before it, the batch is named in"
            f" {target.name}. Lower the learning rate, or set trainer.gradient_clip_val"
        )
