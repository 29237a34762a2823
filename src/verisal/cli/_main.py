"""From arguments to an exit code: 0 done, 1 failed, 2 wrong settings, 130 Ctrl-C, 143 SIGTERM."""

from __future__ import annotations

import errno
import re
import signal
import sys
import traceback

from lightning.fabric.utilities.exceptions import MisconfigurationException

from verisal.errors import ConfigError, VerisalError

from ._app import Progress, VerisalCLI
from ._data import main as data_command
from ._process import Stopped, quiet, restored_settings, stops_as_exceptions

__all__ = ["main"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Args:
        args: as on the command line, e.g. ``["fit", "--config", "configs/detector.yaml"]``; those of the
            process when None.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if args is None else args
    progress = Progress()
    with restored_settings(), quiet(), stops_as_exceptions():
        try:
            if arguments[:1] == ["data"]:
                return data_command(arguments[1:])
            VerisalCLI(arguments, progress)
        except BaseException as error:
            return _told(_cause(error), progress)
        finally:
            progress.close()
    return 0


def _cause(error: BaseException) -> BaseException:
    """The error of ours that a library has wrapped in one of its own, else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, VerisalError):
        cause = cause.__cause__
    return cause or error


def _told(error: BaseException, progress: Progress) -> int:
    """Say what ended the command, and return the exit code."""
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):
            return _told(Stopped(signal.SIGINT), progress)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        error = Stopped(signal.SIGINT)
    if isinstance(error, Stopped):
        _say(f"verisal: stopped by {error}{progress.resume_hint()}")
        return 128 + error.signum
    known = _known(error)
    if known is None:
        traceback.print_exception(error)
        _say(f"verisal: failed{progress.where()}")
        return 1
    _say(f"verisal: error: {known}")
    return 2 if isinstance(error, ConfigError | MisconfigurationException) else 1


def _known(error: BaseException) -> str | None:
    """Words for an error that a user can mend; None for any other."""
    text = str(error)
    if isinstance(error, VerisalError):
        # An error of a loader's worker arrives with the worker's whole traceback as its message.
        return (
            text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text
        )
    if isinstance(error, MisconfigurationException):
        device = re.search(r"accelerator|backend|device", text)
        remedy = " (trainer.accelerator auto takes what is there)" if device else ""
        return " ".join(text.split()) + remedy
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        place = f" for {error.filename}" if error.filename else ""
        return f"no space left{place} ({error.strerror}); free some, or choose another folder with --run_dir"
    if re.search(r"DataLoader worker .*(killed|exited)", text):
        return f"{text.splitlines()[0]} Most often memory ran out: lower num_workers or the batch size"
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
