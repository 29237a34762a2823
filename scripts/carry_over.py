"""Detectors fitted on one classifier, used on another: python scripts/carry_over.py RUN_A RUN_B.

Both are runs of ``verisal test --config configs/study/detection_cifar10.yaml`` with two classifiers of the
same classes; start it from the folder where they were started, so that their stores are found. Each row is
fitted beside either classifier, and scores the test images of the other, attacked beside that one. Thresholds
come from clean validation images, scored beside the classifier that is watched. Prints AUROC over families
that were never fitted and false alarms, with 95 % intervals over images.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from verisal.attacks import Attack
from verisal.detection import DetectorData
from verisal.detection.metric import DetectionTable
from verisal.detection.report import DetectionResult, build_evaluation
from verisal.detection.table import detection_thresholds
from verisal.detectors import Detector, Measurement, View
from verisal.functional.statistics import Bootstrap
from verisal.results import Evaluation
from verisal.tasks import TransferTask
from verisal.types import Split

_SPLITS: tuple[Split, ...] = ("det_fit", "det_val", "det_test")


def main() -> None:
    """Fit, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_a", type=Path)
    parser.add_argument("run_b", type=Path)
    parser.add_argument(
        "--rows", nargs="+", default=["view_vote", "view_consistency", "logit_trees", "learned_consistency"]
    )
    given = parser.parse_args()
    runs = {run: _of_run(run) for run in (given.run_a, given.run_b)}
    for to, beside in ((given.run_b, given.run_a), (given.run_a, given.run_b)):
        evaluation = _judged(runs[to], runs[beside], given.rows)
        print(f"\nTest images of {to}:\n")
        _print(evaluation, given.rows)


def _of_run(run: Path) -> tuple[TransferTask, DetectorData]:
    """Task and data of a finished run, as its configuration says."""
    # Frozen dataclasses that a config chooses by class.
    set_parsing_settings(subclasses_enabled=[Attack, Detector, Measurement, View])
    known = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    parser = ArgumentParser()
    parser.add_subclass_arguments(L.LightningModule, "model")
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    made = parser.instantiate(parser.parse_object({name: known[name] for name in ("model", "data")}))
    return made.model, made.data


def _judged(
    to: tuple[TransferTask, DetectorData], beside: tuple[TransferTask, DetectorData], rows: list[str]
) -> Evaluation:
    """Rows fitted beside their own classifier, and as ``<row>_carried`` beside the other one."""
    task, data = to
    fitted: dict[str, Detector] = {}
    for row in rows:
        fitted[row] = _fitted(row, *to)
        fitted[f"{row}_carried"] = _fitted(row, *beside)
    tables = {}
    for split in ("det_val", "det_test"):
        groups = data.groups(split)
        scores = [one.judge(data.measured(split, one.measurement)).double() for one in fitted.values()]
        stacked = torch.stack(scores, dim=1)[:, :, None]
        tables[split] = DetectionTable(stacked, image_index=groups.image_index, group=groups.group)
    clean, *also = data.threshold_groups
    names = [*fitted]
    result = DetectionResult(
        split="det_test", rows=names, head=names[0], default=task.default,
        tables={task.default: tables["det_test"]},
        thresholds={task.default: detection_thresholds(tables["det_val"], names, clean=clean, also=also)},
        negatives=data.groups("det_val").counts()["clean"],
    )  # fmt: skip
    return build_evaluation(result, data, Bootstrap(task.resamples))


def _fitted(row: str, task: TransferTask, data: DetectorData) -> Detector:
    detector = copy.deepcopy(task.detectors[row])
    data.measure(_SPLITS, [detector.measurement])
    groups = data.groups("det_fit")
    at = groups.fitted(data.families.fits[task.default])
    measured = {name: tensor[at] for name, tensor in data.measured("det_fit", detector.measurement).items()}
    detector.fit(
        measured, groups.adversarial[at], groups.clean[at], images=groups.image_index[at], seed=task.seed
    )
    return detector


def _print(evaluation: Evaluation, rows: list[str]) -> None:
    print("| row | fitted beside | mean unseen | worst unseen | FPR clean | FPR worst benign |")
    print("|---|---|---:|---:|---:|---:|")
    for row in rows:
        for name, words in ((row, "the same classifier"), (f"{row}_carried", "the other")):
            cells = [
                evaluation.scores[f"test/{name}/{metric}"]  # type: ignore[index]  # names equal their texts
                for metric in ("auroc/mean_unseen", "auroc/worst_unseen", "fpr/clean", "fpr/worst_benign")
            ]
            told = [f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in cells[:3]]
            print(f"| `{row}` | {words} | {' | '.join(told)} | {cells[3].value:.3f} |")


if __name__ == "__main__":
    main()
