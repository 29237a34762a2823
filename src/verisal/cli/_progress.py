"""How far a command came: what its last words need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from verisal.cli._runs import resume_command
from verisal.errors import VerisalError
from verisal.reporting import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["Progress"]


@final
@dataclass
class Progress:
    """How far a command came; what its last words need.

    Attributes:
        stage: the command.
        run: its folder, once it is known; :meth:`begin` makes it.
        opening: makes the folder and writes what it holds from the start.
        begun: whether that has been done.
        config: file with its full config.
        weights: checkpoint of a validate or test, or ``none``.
        loggers: loggers to close.
    """

    stage: str = ""
    run: RunFolder | None = None
    opening: Callable[[], None] | None = None
    begun: bool = False
    config: Path | None = None
    weights: str = "none"
    loggers: list[Logger] = field(default_factory=list)

    def begin(self) -> None:
        """Make the run's folder, once: a command that is refused before its first work leaves nothing."""
        if self.opening is not None and not self.begun:
            self.begun = True
            self.opening()

    def resume_hint(self) -> str:
        """The command that goes on where this one stopped, with a connecting phrase; empty for predict."""
        if self.run is None or self.config is None or self.stage == "predict":
            return ""
        if not self.begun:
            self.loggers.clear()  # Nothing has been logged, and no run at W&B is opened for it.
        try:
            self.begin()
        except (VerisalError, OSError):
            return ""
        return f"; go on with: {resume_command(self.stage, self.run, self.config, self.weights)}"

    def where(self) -> str:
        """The run folder, for a message."""
        return f"; the run is in {self.run.path}" if self.run is not None and self.begun else ""

    def close(self) -> None:
        """End the loggers that hold something open."""
        if not self.loggers:
            return
        from verisal.reporting import WandbSink

        for logger in self.loggers:
            if isinstance(logger, WandbSink):
                logger.close()
