"""Progress of a command, and its last words; imports nothing heavy, for every command has one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from verisal.cli._threads import Threads
from verisal.errors import NumericError, VerisalError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from verisal.reporting import WandbSink
    from verisal.reporting.run_folder import RunFolder


@final
@dataclass
class Command:
    """Progress of a command, as its last words need it.

    Attributes:
        stage: the command.
        run: its folder, once it is known; :meth:`begin` makes it.
        opening: makes the folder and writes what it holds from the start.
        begun: whether that has been done.
        config: file with its full config.
        weights: checkpoint of a validate or test, or ``none``.
        loggers: loggers to close.
        words: the command as it was given.
        began: when it was, by ``time.perf_counter``; None if not known.
        code: exit code, once there is one.
        threads: that it computes on.
    """

    stage: str = ""
    run: RunFolder | None = None
    opening: Callable[[], None] | None = None
    begun: bool = False
    config: Path | None = None
    weights: str = "none"
    loggers: list[Logger] = field(default_factory=list)
    words: str = ""
    began: float | None = None
    code: int = 0
    threads: Threads = field(default_factory=lambda: Threads(own_process=False))

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

    def end(self, state: str) -> None:
        """Write into the run's folder what has become of the command.

        Args:
            state: ``done``, ``stopped`` or ``failed``.
        """
        if self.run is None or not self.begun:
            return
        from verisal.cli._runs import process_rank

        # A full disk, or a folder that is gone, has been told already, and changes no exit code.
        with suppress(OSError, VerisalError):
            if process_rank() == 0:
                self.run.write_state(state)

    def alert(self, error: BaseException) -> None:
        """Tell those who follow the run at W&B that a number has become NaN or infinite, if one has."""
        for sink in self._sinks() if isinstance(error, NumericError) else ():
            sink.alert("The training ended by a number that is not finite", str(error))

    def close(self) -> None:
        """End the loggers that hold something open."""
        for sink in self._sinks():
            sink.close(exit_code=self.code)

    def _sinks(self) -> list[WandbSink]:
        if not self.loggers:
            return []
        from verisal.reporting import WandbSink

        return [logger for logger in self.loggers if isinstance(logger, WandbSink)]


def resume_command(stage: str, run: RunFolder, config: Path, weights: str) -> str:
    """The command that goes on with a stopped fit, validate or test."""
    words = ["verisal", stage, "--config", str(config), "--run_dir", str(run.path)]
    return shlex.join([*words, *(["--resume", "auto"] if stage == "fit" else ["--ckpt_path", weights])])
