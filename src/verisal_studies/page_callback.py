"""The callback that judges a study by a run, and writes its pages into the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from verisal._files import write_atomic
from verisal.callbacks.report import evaluation_of
from verisal.reporting import CsvSink
from verisal_studies.html_page import html_page
from verisal_studies.study import Study, write_page


@final
class StudyPage(Callback):
    """Judges the claims of a study by the scores of task and callbacks, after a validate or test run.

    The page is ``study.html``, one file that can be sent, and ``study.md``, whose pictures are in ``study/``
    beside it, all in the run's folder. Only rank zero writes them.

    Args:
        study: reads the evaluation.
        page: another place for the page, e.g. in the documentation, or None.
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
        evaluation = evaluation_of(trainer, module) if trainer.is_global_zero else None
        if evaluation is None:
            return
        result = self.study.result(evaluation)
        folders = [Path(logger.save_dir) for logger in trainer.loggers if isinstance(logger, CsvSink)]
        for path in [*(folder / "study.md" for folder in folders), *([self.page] if self.page else [])]:
            write_page(result, path)
        for folder in folders:
            write_atomic(folder / "study.html", html_page(result, notes=evaluation.notes).encode())
