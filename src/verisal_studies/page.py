"""A judged study as Markdown and pictures, written at the end of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from verisal._files import write_atomic
from verisal.callbacks.report import evaluation_of
from verisal.reporting import CsvSink, write_png
from verisal_studies.study import Study, StudyResult

_COLOURS: Final = 64


@final
class StudyPage(Callback):
    """Judges the claims of a study by the scores of task and callbacks, after a validate or test run.

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
        evaluation = evaluation_of(trainer, module) if trainer.is_global_zero else None
        if evaluation is None:
            return
        result = self.study.result(evaluation)
        folders = [Path(logger.save_dir) for logger in trainer.loggers if isinstance(logger, CsvSink)]
        for path in [*(folder / "study.md" for folder in folders), *([self.page] if self.page else [])]:
            write_page(result, path)


def page_text(result: StudyResult, figures: str) -> str:
    """The page, whose pictures lie in the folder ``figures``."""
    return "\n".join(_lines(result, figures)) + "\n"


def write_page(result: StudyResult, path: Path) -> None:
    """Write the page, and its pictures into the folder beside it that has the page's name without ending."""
    folder = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in result.sections:
        for figure in section.figures:
            write_png(figure.pixels, folder / f"{figure.name}.png", colours=_COLOURS)
    write_atomic(path, page_text(result, folder.name).encode())


def _lines(result: StudyResult, figures: str) -> Iterator[str]:
    yield from (f"# {result.title}", "", f"**Verdict: {result.verdict}.** {result.summary}", "")
    yield from ("```", *result.commands, "```", "")
    yield from ("## Claim", "", result.claim, "", "## Setting", "", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in result.setting.items())
    yield from ("", "## Verdicts", "", "| claim | holds when | verdict | evidence |", "|---|---|---|---|")
    for finding in result.findings:
        yield f"| {finding.claim} | {finding.rule} | **{finding.verdict}** | {finding.evidence} |"
    for section in result.sections:
        yield from ("", f"## {section.title}")
        for figure in section.figures:
            yield from ("", f"![{figure.text}]({figures}/{figure.name}.png)")
        if section.text:
            yield from ("", section.text.strip())
