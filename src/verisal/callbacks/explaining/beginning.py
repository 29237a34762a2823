"""The beginning of an explained evaluation for all callbacks at once, and the images that they can afford."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer

from verisal.callbacks.explaining.cost import LEAST_IMAGES, SHARE, affordable, synchronise
from verisal.callbacks.explaining.epoch import Epoch
from verisal.callbacks.explaining.loaders import all_batches, batches_of, images_of, loaders_of
from verisal.callbacks.explaining.processes import agreed
from verisal.callbacks.explaining.run import Run
from verisal.callbacks.explaining.subset import Nobody, subset_of
from verisal.types import Batch

if TYPE_CHECKING:
    from verisal.callbacks.explaining.callback import ExplainingCallback

_EXAMPLES = 2
_SETS = "max_images=... sets it"
_LESS = (
    f"at least {LEAST_IMAGES} unless max_images=... says fewer; every_n_epochs=... does it less often, and"
    " fewer steps of methods, curves or attacks make an image cheaper"
)


def begin_all(
    callbacks: Sequence[ExplainingCallback], trainer: Trainer, module: LightningModule, raw: object
) -> None:
    """Begin at the end of the first batch, when averaged weights are in place.

    All begin before any of them explains: what begins late would find another one's batch open.

    Args:
        callbacks: of the trainer.
        trainer: runs the evaluation.
        module: is evaluated.
        raw: the first batch of this process; None where it has none.
    """
    due = [callback for callback in callbacks if callback.due]
    if not due:
        return
    run = due[0].run
    with run.explaining(module.device):
        epoch = run.begin(trainer, module, raw)
        with epoch.scope():
            for callback in due:
                callback.epoch = epoch
                callback.begin(epoch)
            unknown = [
                callback
                for callback in due
                if epoch.fitting and callback.max_images == "auto" and callback.affordable is None
            ]
            if unknown:
                _afford(unknown, run, epoch, None if raw is None else run.batch(raw), trainer)
            for callback in due:
                _choose(callback, trainer, epoch)
            for callback in due:
                callback.start(epoch)


def end_all(run: Run, epoch: Epoch) -> Mapping[str, float]:
    """Seconds of an explained validation of a fit beside those of the rest; the clock starts anew."""
    run.close()
    epoch.over()
    taken = {
        f"{epoch.split}/explaining/seconds": run.clock.spent,
        f"{epoch.split}/explaining/other_seconds": run.clock.own,
        f"{epoch.split}/explaining/share": run.clock.share,
    }
    run.clock.restart()
    return taken if epoch.fitting else {}


def _choose(callback: ExplainingCallback, trainer: Trainer, epoch: Epoch) -> None:
    if not callback.takes_images:
        callback.subset = Nobody()
        return
    most = callback.max_images
    callback.subset = subset_of(
        loaders_of(trainer),
        max_images=most if most != "auto" else callback.affordable if epoch.fitting else None,
        seed=callback.seed,
        limits=None if all_batches(trainer) else batches_of(trainer),
        rank=epoch.rank,
        processes=epoch.processes,
    )
    name = type(callback).__name__
    if callback.subset.described:
        epoch.notice(f"{name} subset", f"{name} {callback.does} {callback.subset.described}")
    epoch.expect(callback.subset.steps(batches_of(trainer)) * len(callback.row_names))


def _afford(
    callbacks: Sequence[ExplainingCallback], run: Run, epoch: Epoch, batch: Batch | None, trainer: Trainer
) -> None:
    """Choose how many images each can explain in its part of a tenth of an epoch, alike on all processes."""
    own, begun = run.clock.own, run.clock.spent

    budget = max(0.0, SHARE * own - begun) / len(callbacks)

    def measured() -> list[tuple[int, float, str]] | None:
        if batch is None:
            return None
        counts = []
        for callback in callbacks:
            seconds = _seconds_per_image(callback, epoch, batch) / epoch.processes
            count = affordable(budget, seconds)
            advice = _SETS if count * seconds <= budget else _LESS
            counts.append((count, count * seconds / max(own, 1e-9), advice))
        return counts

    (counts, *_) = [found for found in agreed(measured) if found is not None]
    total = images_of(loaders_of(trainer))
    for callback, (count, share, advice) in zip(callbacks, counts, strict=True):
        callback.affordable = count
        callback.begin(epoch)
        name, some = type(callback).__name__, total is None or count < total
        images = f"{count} of {total or 'the'} images" if some else f"all {total} images"
        part = share if some or not total else share * total / count
        epoch.notice(
            f"{name} {callback.row_names}",
            f"{name} {callback.does} {images}: about {_percent(part)} of an epoch; {advice}",
        )


def _seconds_per_image(callback: ExplainingCallback, epoch: Epoch, batch: Batch) -> float:
    """Of two images, the second time that they are explained: the first warms up what is made once."""
    few = range(min(_EXAMPLES, len(batch)))
    seconds = 0.0
    for _ in range(2):
        part = batch.rows(few)
        epoch.open(part)
        synchronise(epoch.device)
        start = time.perf_counter()
        callback.trial(epoch, epoch.seen(part))
        synchronise(epoch.device)
        seconds = time.perf_counter() - start
    epoch.close()
    return seconds / len(few)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
