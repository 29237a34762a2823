"""Training and evaluation of the adversarial-image detector, with its comparison rows beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal._numbers import check_range
from verisal.detection import DetectorData
from verisal.detection.attacked_images import GroupTable
from verisal.detection.detector_data import FeatureBatch
from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.table import detection_thresholds
from verisal.detectors import AttributionCNN, DetectorFeatures
from verisal.errors import ConfigError
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics.resampled import Bootstrap
from verisal.models import Classifier
from verisal.results import Evaluation
from verisal.saliency.gates.masks import CHANNEL_STATISTICS, stack_layers
from verisal.tasks._detector_report import build_evaluation, mean_auroc
from verisal.tasks._training import OneCycle, agree_on_buffers, check_planned
from verisal.types import Batch

__all__ = ["DetectorTask", "Row", "Untrained"]

Row = Literal["masks", "masks_activations", "raw_image", "gradient", "activations"]
Untrained = Literal["max_softmax", "shift_consistency"]
Statistic = Literal["mean", "std", "max"]
_RATES = (0.05, 0.01)
Thresholds = Mapping[str, Mapping[float, float | None]]


@final
class DetectorTask(L.LightningModule):
    """Trains one small CNN per row, all on the same images in the same batches, and compares them.

    Rows differ in what the CNN sees only: learned masks, masks and activations, the raw image, the gradient,
    or the ungated activation statistics (the control that says whether masks add anything). Scores that need
    no training stand beside them. Rows share no parameter and their losses are summed, so
    a row's result does not depend on which others are trained, apart from the random numbers they draw.

    Every row has ``members`` networks that differ in their seed; its score is the mean of their logits, and
    each member's AUROC is reported too. After each validation epoch a row whose mean AUROC on the fitted
    attacks has risen is kept (weights and thresholds); test and predict use the kept ones. Thresholds come
    from clean validation images alone.

    Args:
        rows: which rows are trained.
        untrained: which scores without training stand beside them; ``shift_consistency`` needs the view
            ``shifted``.
        head: the row whose alarm ``predict`` reports.
        members: networks per row.
        grid: side of the common grid that per-layer maps are resized to.
        statistics: which statistics over the channels of a gate or an activation are read.
        width: channels of the CNN's first block.
        dropout: of the pooled features.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        resamples: bootstrap resamples of the test report's intervals.
        seed: of the networks' first weights and of the bootstrap.

    Raises:
        ConfigError: a head that is not among the rows, an unknown statistic, or values out of range.
    """

    task_name = "detector"
    monitor, monitor_mode = "val/kept/auroc", "max"

    def __init__(
        self,
        *,
        rows: Sequence[Row] = ("masks_activations", "masks", "activations", "gradient", "raw_image"),
        untrained: Sequence[Untrained] = ("max_softmax",),
        head: Row = "masks_activations",
        members: int = 3,
        grid: int = 16,
        statistics: Sequence[Statistic] = ("mean", "std", "max"),
        width: int = 16,
        dropout: float = 0.2,
        learning_rate: float = 0.004,
        weight_decay: float = 0.02,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(1, members=members, grid=grid, width=width)
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay, resamples=resamples, seed=seed)
        check_range(0, 1, dropout=dropout)
        known = bool(statistics) and set(statistics) <= set(CHANNEL_STATISTICS)
        if head not in rows or not known or len(set(rows)) != len(rows):
            raise ConfigError(
                f"head must be one of the rows, rows must differ and statistics be some of"
                f" {list(CHANNEL_STATISTICS)}; found head={head!r}, rows={list(rows)},"
                f" statistics={list(statistics)}"
            )
        self.save_hyperparameters(logger=False)
        self.row_names, self.untrained = tuple(rows), tuple(untrained)
        self.head, self.members, self.grid = head, members, grid
        self.statistics = [CHANNEL_STATISTICS.index(name) for name in statistics]
        self.width, self.dropout = width, dropout
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.resamples, self.seed = resamples, seed
        self.networks = nn.ModuleDict()
        self.kept = nn.ModuleDict()
        # Finite from the start, because a run stops at the first buffer that is not.
        self.register_buffer("best", torch.full((len(rows),), -1.0, dtype=torch.float64))
        self.register_buffer(
            "thresholds", torch.zeros(len(self.report_rows), len(_RATES), dtype=torch.float64)
        )
        self.register_buffer("supported", torch.zeros(len(self.report_rows), len(_RATES), dtype=torch.bool))
        self.register_buffer("negatives", torch.zeros((), dtype=torch.int64))
        self.best: Tensor
        self.thresholds: Tensor
        self.supported: Tensor
        self.negatives: Tensor
        self.evaluation: Evaluation | None = None
        self._restored = False
        self._attached: tuple[DetectorFeatures, Classifier] | None = None
        self._scores = DetectionScores(self.report_rows, members)

    @property
    def report_rows(self) -> tuple[str, ...]:
        """Rows of the result table: the trained ones, then the untrained ones."""
        return (*self.row_names, *self.untrained)

    @property
    def _data(self) -> DetectorData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DetectorData):
            raise ConfigError(f"DetectorTask needs DetectorData, found {type(data).__name__}")
        return data

    def attach(self, features: DetectorFeatures, classifier: Classifier) -> None:
        """Build the networks for what these give, so that ``predict_step`` works without a trainer.

        Args:
            features: what the rows read.
            classifier: whose images are judged.
        """
        self._attached = (features, classifier)
        self.configure_model()

    @property
    def _features(self) -> DetectorFeatures:
        return self._data.features if self._attached is None else self._attached[0]

    @property
    def _classifier(self) -> Classifier:
        return self._data.classifier if self._attached is None else self._attached[1]

    def configure_model(self) -> None:
        """Build the networks for the stages and queries that the data module states."""
        if len(self.networks):
            return
        if "shift_consistency" in self.untrained and "shifted" not in self._features.views:
            raise ConfigError(
                "shift_consistency needs the shifted view: set data.features.views to [original, shifted],"
                f" found {list(self._features.views)}"
            )
        for row in self.row_names:
            members = []
            for member in range(self.members):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derive_seed(self.seed, row, member))
                    members.append(
                        AttributionCNN(self._channels(row), width=self.width, dropout=self.dropout)
                    )
            # channels_last makes the CPU convolutions faster.
            self.networks[row] = nn.ModuleList(members).to(memory_format=torch.channels_last)
            self.kept[row] = copy.deepcopy(self.networks[row]).requires_grad_(False)

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end or no validation, before anything is prepared."""
        check_planned(trainer, keeps_by_validation=True)

    def card(self) -> dict[str, object]:
        """What a checkpoint must agree with to be loaded into this task."""
        return self.card_of(self._data)

    def card_of(self, data: DetectorData) -> dict[str, object]:
        """The same, before the data has attacked and measured its images, which takes long."""
        return {
            "task": self.task_name,
            **data.card(),
            "rows": list(self.report_rows),
            "members": self.members,
            "grid": self.grid,
            "statistics": list(self.statistics),
            "width": self.width,
        }

    def _channels(self, row: Row) -> int:
        """Channels of a row's stack."""
        made, stages = self._features, len(self._classifier.stages)
        per_map = len(self.statistics)
        masks = per_map * len(made.mask_names(stages)) + len(made.gated_names(stages))
        activations = per_map * len(made.activation_names(stages))
        counts = {
            "masks": masks,
            "activations": activations,
            "masks_activations": masks + activations,
            "raw_image": 3 * self._fold**2,
            "gradient": 3 * self._fold**2 * len(made.gradient_names()),
        }
        return counts[row]

    def stack(self, row: Row, features: Mapping[str, Tensor]) -> Tensor:
        """What a row's CNN sees, ``(B, C, h, w)`` float32.

        Maps are resized to the common grid. Images and gradients are folded onto it: blocks of pixels become
        channels, so that every row trains the same CNN at the same cost and no pixel is averaged away.
        """
        made, stages = self._features, len(self._classifier.stages)
        if row == "raw_image":
            return self._folded([features["image"].float() / 255])
        if row == "gradient":
            return self._folded([features[name].float() for name in made.gradient_names()])
        layers: list[Tensor] = []
        if row != "activations":
            layers += [features[name][:, self.statistics].float() for name in made.mask_names(stages)]
            layers += [features[name].float() for name in made.gated_names(stages)]
        if row != "masks":
            layers += [features[name][:, self.statistics].float() for name in made.activation_names(stages)]
        return stack_layers(layers, (self.grid, self.grid)).contiguous(memory_format=torch.channels_last)

    @property
    def _fold(self) -> int:
        """Side of the pixel blocks: the largest divisor of the image's side that leaves at least the grid."""
        size = self._classifier.image_size
        return max(
            side for side in range(1, size + 1) if size % side == 0 and size // side >= min(self.grid, size)
        )

    def _folded(self, images: Sequence[Tensor]) -> Tensor:
        blocks = F.pixel_unshuffle(torch.cat(list(images), dim=1), self._fold)
        return blocks.contiguous(memory_format=torch.channels_last)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Input statistics come with the weights that were trained on them."""
        self._restored = True

    def on_fit_start(self) -> None:
        """Standardise every row's input by its statistics on clean fitting images, once for all epochs."""
        if self._restored:
            return
        clean = self._data.clean_fit_batch()
        for row in self.row_names:
            maps = self.stack(row, clean.features).to(self.device)
            for network in (*self._members(self.networks, row), *self._members(self.kept, row)):
                network.set_input_statistics(maps)

    @staticmethod
    def _members(networks: nn.ModuleDict, row: str) -> list[AttributionCNN]:
        return [network for network in networks[row].modules() if isinstance(network, AttributionCNN)]

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        """Sum over rows and members of the binary cross-entropy; both classes weigh the same."""
        weights = torch.where(batch.target > 0, self._data.positive_weight, 1.0)
        flip = bool(torch.rand(()) < 0.5)
        losses = []
        for row in self.row_names:
            maps = self.stack(row, batch.features)
            maps = maps.flip(-1) if flip else maps
            logits = torch.stack([network(maps) for network in self._members(self.networks, row)])
            target = batch.target.expand_as(logits)
            loss = F.binary_cross_entropy_with_logits(logits, target, weight=weights.expand_as(logits))
            self._log_loss(f"train/{row}/loss", loss, batch)
            losses.append(loss)
        total = torch.stack(losses).sum() * self.members
        self._log_loss("train/loss", total, batch)
        return total

    def _log_loss(self, name: str, loss: Tensor, batch: FeatureBatch) -> None:
        self.log(
            name, loss, on_step=False, on_epoch=True, prog_bar=name == "train/loss", batch_size=len(batch),
            sync_dist=True,
        )  # fmt: skip

    def row_scores(self, features: Mapping[str, Tensor], networks: nn.ModuleDict) -> Tensor:
        """``(B, report rows, members)``: every member's logit, then the untrained scores, repeated."""
        scores = []
        for row in self.row_names:
            maps = self.stack(row, features)
            scores.append(torch.stack([network(maps) for network in self._members(networks, row)], dim=1))
        for name in self.untrained:
            score = -features["confidence"] if name == "max_softmax" else features["shift_distance"]
            scores.append(score[:, None].expand(-1, self.members))
        return torch.stack(scores, dim=1)

    def on_validation_start(self) -> None:
        """Judge and keep one set of networks, whatever the number of processes."""
        agree_on_buffers(self)

    def validation_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Collect scores: of the networks in training during a fit, of the kept ones otherwise."""
        networks = self.networks if self.trainer.state.fn == "fit" else self.kept
        self._scores.update(self.row_scores(batch.features, networks), batch.image_index, batch.group)

    def on_validation_epoch_end(self) -> None:
        """Report, and keep the rows that have become better."""
        table = self._gathered()
        groups = self._data.table("det_val")
        fitting = self.trainer.state.fn == "fit"
        thresholds = self._found_thresholds(table, groups) if fitting else self._kept_thresholds()
        negatives = groups.counts()["clean"] if fitting else int(self.negatives)
        self.evaluation = build_evaluation(
            "val", table, groups, rows=self.report_rows, thresholds=thresholds,
            bootstrap=Bootstrap(0 if fitting else self.resamples, seed=self.seed), head=self.head,
            negatives=negatives, data=self._data,
        )  # fmt: skip
        if not fitting:
            return
        if not self.trainer.sanity_checking:
            self.negatives.fill_(negatives)
            self._keep(self.evaluation, thresholds)
            self.log("val/kept/auroc", self.best.mean(), prog_bar=True, batch_size=1)
            self._log_scores(self.evaluation)

    def on_test_start(self) -> None:
        """Raise where a training ended before its first validation."""
        rows = [row for row, best in zip(self.row_names, self.best.tolist(), strict=True) if best < 0]
        if rows:
            raise ConfigError(
                f"no network of {rows} was kept: the training ended before a validation could rank attacked"
                " and clean images; train longer"
            )

    def test_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Collect scores of the kept networks."""
        self._scores.update(self.row_scores(batch.features, self.kept), batch.image_index, batch.group)

    def on_test_epoch_end(self) -> None:
        """Report the test split with the thresholds of the validation split."""
        table = self._gathered()
        self.evaluation = build_evaluation(
            "test", table, self._data.table("det_test"), rows=self.report_rows,
            thresholds=self._kept_thresholds(), bootstrap=Bootstrap(self.resamples, seed=self.seed),
            head=self.head, negatives=int(self.negatives), data=self._data,
        )  # fmt: skip
        self._log_scores(self.evaluation)

    def _log_scores(self, evaluation: Evaluation) -> None:
        """Log every defined score; each member's own stay in the report."""
        values = {
            str(name): score.value
            for name, score in evaluation.scores.items()
            if "_member_" not in name.metric
        }
        self.log_dict({name: value for name, value in values.items() if value == value}, batch_size=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Sequence[object]]:
        """Scores of images that come without labels, and the head row's alarm at FPR 5 %."""
        features = dict(self._features(self._classifier, batch.images))
        features["image"] = round_to_8bit(batch.images)
        scores = self.row_scores(features, self.kept).double().mean(dim=2)
        head = self.row_names.index(self.head)
        threshold = self._kept_thresholds()[self.head][_RATES[0]]
        if threshold is None:
            raise ConfigError(
                "this checkpoint has no threshold for FPR 5 %: it was trained with too few clean validation"
                " images; train with a larger data.val_count"
            )
        names = self._classifier.class_names
        columns: dict[str, Sequence[object]] = {
            "image_id": batch.image_ids,
            "prediction": [names[index] for index in features["prediction"].tolist()],
            "probability": features["confidence"].sigmoid().tolist(),
            # No score, no verdict.
            "alarm": [None if one != one else one > threshold for one in scores[:, head].tolist()],
            f"threshold/{self.head}": [threshold] * len(batch),
        }
        return columns | {
            f"score/{row}": scores[:, index].tolist() for index, row in enumerate(self.report_rows)
        }

    def _gathered(self) -> DetectionTable:
        table: DetectionTable = self._scores.compute()
        self._scores.reset()
        return table

    def _found_thresholds(self, table: DetectionTable, groups: GroupTable) -> Thresholds:
        return detection_thresholds(table, self.report_rows, clean=groups.groups.index("clean"), rates=_RATES)

    def _kept_thresholds(self) -> Thresholds:
        found = zip(self.report_rows, self.thresholds.tolist(), self.supported.tolist(), strict=True)
        return {
            row: {rate: at if known else None for rate, at, known in zip(_RATES, values, flags, strict=True)}
            for row, values, flags in found
        }

    def _keep(self, evaluation: Evaluation, thresholds: Thresholds) -> None:
        for index, row in enumerate(self.report_rows):
            if row in self.row_names:
                value = mean_auroc(evaluation, row)
                if value <= float(self.best[index]):
                    continue
                self.best[index] = value
                self.kept[row].load_state_dict(self.networks[row].state_dict())
            for rate, at in enumerate(thresholds[row].values()):
                self.supported[index, rate] = at is not None
                self.thresholds[index, rate] = 0.0 if at is None else at

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of eight shapes
        """AdamW with a one-cycle schedule per step."""
        optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = OneCycle(optimizer, self.trainer, max_lr=self.learning_rate, pct_start=0.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
