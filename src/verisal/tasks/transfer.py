"""Fits many detectors on every choice of attacks, and reports how each carries over to the others."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import lightning as L
import torch
from torch import Tensor

from verisal.attacks import AdaptivePGD
from verisal.detection.adaptive import AdaptiveSuite, Attacked, adaptive_scores, attack_defence
from verisal.detection.data import DetectorData
from verisal.detection.groups import GroupTable
from verisal.detection.metric import DetectionTable
from verisal.detection.report import DetectionResult, build_evaluation, costs_of, learned_rows
from verisal.detection.table import RATES, detection_thresholds
from verisal.detectors import Detector, Measurement
from verisal.errors import ConfigError
from verisal.fingerprint import canonical
from verisal.functional.statistics import Bootstrap, ScoreSample
from verisal.pictures import OPACITY
from verisal.results import Evaluation, ScoreName
from verisal.store import FeatureStore
from verisal.tasks._rows import check_rows, detector_data, distinct, shown_measurement
from verisal.types import Split, check_range

_TIMED_IMAGES, _MEASURED = 32, 64
_HEADLINE = {
    "mean unseen": "auroc/mean_unseen",
    "worst unseen": "auroc/worst_unseen",
    "TPR mean unseen": "tpr_at_fpr5/mean_unseen",
    "TPR worst unseen": "tpr_at_fpr5/worst_unseen",
    "FPR clean": "fpr/clean",
    "FPR worst benign": "fpr/worst_benign",
    "right or rejected": "end_to_end/right_or_rejected",
}


# Raised whenever equal detectors come to be fitted otherwise, so that stored scores are made again.
_FIT_RULES = 2


@dataclass(frozen=True)
class _Cell:
    """One fit of one detector with one seed."""

    row: str
    fit: str
    seed: int


@dataclass(frozen=True)
class _AdaptiveCell:
    """One adaptive attack with one radius on a row."""

    row: str
    suite: str
    eps: float
    attack: str


@final
class TransferTask(L.LightningModule):
    """The transfer study: ``test`` fits every detector in every way with every seed, and scores test images.

    There is no training loop of Lightning's: a step of the test is one *cell* of the matrix. The scores of a
    cell are kept in the data's store, so a study that was stopped goes on, and processes share the cells. A
    row's score is the mean over its seeds; the spread over seeds is reported beside it.

    Adaptive attacks, if there are suites of them, know the head row as it was fitted by default with the
    first seed, and are cells too. They are judged on the first images of the test split that the classifier
    gets right. ``hardened`` adds the row ``<head>_hardened``: the head, whose fit images are joined by
    adaptive attacks on it that succeeded; it is attacked anew.

    Args:
        detectors: name of a row to a detector that is not fitted.
        head: the row that the others are compared with.
        default: the fit of the main columns.
        seeds: how often each detector is fitted.
        adaptive: name to a suite of attacks on classifier and detector together, of the head or of the rows
            that the suite names; what they read must be differentiable.
        adaptive_images: how many images they attack.
        hardened: the suite whose attacks on fit images the hardened row is fitted on; None for no such row.
        hardened_images: how many fit images it attacks.
        resamples: bootstrap resamples of the intervals.
        seed: first of the seeds, and that of the bootstrap.
        opacity: of fused maps over images in pictures, in [0, 1]; 0 for no such pictures.

    Raises:
        ConfigError: a head that is no detector, a row whose name is no plain word, no seed, or a suite that
            attacks a row that does not exist.
    """

    task_name = "transfer"

    def __init__(
        self,
        *,
        detectors: dict[str, Detector],
        head: str,
        default: str = "default",
        seeds: int = 3,
        adaptive: dict[str, AdaptiveSuite] | None = None,
        adaptive_images: int = 24,
        hardened: AdaptiveSuite | None = None,
        hardened_images: int = 96,
        resamples: int = 1000,
        seed: int = 0,
        opacity: float = OPACITY,
    ) -> None:
        super().__init__()
        check_range(1, seeds=seeds, adaptive_images=adaptive_images, hardened_images=hardened_images)
        check_range(0, resamples=resamples, seed=seed)
        check_range(0, 1, opacity=opacity)
        check_rows(detectors, head)
        self.detectors, self.head, self.default = dict(detectors), head, default
        self.seeds, self.resamples, self.seed, self.opacity = seeds, resamples, seed, opacity
        self.adaptive, self.adaptive_images = dict(adaptive or {}), adaptive_images
        for name, suite in self.adaptive.items():
            if strange := sorted(set(suite.rows) - set(detectors)):
                raise ConfigError(
                    f"adaptive.{name}.rows names {', '.join(strange)}; the rows are {', '.join(detectors)}"
                )
        self.hardened, self.hardened_images = hardened, hardened_images
        self._hard_row = f"{head}_hardened"
        self.rows = [*detectors, *([self._hard_row] if hardened else [])]
        self.evaluation: Evaluation | None = None
        self._measured: tuple[str, dict[Split, dict[str, Tensor]]] = ("", {})
        self._attacked: dict[str, Attacked] = {}
        self._hard_samples: dict[str, Tensor] = {}
        self._known: dict[_Cell, Detector] = {}

    @property
    def _data(self) -> DetectorData:
        return detector_data(self, self.default)

    @property
    def _cells(self) -> list[_Cell | _AdaptiveCell]:
        """Detector by detector, so that what one measured is read once; then the adaptive attacks."""
        fitted = [
            _Cell(row, fit, seed)
            for row in self.rows
            for fit in self._data.families.fits
            for seed in self._all_seeds
        ]
        return [*fitted, *self._adaptive_cells]

    @property
    def _all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    @property
    def _adaptive_cells(self) -> Iterator[_AdaptiveCell]:
        for row in self._attacked_rows:
            for name, suite in self.adaptive.items():
                if row not in self._rows_of(suite):
                    continue
                for eps in suite.eps:
                    for attack in suite.attacks(eps):
                        yield _AdaptiveCell(row, name, eps, attack)

    def _rows_of(self, suite: AdaptiveSuite) -> tuple[str, ...]:
        return suite.rows or (self.head, self._hard_row)

    @property
    def _attacked_rows(self) -> list[str]:
        known = {row for suite in self.adaptive.values() for row in self._rows_of(suite)}
        return [row for row in self.rows if row in known]

    def _attacked_cell(self, row: str) -> _Cell:
        """The fitted detector that adaptive attacks know."""
        return _Cell(row, self.default, self.seed)

    def _detector(self, row: str) -> Detector:
        return self.detectors[self.head if row == self._hard_row else row]

    def setup(self, stage: str) -> None:
        """Attack and measure what is not in the store yet; the expensive part, shared by the processes."""
        if stage != "test":
            raise ConfigError(f"the transfer study has nothing to {stage}; use verisal test")
        self._data.measure(("det_fit", "det_val", "det_test"), [*distinct(self.detectors.values()).values()])
        self._data.plan("test", len(self._cells))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Fit and score one cell, unless its scores are there."""
        cell = self._cells[int(batch)]
        if isinstance(cell, _AdaptiveCell):
            self._data.scores(self._store(cell), lambda: self._attack(cell))
        else:
            self._data.scores(self._store(cell), lambda: self._fit_and_score(cell))

    def on_test_epoch_end(self) -> None:
        """Report, once every process has done its share."""
        self.trainer.strategy.barrier("cells")
        if not self.trainer.is_global_zero:
            return
        validation, fits = self._data.groups("det_val"), self._data.families.fits
        clean, *also = self._data.threshold_groups
        result = DetectionResult(
            split="det_test", rows=self.rows, head=self.head, default=self.default,
            tables={fit: self._gathered(fit, "det_test") for fit in fits},
            thresholds={
                fit: detection_thresholds(self._gathered(fit, "det_val"), self.rows, clean=clean, also=also)
                for fit in fits
            },
            negatives=validation.counts()["clean"],
            learned=learned_rows({row: self._detector(row) for row in self.rows}),
            clean_scores=self._clean_scores(clean),
            timings=self._timings(),
            masks=self._read("det_test", shown_measurement(self.detectors, self.head)),
            opacity=self.opacity,
        )  # fmt: skip
        bootstrap = Bootstrap(self.resamples, seed=self.seed)
        evaluation = build_evaluation(result, self._data, bootstrap)
        self.evaluation = self._with_adaptive(replace(evaluation, headline=_HEADLINE), bootstrap)
        for row in self.rows:
            name = ScoreName("test", row, "auroc", "mean_unseen")
            if name in evaluation.scores:
                self.log(str(name), evaluation.scores[name].value, batch_size=1, rank_zero_only=True)

    def _clean_scores(self, clean: int) -> dict[str, ScoreSample]:
        """Row to its scores of clean validation images, as fitted by default."""
        table = self._gathered(self.default, "det_val").of_group(clean)
        return {row: ScoreSample.of(table.row_scores(index)) for index, row in enumerate(self.rows)}

    def _store(self, cell: _Cell | _AdaptiveCell) -> FeatureStore:
        if isinstance(cell, _Cell):
            return self._data.score_store(f"{cell.row}-{cell.fit}-{cell.seed}", self._key(cell))
        attacks = self.adaptive[cell.suite].attacks(cell.eps)[cell.attack]
        key = {
            "attack": [attack.settings() for attack in attacks],
            **self.adaptive[cell.suite].effort(),
            "images": self.adaptive_images,
            "detector": self._key(self._attacked_cell(cell.row)),
        }
        return self._data.score_store(
            f"adaptive-{cell.row}-{cell.suite}-{cell.eps * 255:g}-{cell.attack}", key
        )

    def _key(self, cell: _Cell) -> dict[str, Any]:
        detector = self._detector(cell.row)
        key = {
            "detector": detector.settings(),
            "measurement": detector.measurement.settings(),
            "fitted": sorted(self._data.families.fits[cell.fit]),
            "detector_seed": cell.seed,
            "fit_rules": _FIT_RULES,
        }
        if cell.row == self._hard_row and self.hardened is not None:
            known = self._key(self._attacked_cell(self.head))
            key["hardened"] = [self.hardened.settings(), self.hardened_images, known]
        return key

    def _fit_and_score(self, cell: _Cell) -> dict[str, Tensor]:
        detector = self._fitted(cell)
        splits: tuple[Split, ...] = ("det_val", "det_test")
        return {
            split: detector.judge(self._read(split, detector.measurement)).double().cpu() for split in splits
        }

    def _attack(self, cell: _AdaptiveCell) -> dict[str, Tensor]:
        suite = self.adaptive[cell.suite]
        attacks = suite.attacks(cell.eps)[cell.attack]
        return self._attacked_images(cell.row, suite, attacks, "det_test", self.adaptive_images)

    def _attacked_images(
        self, row: str, suite: AdaptiveSuite, attacks: Sequence[AdaptivePGD], split: Split, count: int
    ) -> dict[str, Tensor]:
        """Results of attacks that know a row on the first ``count`` clean images of a split."""
        if row not in self._attacked:
            self._attacked[row] = self._target(row)
        groups = self._data.groups(split)
        rows = _first_clean(groups, count)
        return attack_defence(
            attacks,
            suite,
            self._attacked[row],
            images=groups.images[rows],
            labels=groups.label[rows],
            image_ids=[self._data.image_id(split, index) for index in groups.image_index[rows].tolist()],
            seed=self.seed,
            doing="" if self._data.processes.rank else f"attacks that know {row}",
        )

    def _target(self, row: str) -> Attacked:
        """A row as adaptive attacks know it."""
        detector = self._fitted(self._attacked_cell(row))
        pool = self._data.groups("det_fit")
        scores = detector.judge(self._read("det_val", detector.measurement)).double().cpu()
        threshold = self._data.threshold(scores, RATES[0])
        return Attacked(detector, self._data.classifier, threshold, pool.images[pool.clean])

    def _hardening(self) -> dict[str, Tensor]:
        """Measurements of adaptive attacks on fit images that fooled the classifier."""
        if self.hardened is None or self._hard_samples:
            return self._hard_samples
        suite, measurement = self.hardened, self._detector(self.head).measurement
        known = {"known": self._key(self._attacked_cell(self.head)), "images": self.hardened_images}
        parts = []
        for eps in suite.eps:
            for name, attacks in suite.attacks(eps).items():
                key = {**known, "attack": [one.settings() for one in attacks], **suite.effort()}
                store = self._data.score_store(f"hardening-{eps * 255:g}-{name}", key)
                self._data.scores(
                    store,
                    lambda attacks=attacks: self._attacked_images(  # type: ignore[misc]
                        self.head, suite, attacks, "det_fit", self.hardened_images
                    ),
                )
                kept = store.load(["image", "fooled"])
                parts.append(kept["image"][0][kept["fooled"][0]])
        measured = [
            measurement(self._data.classifier, part.float() / 255)
            for part in torch.split(torch.cat(parts), _MEASURED)
        ]
        self._hard_samples = {name: torch.cat([part[name] for part in measured]) for name in measured[0]}
        return self._hard_samples

    def _with_adaptive(self, evaluation: Evaluation, bootstrap: Bootstrap) -> Evaluation:
        """The evaluation with what adaptive attacks leave of the rows that they know."""
        test = self._data.groups("det_test")
        for row in self._attacked_rows if self.adaptive else ():
            own = self._store(self._attacked_cell(row)).load(["det_val", "det_test"])
            threshold = self._data.threshold(own["det_val"][0], RATES[0])
            if threshold is None:
                note = "adaptive attacks: too few clean validation images for a threshold"
                return replace(evaluation, notes=(*evaluation.notes, note))
            outcomes = {
                (cell.suite, cell.eps, cell.attack): {
                    name: value[0]
                    for name, value in self._store(cell).load(["fooled", "score", "settled"]).items()
                }
                for cell in self._adaptive_cells
                if cell.row == row
            }
            scores, notes = adaptive_scores(
                outcomes, own["det_test"][0][_first_clean(test, self.adaptive_images)], threshold,
                row=row, bootstrap=bootstrap,
            )  # fmt: skip
            evaluation = replace(
                evaluation, scores={**evaluation.scores, **scores}, notes=(*notes, *evaluation.notes)
            )
        return evaluation

    def _fitted(self, cell: _Cell) -> Detector:
        """Fitted once, where attacks and timings ask for it again."""
        if cell in self._known:
            return self._known[cell]
        detector, groups = copy.deepcopy(self._detector(cell.row)), self._data.groups("det_fit")
        rows = groups.fitted(self._data.families.fits[cell.fit])
        read = self._read("det_fit", detector.measurement)
        measured = {name: tensor[rows] for name, tensor in read.items()}
        adversarial, clean, images = groups.adversarial[rows], groups.clean[rows], groups.image_index[rows]
        if cell.row == self._hard_row:
            added = self._hardening()
            count = len(next(iter(added.values())))
            measured = {name: torch.cat([tensor, added[name]]) for name, tensor in measured.items()}
            adversarial = torch.cat([adversarial, torch.ones(count, dtype=torch.bool)])
            clean = torch.cat([clean, torch.zeros(count, dtype=torch.bool)])
            # Of which image they are is not kept: each counts as one of its own.
            images = torch.cat([images, -1 - torch.arange(count)])
        detector.fit(measured, adversarial, clean, images=images, seed=cell.seed)
        if cell == self._attacked_cell(cell.row):
            self._known[cell] = detector
        return detector

    def _read(self, split: Split, measurement: Measurement) -> dict[str, Tensor]:
        """Measurements of a split, read once: neighbouring cells share them."""
        key = canonical(measurement)
        if self._measured[0] != key:
            self._measured = (key, {})
        if split not in self._measured[1]:
            self._measured[1][split] = self._data.measured(split, measurement)
        return self._measured[1][split]

    def _gathered(self, fit: str, split: Split) -> DetectionTable:
        """Scores of all detectors with all seeds after one fit: ``(N, rows, seeds)``."""
        groups = self._data.groups(split)
        scores = [
            self._store(_Cell(row, fit, seed)).load([split])[split][0]
            for row in self.rows
            for seed in self._all_seeds
        ]
        stacked = torch.stack(scores, dim=1).view(-1, len(self.rows), self.seeds)
        return DetectionTable(stacked, image_index=groups.image_index, group=groups.group)

    def _timings(self) -> dict[str, float]:
        images = self._data.groups("det_val").images[:_TIMED_IMAGES].float() / 255
        fitted = {row: self._fitted(_Cell(row, self.default, self.seed)) for row in self.rows}
        return costs_of(fitted, self._data.classifier, images)


def _first_clean(groups: GroupTable, count: int) -> Tensor:
    """Rows of the first clean images that the classifier gets right."""
    return groups.clean.nonzero()[:count, 0]
