"""How far a command came: what its last words need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from verisal.reporting import RunFolder

from ._runs import resume_command

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["Progress"]


@final
@dataclass
class Progress:
    """How far a command came; what its last words need.

    Attributes:
        stage: the command.
        run: its folder, once there is one.
        config: file with its full config, once written.
        weights: checkpoint of a validate or test, or ``none``.
        loggers: loggers to close.
    """

    stage: str = ""
    run: RunFolder | None = None
    config: Path | None = None
    weights: str = "none"
    loggers: list[Logger] = field(default_factory=list)

    def resume_hint(self) -> str:
        """The command that goes on where this one stopped, with a connecting phrase; empty for predict."""
        if self.run is None or self.config is None or self.stage == "predict":
            return ""
        return f"; go on with: {resume_command(self.stage, self.run, self.config, self.weights)}"

    def where(self) -> str:
        """The run folder, for a message."""
        return "" if self.run is None else f"; the run is in {self.run.path}"

    def close(self) -> None:
        """End the loggers that hold something open."""
        if not self.loggers:
            return
        from verisal.reporting import WandbSink

        for logger in self.loggers:
            if isinstance(logger, WandbSink):
                logger.close()
