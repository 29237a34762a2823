"""Studies written as pages at the end of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from verisal.callbacks._evaluation import evaluation_of
from verisal.reporting import CsvSink
from verisal_studies.page import write_page
from verisal_studies.study import Study

__all__ = ["StudyPage"]


@final
class StudyPage(Callback):
    """Judges the claims of a study by what task and callbacks found, after a validate or test run.

    The page is ``study.md`` in the run's folder, its pictures in ``study/`` beside it. Rank zero alone does.

    Args:
        study: reads the evaluation.
        page: where else the page goes, e.g. into the documentation; None for nowhere.
    """

    def __init__(self, study: Study, *, page: Path | str | None = None) -> None:
        super().__init__()
        self.study, self.page = study, None if page is None else Path(page)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of a validate run."""
        if trainer.state.fn is not TrainerFn.FITTING:
            self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of a test run."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        found = evaluation_of(trainer, module)
        if found is None:
            return
        result = self.study.result(found)
        folders = [Path(logger.save_dir) for logger in trainer.loggers if isinstance(logger, CsvSink)]
        for path in [*(folder / "study.md" for folder in folders), *([self.page] if self.page else [])]:
            write_page(result, path)
