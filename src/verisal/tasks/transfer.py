"""Fits many detectors on every choice of attacks, and reports how each carries over to the others."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import lightning as L
import torch
from torch import Tensor, nn

from verisal._numbers import check_range
from verisal.attacks import AdaptivePGD
from verisal.data.image_data import Processes
from verisal.detection import TransferData
from verisal.detection.adaptive import AdaptiveSuite, adaptive_scores, attack_defence
from verisal.detection.attacked_images import GroupTable
from verisal.detection.metric import DetectionTable
from verisal.detection.table import detection_thresholds
from verisal.detectors import Detector, Measurement
from verisal.errors import ConfigError
from verisal.fingerprint import settings_of
from verisal.functional.networks import uncompiled
from verisal.functional.statistics.detection import threshold_at_fpr
from verisal.functional.statistics.resampled import Bootstrap
from verisal.models import Classifier
from verisal.results import Evaluation, ScoreName
from verisal.store import FeatureStore
from verisal.tasks._transfer_report import TransferResult, build_transfer_evaluation

__all__ = ["TransferTask"]

_RATES = (0.05, 0.01)
_TIMED_IMAGES = 32
_MEASURED = 64


Part = Literal["det_fit", "det_val", "det_test"]


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

    There is no training loop of Lightning's: a step of the test is one *cell* of the matrix. What a cell
    found is kept in the data's store, so a study that was stopped goes on, and processes share the cells. A
    row's score is the mean over its seeds; the spread over seeds is reported beside it.

    Adaptive attacks, if there are suites of them, know the head row as it was fitted by default with the
    first seed, and are cells too. They are judged on the first images of the test split that the classifier
    gets right. ``hardened`` adds the row ``<head>_hardened``: the head, whose fit images are joined by
    adaptive attacks on it that succeeded; it is attacked anew.

    Args:
        detectors: name of a row to a detector that is not fitted.
        default: the fit of the main columns.
        head: the row that the others are compared with.
        seeds: how often each detector is fitted.
        adaptive: name to a suite of attacks on classifier and head together; the head must then read
            ``DetectorFeatures``.
        adaptive_images: how many images they attack.
        hardened: the suite whose attacks on fit images the hardened row is fitted on; None for no such row.
        hardened_images: how many fit images it attacks.
        resamples: bootstrap resamples of the intervals.
        seed: first of the seeds, and that of the bootstrap.

    Raises:
        ConfigError: a head that is no detector, a row whose name is no plain word, or no seed.
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
    ) -> None:
        super().__init__()
        check_range(1, seeds=seeds, adaptive_images=adaptive_images, hardened_images=hardened_images)
        check_range(0, resamples=resamples, seed=seed)
        if head not in detectors:
            raise ConfigError(f"head must be one of the detectors {sorted(detectors)}, found {head!r}")
        if wrong := [row for row in detectors if not re.fullmatch(r"[\w.-]+", row)]:
            raise ConfigError(
                f"rows are parts of file and metric names: letters, digits, '.', '_' or '-'; found {wrong}"
            )
        self.detectors, self.head, self.default = dict(detectors), head, default
        self.seeds, self.resamples, self.seed = seeds, resamples, seed
        self.adaptive, self.adaptive_images = dict(adaptive or {}), adaptive_images
        self.hardened, self.hardened_images = hardened, hardened_images
        self._hard_row = f"{head}_hardened"
        self.rows = [*detectors, *([self._hard_row] if hardened else [])]
        self.evaluation: Evaluation | None = None
        self._tables: tuple[str, dict[str, GroupTable]] = ("", {})
        self._attacked: dict[str, Detector] = {}
        self._hard_samples: dict[str, Tensor] = {}

    @property
    def _data(self) -> TransferData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TransferData):
            raise ConfigError(f"TransferTask needs TransferData, found {type(data).__name__}")
        if self.default not in data.families.fits:
            raise ConfigError(f"default is {self.default!r}; the data's fits are {list(data.families.fits)}")
        return data

    @property
    def _processes(self) -> Processes:
        return Processes.of(self.trainer)

    @property
    def _cells(self) -> list[_Cell | _AdaptiveCell]:
        """Detector by detector, so that what one measured is read once; then the adaptive attacks."""
        fitted = [
            _Cell(row, fit, self.seed + number)
            for row in self.rows
            for fit in self._data.families.fits
            for number in range(self.seeds)
        ]
        return [*fitted, *self._adaptive_cells]

    @property
    def _adaptive_cells(self) -> list[_AdaptiveCell]:
        return [
            _AdaptiveCell(row, name, eps, attack)
            for row in self._attacked_rows
            for name, suite in self.adaptive.items()
            for eps in suite.eps
            for attack in suite.attacks(eps)
        ]

    @property
    def _attacked_rows(self) -> list[str]:
        return [row for row in self.rows if row in (self.head, self._hard_row)]

    def _attacked_cell(self, row: str) -> _Cell:
        """The fitted detector that adaptive attacks know."""
        return _Cell(row, self.default, self.seed)

    def _detector(self, row: str) -> Detector:
        return self.detectors[self.head if row == self._hard_row else row]

    def setup(self, stage: str) -> None:
        """Attack and measure what is not in the store yet; the dear part, shared by the processes."""
        if stage != "test":
            raise ConfigError(f"the transfer study has nothing to {stage}; run: verisal test --config ...")
        measurements = {str(d.measurement.settings()): d.measurement for d in self.detectors.values()}
        self._data.measure(list(measurements.values()), self._processes)
        self._data.plan(len(self._cells), self._processes)

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
        validation, test = self._shared("det_val"), self._shared("det_test")
        tables = {fit: self._gathered(fit, test, "test") for fit in self._data.families.fits}
        clean = validation.groups.index("clean")
        thresholds = {
            fit: detection_thresholds(
                self._gathered(fit, validation, "val"), self.rows, clean=clean, rates=_RATES
            )
            for fit in self._data.families.fits
        }
        self.evaluation = build_transfer_evaluation(
            TransferResult(
                tables=tables, thresholds=thresholds, groups=test,
                negatives=validation.counts()["clean"], timings=self._timings(),
            ),
            self._data,
            rows=self.rows, head=self.head, default=self.default,
            bootstrap=Bootstrap(self.resamples, seed=self.seed),
        )  # fmt: skip
        if self.adaptive:
            self.evaluation = self._with_adaptive(self.evaluation, validation, test)
        for row in self.rows:
            name = ScoreName("test", row, "auroc", "mean_unseen")
            if name in self.evaluation.scores:
                self.log(str(name), self.evaluation.scores[name].value, batch_size=1, rank_zero_only=True)

    def _store(self, cell: _Cell | _AdaptiveCell) -> FeatureStore:
        if isinstance(cell, _Cell):
            return self._data.score_store(f"{cell.row}-{cell.fit}-{cell.seed}", self._key(cell))
        attack = self.adaptive[cell.suite].attacks(cell.eps)[cell.attack]
        key = {
            "attack": attack.settings(),
            "gates": settings_of(self.adaptive[cell.suite].gates),
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
        }
        if cell.row == self._hard_row and self.hardened is not None:
            known = self._key(self._attacked_cell(self.head))
            key["hardened"] = [self.hardened.settings(), self.hardened_images, known]
        return key

    def _fit_and_score(self, cell: _Cell) -> dict[str, Tensor]:
        detector = self._fitted(cell)
        parts: dict[str, Part] = {"val": "det_val", "test": "det_test"}
        return {
            name: detector.judge(self._table(part, detector.measurement).features).double().cpu()
            for name, part in parts.items()
        }

    def _attack(self, cell: _AdaptiveCell) -> dict[str, Tensor]:
        suite = self.adaptive[cell.suite]
        test = self._table("det_test", self._detector(cell.row).measurement)
        return self._attacked_images(
            cell.row, suite, suite.attacks(cell.eps)[cell.attack], "det_test", test, self.adaptive_images
        )

    def _attacked_images(
        self, row: str, suite: AdaptiveSuite, attack: AdaptivePGD, part: Part, table: GroupTable, count: int
    ) -> dict[str, Tensor]:
        """What an attack that knows a row finds for the first ``count`` clean images of a split."""
        if row not in self._attacked:
            self._attacked[row] = self._fitted(self._attacked_cell(row))
        pool = self._table("det_fit", self._attacked[row].measurement)
        rows = self._first_clean(table, count)
        indices = table.image_index[rows]
        return attack_defence(
            attack,
            suite.gates,
            self._attacked[row],
            self._data.classifier,
            images=table.features["image"][rows],
            labels=self._data.labels(part, indices),
            image_ids=[self._data.image_id(part, index) for index in indices.tolist()],
            pool=pool.features["image"][pool.group == pool.groups.index("clean")],
            seed=self.seed,
        )

    @staticmethod
    def _first_clean(table: GroupTable, count: int) -> Tensor:
        """Rows of the first clean images that the classifier gets right."""
        return (table.group == table.groups.index("clean")).nonzero()[:count, 0]

    def _hardening(self) -> dict[str, Tensor]:
        """Features of adaptive attacks on fit images that fooled the classifier."""
        if self.hardened is None or self._hard_samples:
            return self._hard_samples
        suite, made = self.hardened, self._detector(self.head).measurement
        table = self._table("det_fit", made)
        known = {"known": self._key(self._attacked_cell(self.head)), "images": self.hardened_images}
        parts = []
        for eps in suite.eps:
            for name, attack in suite.attacks(eps).items():
                key = {**known, "attack": attack.settings(), "gates": settings_of(suite.gates)}
                store = self._data.score_store(f"hardening-{eps * 255:g}-{name}", key)
                self._data.scores(
                    store,
                    lambda attack=attack: self._attacked_images(  # type: ignore[misc]
                        self.head, suite, attack, "det_fit", table, self.hardened_images
                    ),
                )
                found = store.load(["image", "fooled"])
                parts.append(found["image"][0][found["fooled"][0]])
        images = torch.cat(parts)
        measured = [
            made(self._data.classifier, part.float() / 255) for part in torch.split(images, _MEASURED)
        ]
        self._hard_samples = {name: torch.cat([part[name] for part in measured]) for name in measured[0]}
        self._hard_samples["image"] = images
        return self._hard_samples

    def _with_adaptive(self, evaluation: Evaluation, validation: GroupTable, test: GroupTable) -> Evaluation:
        """The evaluation with what adaptive attacks leave of the rows that they know."""
        for row in self._attacked_rows:
            own = self._store(self._attacked_cell(row)).load(["val", "test"])
            negatives = own["val"][0][validation.group == validation.groups.index("clean")]
            threshold = threshold_at_fpr(negatives, _RATES[0])
            if threshold is None:
                note = "adaptive attacks: too few clean validation images for a threshold"
                return replace(evaluation, notes=(*evaluation.notes, note))
            found = {
                (cell.suite, cell.eps, cell.attack): {
                    name: value[0] for name, value in self._store(cell).load(["fooled", "score"]).items()
                }
                for cell in self._adaptive_cells
                if cell.row == row
            }
            scores, notes = adaptive_scores(
                found, own["test"][0][self._first_clean(test, self.adaptive_images)], threshold,
                row=row, bootstrap=Bootstrap(self.resamples, seed=self.seed),
            )  # fmt: skip
            evaluation = replace(
                evaluation, scores={**evaluation.scores, **scores}, notes=(*notes, *evaluation.notes)
            )
        return evaluation

    def _fitted(self, cell: _Cell) -> Detector:
        detector = copy.deepcopy(self._detector(cell.row))
        table = self._table("det_fit", detector.measurement)
        fitted = set(self._data.families.fits[cell.fit])
        kept = torch.tensor(
            [name in fitted or table.roles[name] in ("clean", "benign") for name in table.groups]
        )
        rows = kept[table.group].nonzero()[:, 0]
        features = {name: tensor[rows] for name, tensor in table.features.items()}
        clean = table.group[rows] == table.groups.index("clean")
        adversarial = table.target[rows] > 0
        if cell.row == self._hard_row:
            added = self._hardening()
            features = {name: torch.cat([tensor, added[name]]) for name, tensor in features.items()}
            more = torch.ones(len(added["image"]), dtype=torch.bool)
            adversarial, clean = torch.cat([adversarial, more]), torch.cat([clean, ~more])
        detector.fit(features, adversarial, clean, seed=cell.seed)
        return detector

    def _table(self, part: Part, measurement: Measurement) -> GroupTable:
        """Read once per measurement: neighbouring cells share it."""
        key = str(measurement.settings())
        if self._tables[0] != key:
            self._tables = (key, {})
        if part not in self._tables[1]:
            self._tables[1][part] = self._data.table(part, measurement)
        return self._tables[1][part]

    def _shared(self, part: Part) -> GroupTable:
        """Rows of a split; their order is the same for every measurement."""
        return self._table(part, next(iter(self.detectors.values())).measurement)

    def _gathered(self, fit: str, rows: GroupTable, name: str) -> DetectionTable:
        """Scores of all detectors with all seeds after one fit: ``(N, rows, seeds)``."""
        scores = []
        for row in self.rows:
            for number in range(self.seeds):
                cell = _Cell(row, fit, self.seed + number)
                scores.append(self._store(cell).load([name])[name][0])
        stacked = torch.stack(scores, dim=1).view(-1, len(self.rows), self.seeds)
        return DetectionTable(stacked, image_index=rows.image_index, group=rows.group)

    def _timings(self) -> dict[str, float]:
        """Milliseconds and passes through the last stage per image, from the image to the score."""
        images = self._shared("det_val").features["image"][:_TIMED_IMAGES].float() / 255
        found: dict[str, float] = {}
        for row in self.rows:
            detector = self._fitted(_Cell(row, self.default, self.seed))
            with _counted(self._data.classifier) as passes:
                started = time.perf_counter()
                detector.score(self._data.classifier, images)
                seconds = time.perf_counter() - started
            found[f"{row}: ms per image"] = 1000 * seconds / len(images)
            found[f"{row}: forward passes per image"] = passes["forward"] / len(images)
            found[f"{row}: backward passes per image"] = passes["backward"] / len(images)
        return found


@contextmanager
def _counted(classifier: Classifier) -> Iterator[Mapping[str, int]]:
    """Counts images that go through the classifier's last stage, and gradients that come back."""
    passes = {"forward": 0, "backward": 0}

    def came_back(gradient: Tensor) -> None:
        passes["backward"] += len(gradient)

    def went_through(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        passes["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(came_back)  # type: ignore[no-untyped-call]  # torch says nothing of it

    stage = classifier.network.get_submodule(classifier.stages[-1])
    handle = stage.register_forward_hook(went_through)
    try:
        with uncompiled():
            yield passes
    finally:
        handle.remove()
