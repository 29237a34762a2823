"""From arguments to an exit code: 0 done, 1 failed, 2 wrong settings, 130 Ctrl-C, 143 SIGTERM."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence

from verisal import __version__
from verisal.cli._command import Command
from verisal.cli._configs import show_configs, with_shipped_configs
from verisal.cli._help import STAGES, help_of, overview, refuse_command
from verisal.cli._memory import keep_freed_memory
from verisal.cli._options import SHOWN_BY, refuse_repeated_keys
from verisal.cli._parsers import completion_parser, configs_parser, data_parser, export_parser, runs_parser
from verisal.cli._process import Stopped, lasting_output, quiet, restored_settings, stops_as_exceptions
from verisal.cli._threads import Threads, wait_without_spinning
from verisal.errors import ConfigError, VerisalError
from verisal.progress import doing, tell

# Where those who start several processes say the number of each.
_RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(args: list[str] | None = None, *, began: float | None = None) -> int:
    """Run one command.

    Args:
        args: as on the command line, e.g. ``["fit", "--config", "configs/detector.yaml"]``; those of the
            process when None.
        began: when the process began, by ``time.perf_counter``; now when None.

    Returns:
        The exit code.
    """
    if args is None:
        # The process is ours alone.
        keep_freed_memory()
    arguments = sys.argv[1:] if args is None else args
    command = Command(
        words=shlex.join(["verisal", *arguments]),
        began=time.perf_counter() if began is None else began,
        threads=Threads(own_process=args is None),
    )
    with lasting_output(), restored_settings(), quiet(), stops_as_exceptions():
        if args is None:
            wait_without_spinning()
        try:
            with doing(f"verisal {''.join(arguments[:1])}", shown=_takes_long(arguments), lines=False):
                code = _run(arguments, command)
        except BaseException as error:
            cause = _cause(error)
            code = command.code = _told(cause, command)
            command.alert(cause)
            command.end("stopped" if code > 128 else "failed")
        else:
            command.end("done")
        finally:
            command.close()
            command.threads.restore()
        return code


def _run(arguments: Sequence[str], command: Command) -> int:
    """Run the command with the imports that it needs and no others: torch takes seconds, Lightning more."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    match name:
        case "--help" | "-h" | "help":
            print(overview())
        case "--version" | "-V":
            print(f"verisal {__version__}")
        case "configs":
            return show_configs(configs_parser().parse_args(rest))
        case "runs":
            from verisal.cli._list_runs import show_runs

            return show_runs(runs_parser().parse_args(rest))
        case "completion":
            from verisal.cli._completion import show_completion

            return show_completion(completion_parser().parse_args(rest))
        case "data":
            given = data_parser().parse_args(rest)
            from verisal.cli._data import check

            return check(given, command.threads)
        case "export":
            given = export_parser().parse_args(rest)
            from verisal.cli._export import write_export

            return write_export(given, command.threads)
        case "explain":
            if _asks_for_help(rest):
                print(help_of(name))
                return 0
            words = _read(rest)
            with doing("loading libraries", shown=_takes_long(arguments), lines=False):
                from verisal.cli._explain_command import main as explain_command

            return explain_command(words, command.threads)
        case _ if name in STAGES:
            if _asks_for_help(rest):
                print(help_of(name))
                return 0
            if not rest:
                print(help_of(name), file=sys.stderr)
                raise ConfigError(f"{name} needs a config: verisal {name} --config NAME_OR_FILE")
            words = _read(rest)
            with doing("loading libraries", shown=_takes_long(arguments), lines=False):
                from verisal.cli._app import VerisalCLI
                from verisal.cli._export import with_export

            # Once more: Lightning raises the levels of its loggers when it is imported.
            with quiet():
                VerisalCLI(with_export([name, *words]), command)
        case _:
            refuse_command(name)
    return 0


def _takes_long(words: Sequence[str]) -> bool:
    """True for commands that import libraries for seconds, and print no text that is meant for a pager.

    Of several processes of one command only the first shows what it does.
    """
    if any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS):
        return False
    texts = any(word.startswith(("-h", "--help", "--print")) for word in words)
    return len(words) > 1 and words[0] in (*STAGES, "data", "explain", "export") and not texts


def _asks_for_help(words: Sequence[str]) -> bool:
    return any(word in ("--help", "-h") for word in words)


def _read(words: Sequence[str]) -> list[str]:
    """The words with the files of shipped configs, and ``--help`` for what prints every option."""
    found = with_shipped_configs(words)
    refuse_repeated_keys(found)
    return ["--help" if word == "--help-all" else word for word in found]


def _cause(error: BaseException) -> BaseException:
    """The error of ours that a library has wrapped in one of its own, else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, VerisalError):
        cause = cause.__cause__
    return cause or error


def _told(error: BaseException, command: Command) -> int:
    """Say what ended the command, and return the exit code."""
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):
            return _told(Stopped(signal.SIGINT), command)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        error = Stopped(signal.SIGINT)
    if isinstance(error, Stopped):
        _say(f"verisal: stopped by {error}{command.resume_hint()}")
        return 128 + error.signum
    known = _known(error)
    if known is None or os.environ.get("VERISAL_TRACEBACK"):
        traceback.print_exception(error)
    if known is None:
        _say(f"verisal: failed{command.where()}")
        return 1
    _say(f"verisal: error: {known}")
    return 2 if isinstance(error, ConfigError) or _misconfigured(error) else 1


def _known(error: BaseException) -> str | None:
    """Words for an error that a user can mend; None for any other."""
    text = str(error)
    if isinstance(error, VerisalError):
        # An error of a loader's worker arrives with the worker's whole traceback as its message.
        return (
            text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text
        )
    if _misconfigured(error):
        device = re.search(r"accelerator|backend|device", text)
        remedy = " (trainer.accelerator auto takes what is there)" if device else ""
        return " ".join(text.split()) + remedy
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        place = f" for {error.filename}" if error.filename else ""
        return f"no space left{place} ({error.strerror}); free some, or choose another folder with --run_dir"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror} ({SHOWN_BY})"
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", text):
        asked = f" ({text.splitlines()[0]})" if text else ""
        return f"memory ran out{asked}; lower the batch size, the image size or the width ({SHOWN_BY})"
    if isinstance(error, RuntimeError) and "operator torchvision::" in text:
        return (
            f"the installed torchvision is built for another torch ({text.splitlines()[0]}); install the two"
            " together: pip install --upgrade torch torchvision"
        )
    if re.search(r"DataLoader worker .*(killed|exited)", text):
        return f"{text.splitlines()[0]} Most often memory ran out: lower num_workers or the batch size"
    return None


def _misconfigured(error: BaseException) -> bool:
    """True if Lightning refuses a setting; its class exists only where Lightning is imported."""
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    if module is None or isinstance(error, module.MisconfigurationException):
        return module is not None
    # Some settings it refuses by a plain ValueError from its own code.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return isinstance(error, ValueError) and raised_in.startswith("lightning.")


def _say(line: str) -> None:
    tell(line, error=True)
