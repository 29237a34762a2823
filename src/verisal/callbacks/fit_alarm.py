"""An alarm for the classifier of a run, fitted once the training is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed

from verisal.attacks.names import Attacks
from verisal.callbacks.explaining.callback import ExplainingCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.names import LogsScores
from verisal.callbacks.explaining.processes import agreed
from verisal.callbacks.panels import by_name
from verisal.callbacks.report import ReportRun
from verisal.detection import Alarm
from verisal.detection.detector_file import ALARM
from verisal.detectors import Detector
from verisal.errors import ConfigError
from verisal.functional.adversarial import round_to_8bit
from verisal.models import Classifier
from verisal.results import Evaluation, ScoreName
from verisal.saliency import Saliency
from verisal.types import check_range


@final
@dataclass(eq=False, repr=False)
class FitAlarm(ExplainingCallback):
    """Fits an :class:`.Alarm` to the classifier in a test or validate run, and reports what it finds.

    The labelled images of the run are divided into three parts as :meth:`.Alarm.fit` says: attacked to learn
    from, clean for the threshold, and attacked to report on. So the loader's images must be ones that the
    network was not trained on, some 450 for 5 % of false alarms. Nothing is done in a fit, whose weights
    still change. Of several processes on one machine each attacks and measures its share, and all get the
    same alarm; on several machines every process does all of it. Options as of :class:`ExplainingCallback`,
    but for the methods and ``every_n_epochs``.

    Args:
        attacks: that the alarm learns from, a list, or name to attack; see :meth:`.Alarm.fit`.
        unseen: attacks that are only reported on.
        detector: what learns; :func:`.default_detector` by default.
        false_alarms: allowed share of clean images that are reported.

    Attributes:
        alarm: the last one that was fitted, None before; with a :class:`.ReportRun` it is written to
            ``alarm.safetensors`` in the run's folder, which :func:`.load_alarm` and ``verisal explain
            --detector`` take.

    Raises:
        ConfigError: settings out of range; while running, a classifier that decides by no softmax, or too
            few images.
    """

    methods: Mapping[str, Saliency] | Sequence[Saliency] = field(default=(), init=False)
    every_n_epochs: int = field(default=1, init=False)
    attacks: Attacks | None = None
    _: KW_ONLY
    unseen: Attacks = ()
    detector: Detector | None = None
    false_alarms: float = 0.05

    controlled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, 1, false_alarms=self.false_alarms)
        self.alarm: Alarm | None = None
        self._report_run: ReportRun | None = None
        self._images: list[tuple[str, Tensor, int]] = []

    def typed_scores(self, split: str, *, after: Sequence[LogsScores] = ()) -> dict[ScoreName, str]:
        """None: what an alarm finds stands in the report."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, beside what the other callbacks do."""
        super().setup(trainer, pl_module, stage)
        listed = trainer.callbacks  # type: ignore[attr-defined]
        self._report_run = next((one for one in listed if isinstance(one, ReportRun)), None)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first batch, unless this is a fit."""
        super().on_validation_epoch_start(trainer, pl_module)
        self.due = self.due and trainer.state.fn is not TrainerFn.FITTING

    on_test_epoch_start = on_validation_epoch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say nothing: a fit is never explained here."""

    def begin(self, epoch: Epoch) -> None:
        """Forget the images of another run."""
        super().begin(epoch)
        self._images = []

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Keep the images of one batch that have a label, in 8 bits."""
        batch = seen.batch
        rows = zip(batch.image_ids, round_to_8bit(batch.images).cpu(), batch.labels.tolist(), strict=True)
        self._images += [row for row in rows if row[2] >= 0]
        epoch.step("alarm")

    def _fit(
        self,
        classifier: Classifier,
        known: Sequence[tuple[str, Tensor, int]],
        epoch: Epoch,
        store: Path | None,
    ) -> None:
        # Lightning evaluates in inference mode, and a fit needs gradients.
        with epoch.scope(), torch.enable_grad():
            images = torch.stack([image for _, image, _ in known]).float() / 255
            self.alarm = Alarm.fit(
                classifier,
                images.to(epoch.device),
                torch.tensor([label for *_, label in known]),
                detector=self.detector,
                attacks=self.attacks,
                unseen=self.unseen,
                false_alarms=self.false_alarms,
                seed=self.seed,
                store=store,
                rank=0 if store is None else epoch.rank,
                world_size=1 if store is None else epoch.processes,
            )

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Fit on the images of all processes, the same on each."""
        known = _of_all_processes(self._images)
        self._images = []
        if not known:
            return None
        if not isinstance(epoch.classifier, Classifier):
            raise ConfigError(
                f"an alarm judges by a verisal.models.Classifier, found {type(epoch.classifier).__name__};"
                " make the module's classifier one, or leave FitAlarm out"
            )
        with _common_folder(epoch) as store:
            # An error of one process is raised on all, none of which waits for it.
            agreed(partial(self._fit, epoch.classifier, known, epoch, store))
        if self.alarm is None:
            return None
        found = self.alarm.report
        if self._report_run is not None and epoch.rank == 0:
            self.alarm.save(self._report_run.folder / ALARM)
        return None if found is None else _of_split(found, epoch.split, repr(self.alarm))


@contextmanager
def _common_folder(epoch: Epoch) -> Iterator[Path | None]:
    """An empty folder of the first process that all see; None for one process, or where some do not."""
    if epoch.processes == 1:
        yield None
        return
    with TemporaryDirectory(prefix="verisal-") as own:
        first = Path(agreed(lambda: own)[0])
        yield first if all(agreed(first.is_dir)) else None
        agreed(lambda: None)


def _of_all_processes(own: list[tuple[str, Tensor, int]]) -> list[tuple[str, Tensor, int]]:
    """Images of all processes by name, each once: a sampler that pads gives some to two."""
    parts = [own]
    if distributed.is_available() and distributed.is_initialized():
        parts = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(parts, own)
    by_id = {row[0]: row for row in chain.from_iterable(parts)}
    return [by_id[name] for name in sorted(by_id, key=by_name)]


def _of_split(found: Evaluation, split: str, alarm: str) -> Evaluation:
    """The report of an alarm, which calls its own part ``test``, as one of the run's split."""
    scores = {ScoreName(split, name.row, name.column): score for name, score in found.scores.items()}
    return replace(found, split=split, scores=scores, settings={"alarm": alarm, **found.settings})
