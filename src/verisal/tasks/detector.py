"""Training and evaluation of detectors of adversarial images."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor, nn

from verisal.detection.data import DetectorData
from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.report import DetectionResult, build_evaluation, costs_of, drift_words, learned_rows
from verisal.detection.table import RATES, Thresholds, detection_thresholds
from verisal.detectors import Detector, Logits, TrainedDetector
from verisal.detectors.base import epoch_order, require_rows, row_weights
from verisal.detectors.measurements import measure_each
from verisal.detectors.states import restore_states, states_of
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import canonical
from verisal.functional.outputs import log_odds
from verisal.functional.statistics import Bootstrap, ScoreSample
from verisal.functional.statistics.drift import QUANTILES
from verisal.pictures import OPACITY
from verisal.results import Evaluation
from verisal.tasks._rows import check_rows, detector_data, distinct, shown_measurement
from verisal.tasks._training import OneCycle, agree_on_buffers, check_planned
from verisal.types import Batch, Split, check_range

_SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("det_fit", "det_val"), "validate": ("det_val",), "test": ("det_test",), "predict": ()
}  # fmt: skip
_TIMED_IMAGES = 32
_logger = logging.getLogger(__name__)


@final
class DetectorTask(L.LightningModule):
    """Fits detectors on the same images, and compares them.

    Those that are trained in a loop (:class:`.TrainedDetector`) see the same batches side by side; the others
    are fitted once, when the training starts. Rows share no parameter and no random number: the result of
    one does not depend on the others, and is that of :meth:`.Detector.fit` with as many epochs and the same
    batch size. The last step is kept: nothing is chosen by validation. After every epoch thresholds are set
    on clean validation images, and the AUROC on fitted attacks is logged.

    Args:
        detectors: name of a row to a detector that is not fitted. In the loop the trainer's ``max_epochs``
            and the data's ``batch_size`` stand in for a detector's own.
        head: the row whose alarm ``predict`` reports, and that the others are compared with.
        default: which of the data's fits is learned from.
        resamples: bootstrap resamples of the test report's intervals.
        seed: of everything random in the fit, and of the bootstrap.
        opacity: of fused maps over images in pictures, in [0, 1]; 0 for no such pictures.

    Raises:
        ConfigError: a head that is no row, a row whose name is no plain word, or values out of range.
    """

    task_name = "detector"

    def __init__(
        self,
        *,
        detectors: dict[str, Detector],
        head: str,
        default: str = "default",
        resamples: int = 2000,
        seed: int = 0,
        opacity: float = OPACITY,
    ) -> None:
        super().__init__()
        check_range(0, resamples=resamples, seed=seed)
        check_range(0, 1, opacity=opacity)
        check_rows(detectors, head)
        # The states of the detectors are no parts of the module; all names are checked when they are loaded.
        self.strict_loading = False
        # What rebuilds the detectors beside their states, without a config.
        recipes = {row: detector.recipe() for row, detector in detectors.items()}
        given = {"head": head, "default": default, "resamples": resamples, "seed": seed}
        self.save_hyperparameters(given | {"detectors": recipes}, logger=False)
        self.rows, self.detectors, self.opacity = tuple(detectors), dict(detectors), opacity
        self.head, self.default, self.resamples, self.seed = head, default, resamples, seed
        self.trained = {row: one for row, one in detectors.items() if isinstance(one, TrainedDetector)}
        # In the order of the trained rows; filled where there is something to train.
        self.networks = nn.ModuleList()
        shape = (len(self.rows), len(RATES))
        # Finite from the start, because a run stops at the first buffer that is not.
        self.register_buffer("thresholds", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("supported", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("negatives", torch.zeros((), dtype=torch.int64))
        # Of the scores that set the thresholds, so that later images can be compared with them.
        self.register_buffer("clean_scores", torch.zeros(len(self.rows), QUANTILES, dtype=torch.float64))
        self.thresholds: Tensor
        self.supported: Tensor
        self.negatives: Tensor
        self.clean_scores: Tensor
        self.evaluation: Evaluation | None = None
        self._restored = False
        self._predicted: list[float] = []
        self._measured: dict[tuple[Split, str], dict[str, Tensor]] = {}
        # Of the fitted rows, what the networks of each trained row read.
        self._inputs: dict[str, Mapping[str, Tensor]] = {}
        # Scores of rows that need no loop, by row and images; the same in each epoch.
        self._fixed: dict[tuple[str | int, ...], Tensor] = {}
        self._columns = math.lcm(*(one.members for one in self.trained.values()))
        self._scores = DetectionScores(self.rows, self._columns)

    @property
    def _data(self) -> DetectorData:
        return detector_data(self, self.default)

    @property
    def _in_training(self) -> dict[str, nn.ModuleList]:
        """Row to its networks; empty where nothing is trained."""
        built = [part for part in self.networks if isinstance(part, nn.ModuleList)]
        return dict(zip(self.trained, built, strict=True)) if built else {}

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

    @property
    def main_figures(self) -> dict[str, Literal["min", "max"]]:
        """What the alarm finds of the attacks that it was fitted on, false alarms, and the loss."""
        alarm = f"val/{self.head}"
        return {
            f"{alarm}/auroc/mean_seen": "max",
            f"{alarm}/tpr_at_fpr5/mean_seen": "max",
            f"{alarm}/fpr/worst_benign": "min",
            f"{alarm}/end_to_end/right_or_rejected": "max",
            "train/loss": "min",
        }

    @property
    def summed_losses(self) -> int:
        """Number of networks whose losses a training step adds up."""
        return sum(detector.members for detector in self.trained.values())

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end or no validation, before anything is prepared."""
        check_planned(trainer, needs_validation=True)

    def card(self) -> dict[str, object]:
        """Facts that a checkpoint must agree with to be loaded into this task."""
        return self.card_of(self._data)

    def card_of(self, data: DetectorData) -> dict[str, object]:
        """The same, before the data has attacked and measured its images, which takes long."""
        detectors = {row: detector.state_settings() for row, detector in self.detectors.items()}
        return {"task": self.task_name, **data.card(), "rows": list(self.rows), "detectors": detectors}

    def setup(self, stage: str) -> None:
        """Attack and measure what is not in the store yet, and read what the stage needs."""
        data, measurements = self._data, distinct(self.detectors.values())
        data.measure(_SPLITS[stage], [*measurements.values()])
        for split in _SPLITS[stage]:
            for key, measurement in measurements.items():
                if (split, key) not in self._measured:
                    self._measured[split, key] = data.measured(split, measurement)
        if stage == "fit":
            groups = data.groups("det_fit")
            self._rows = groups.fitted(data.families.fits[self.default])
            self._adversarial, self._clean = groups.adversarial[self._rows], groups.clean[self._rows]
            self._images = groups.image_index[self._rows]
            self._weights = row_weights(self._adversarial, self._images).float()
            data.plan("fit", len(self._rows))

    def configure_model(self) -> None:
        """Build the networks of a training, with the statistics of clean fit images."""
        if not self._fitting or len(self.networks):
            return
        for row, detector in self.trained.items():
            require_rows(detector, self._adversarial, self._clean)
            measured = self._measured["det_fit", canonical(detector.measurement)]
            inputs = detector.prepare({name: tensor[self._rows] for name, tensor in measured.items()})
            clean = {name: tensor[self._clean] for name, tensor in inputs.items()}
            self.networks.append(detector.build(clean, seed=self.seed))
            self._inputs[row] = inputs

    def _of(self, split: Split, rows: Tensor) -> dict[str, dict[str, Tensor]]:
        """Detector to what it reads of some images of a split, on the task's device."""
        parts = {
            key: {name: tensor[rows].to(self.device) for name, tensor in measured.items()}
            for (of, key), measured in self._measured.items()
            if of == split
        }
        return {row: parts[canonical(detector.measurement)] for row, detector in self.detectors.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what every detector has learned."""
        for row, networks in self._in_training.items():
            self.trained[row].finish(networks)
        checkpoint["state_dict"] |= states_of(self.detectors)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take out what every detector has learned; networks in training are left to those who train."""
        state = checkpoint["state_dict"]
        restore_states(self.detectors, state)
        # Checkpoints of earlier versions lack it; zeros say that nothing is known.
        state.setdefault("clean_scores", torch.zeros_like(self.clean_scores))
        if not len(self.networks):
            for name in [name for name in state if name.startswith("networks.")]:
                del state[name]
        if different := sorted(state.keys() ^ self.state_dict().keys()):
            raise CheckpointError(
                f"the checkpoint does not fit the detectors of the config: {', '.join(different[:3])} of"
                f" {len(different)} tensors stand in one of them alone; use the config in that run's folder"
            )
        self._restored = True

    def on_fit_start(self) -> None:
        """Fit the detectors that need no loop."""
        self._fixed.clear()
        if self._restored:
            return
        adversarial, clean = self._adversarial.to(self.device), self._clean.to(self.device)
        measured = self._of("det_fit", self._rows)
        images = self._images.to(self.device)
        for row, detector in self.detectors.items():
            if row not in self.trained:
                detector.fit(measured[row], adversarial, clean, images=images, seed=self.seed)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        """Sum over rows and members of the binary cross-entropy, weighed by :func:`.row_weights`.

        Their mean is logged as ``train/loss``: a sum says nothing without the number of networks.
        """
        rows = epoch_order(len(self._rows), seed=self.seed, epoch=self.current_epoch)[batch.cpu()]
        adversarial, weights = self._adversarial[rows].to(self.device), self._weights[rows].to(self.device)
        losses = []
        for row, networks in self._in_training.items():
            detector = self.trained[row]
            inputs = {name: tensor[rows].to(self.device) for name, tensor in self._inputs[row].items()}
            loss = detector.loss(
                networks, inputs, adversarial, weights=weights, seed=self.seed, step=self.global_step
            )
            self._log_loss(f"train/{row}/loss", loss / detector.members, len(rows))
            losses.append(loss)
        if not losses:
            return None
        total = torch.stack(losses).sum()
        self._log_loss("train/loss", total / self.summed_losses, len(rows))
        return total

    def _log_loss(self, name: str, loss: Tensor, count: int) -> None:
        shown = name == "train/loss"
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=shown, batch_size=count, sync_dist=True)

    def on_validation_start(self) -> None:
        """Judge one set of networks, whatever the number of processes."""
        agree_on_buffers(self)
        if not self._fitting:
            self._check_thresholds()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Collect scores."""
        self._collect("det_val", batch.cpu())

    def on_validation_epoch_end(self) -> None:
        """Report, with new thresholds in a training."""
        table = self._gathered()
        if self._fitting and not self.trainer.sanity_checking:
            self._set_thresholds(table)
        if not self.trainer.sanity_checking:
            self._report("det_val", table, 0 if self._fitting else self.resamples)

    def on_test_start(self) -> None:
        """Raise where a training ended before its first validation."""
        self._check_thresholds()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Collect scores."""
        self._collect("det_test", batch.cpu())

    def on_test_epoch_end(self) -> None:
        """Report the test split with the thresholds of the validation split."""
        self._report("det_test", self._gathered(), self.resamples)

    def _check_thresholds(self) -> None:
        if not int(self.negatives):
            raise ConfigError(
                "no threshold was set: the training ended before a validation of clean images; train longer"
            )

    def _collect(self, split: Split, rows: Tensor) -> None:
        groups, networks = self._data.groups(split), self._in_training if self._fitting else {}
        measured, scores = self._of(split, rows), []
        for row, detector in self.detectors.items():
            if row in networks:
                members = self.trained[row].votes(networks[row], measured[row])
            elif (key := (row, *rows.tolist())) in self._fixed and self._fitting:
                members = self._fixed[key]
            else:
                members = self._fixed[key] = detector.member_scores(measured[row])
            # Columns are as many for every row; equal shares of each member keep their mean.
            scores.append(members.double().repeat_interleave(self._columns // members.shape[1], dim=1))
        self._scores.update(torch.stack(scores, dim=1), groups.image_index[rows], groups.group[rows])

    def _gathered(self) -> DetectionTable:
        table: DetectionTable = self._scores.compute()
        self._scores.reset()
        return table

    def _set_thresholds(self, table: DetectionTable) -> None:
        self.negatives.fill_(self._data.groups("det_val").counts()["clean"])
        number, *also = self._data.threshold_groups
        found = detection_thresholds(table, self.rows, clean=number, also=also)
        clean = table.of_group(number)
        for index, row in enumerate(self.rows):
            # Rows without a score keep zeros, as a run stops at a buffer that is not finite.
            if (sample := ScoreSample.of(clean.row_scores(index))).size:
                self.clean_scores[index] = sample.quantiles
            for rate, at in enumerate(found[row].values()):
                self.supported[index, rate] = at is not None
                self.thresholds[index, rate] = 0.0 if at is None else at

    def _known_thresholds(self) -> Thresholds:
        known = zip(self.rows, self.thresholds.tolist(), self.supported.tolist(), strict=True)
        return {
            row: {rate: at if there else None for rate, at, there in zip(RATES, values, flags, strict=True)}
            for row, values, flags in known
        }

    def _known_clean_scores(self) -> dict[str, ScoreSample]:
        """Row to its scores of clean validation images, where they are known."""
        known = zip(self.rows, self.clean_scores.cpu(), strict=True)
        return {row: ScoreSample(kept, int(self.negatives)) for row, kept in known if bool(kept.any())}

    def _report(self, split: Literal["det_val", "det_test"], table: DetectionTable, resamples: int) -> None:
        """Build the evaluation and log every defined score; each member's own stay in the report."""
        timings: dict[str, float] = {}
        if split == "det_test" and self.trainer.is_global_zero:
            images = self._data.groups(split).images[:_TIMED_IMAGES].float() / 255
            timings = costs_of(self.detectors, self._data.classifier, images)
        result = DetectionResult(
            split=split, rows=self.rows, head=self.head, default=self.default, tables={self.default: table},
            thresholds={self.default: self._known_thresholds()}, negatives=int(self.negatives),
            masks=self._measured[split, canonical(shown_measurement(self.detectors, self.head))],
            timings=timings, opacity=self.opacity, learned=learned_rows(self.detectors),
            clean_scores=self._known_clean_scores(),
        )  # fmt: skip
        self.evaluation = build_evaluation(result, self._data, Bootstrap(resamples, seed=self.seed))
        scores = self.evaluation.scores
        values = {str(name): score.value for name, score in scores.items() if "_member_" not in name.metric}
        self.log_dict({name: value for name, value in values.items() if value == value}, batch_size=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Sequence[object]]:
        """Scores of images that come without labels, and the head row's alarm at FPR 5 %."""
        threshold = self._known_thresholds()[self.head][RATES[0]]
        if threshold is None:
            raise ConfigError(
                "this checkpoint has no threshold for FPR 5 %: it was trained with too few clean validation"
                " images; train with a larger data.val_count"
            )
        classifier = self._data.classifier
        images = batch.images.to(classifier.mean.device)
        measured = measure_each(distinct(self.detectors.values()).values(), classifier, images)
        scores = {
            row: detector.judge(measured[canonical(detector.measurement)]).double().tolist()
            for row, detector in self.detectors.items()
        }
        self._predicted += scores[self.head]
        logits = Logits()(classifier, images)["logits"]
        columns: dict[str, Sequence[object]] = {
            "image_id": batch.image_ids,
            "prediction": [classifier.class_names[index] for index in logits.argmax(dim=1).tolist()],
            "probability": log_odds(logits).sigmoid().tolist(),
            # No score, no verdict.
            "alarm": [None if score != score else score > threshold for score in scores[self.head]],
            f"threshold/{self.head}": [threshold] * len(batch),
        }
        return columns | {f"score/{row}": values for row, values in scores.items()}

    def on_predict_start(self) -> None:
        """Forget the scores of an earlier pass."""
        self._predicted = []

    def on_predict_end(self) -> None:
        """Warn where the images are of another kind than those that set the threshold."""
        sample = self._known_clean_scores().get(self.head)
        drift = sample.drift(torch.tensor(self._predicted, dtype=torch.float64)) if sample else None
        if drift is not None and drift.drifted:
            _logger.warning("%s", drift_words(self.head, drift, len(self._predicted), "the images"))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of eight shapes
        """AdamW with a one-cycle schedule per step, and each row's own rate and decay."""
        if not self.trained:
            return None
        own, parts = list(self.trained.values()), self._in_training.values()
        groups = [
            {"params": part.parameters(), "lr": one.learning_rate, "weight_decay": one.weight_decay}
            for one, part in zip(own, parts, strict=True)
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        schedule = OneCycle(optimizer, self.trainer, max_lr=[one.learning_rate for one in own], pct_start=0.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
