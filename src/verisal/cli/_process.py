"""Changes of a command to its process, put back at its end: signals, warnings, logs, environment."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO, final

from verisal._plain import plain_lines

_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")

# Messages that a user of these commands can do nothing about.
_IGNORED = (
    # Small loaders are faster without workers; values are logged once per epoch, not every 50 steps.
    r".*does not have many workers which may be a bottleneck.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    # A resumed run finds its own files; its checkpoints are made where an epoch starts.
    r".*Checkpoint directory .* exists and is not empty.*",
    r"The dirpath has changed from .*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
    # A test needs no checkpoint callbacks.
    r".*callbacks used to create the checkpoint need to be provided.*",
    # The frozen classifier inside a detector is in eval mode on purpose.
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",
    # What is logged without it has been gathered, and is the same on every process.
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",
    # Lightning 2.6.6 with torch 2.15.
    r".*LeafSpec.*is deprecated.*",
)


@final
class Stopped(BaseException):
    """The process was asked to stop; no ``Exception``, so that nothing on the way swallows it.

    Args:
        signum: the signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def stops_as_exceptions() -> Iterator[None]:
    """Raise :class:`Stopped` on Ctrl-C and SIGTERM; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    asked = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        # Loader workers inherit this handler; they, and an impatient user, get the system's default.
        if asked or os.getpid() != owner:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        asked = True
        raise Stopped(signum)

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's tips, advertisements and device lines, and warnings without a remedy.

    What warnings and log lines still say is text: control characters in names are written as their codes.
    """
    # Lightning 2.6.6 calls the parser by names that are to go.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    handler, formatted = logging.lastResort, warnings.formatwarning
    formatter = None if handler is None else handler.formatter
    if handler is not None:
        handler.setFormatter(_PlainFormatter())
    warnings.formatwarning = lambda *given, **named: plain_lines(formatted(*given, **named))
    try:
        with warnings.catch_warnings():
            for pattern in _IGNORED:
                warnings.filterwarnings("ignore", message=pattern)
            yield
    finally:
        warnings.formatwarning = formatted
        if handler is not None:
            handler.setFormatter(formatter)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@final
class _PlainFormatter(logging.Formatter):
    """Log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The message as text."""
        return plain_lines(super().format(record))


@contextmanager
def restored_settings() -> Iterator[None]:
    """Put back the environment variables and torch's determinism as they were."""
    environment = dict(os.environ)
    before = _determinism()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        # Only what was changed: torch imports its whole compiler to set it.
        if (torch := sys.modules.get("torch")) is not None and _determinism() != before:
            deterministic, warn_only, benchmark = before
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark


def _determinism() -> tuple[bool, bool, bool]:
    """Deterministic, only warned of, cuDNN's benchmark; torch's own defaults where it is not imported yet."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False, False, False
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let standard output and error take text whatever becomes of those who read it."""
    before = sys.stdout, sys.stderr
    lasting = [_Lasting(stream) for stream in before]
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        # What is left in a buffer fails now or, with an exit code of its own, when Python ends.
        for stream in lasting:
            stream.flush()
        sys.stdout, sys.stderr = before


@final
class _Lasting:
    """A text stream that drops its text once it cannot be written.

    That is so when its reader has gone (``| head``), when it was closed, and when the disk is full. What its
    encoding cannot say is written as escapes.

    Args:
        stream: the stream; None where it was closed before Python started.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO | _Nowhere = _Nowhere() if stream is None else stream

    def write(self, text: str) -> int:
        """Write, or drop."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        self._try("flush")

    def isatty(self) -> bool:
        """True if a person reads."""
        return not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a text stream has
        return getattr(self._stream, name)

    def _try(self, method: str, *texts: str) -> None:
        try:
            getattr(self._stream, method)(*texts)
        except UnicodeEncodeError as error:
            escaped = (
                text.encode(error.encoding, "backslashreplace").decode(error.encoding) for text in texts
            )
            self._try(method, *escaped)
        except ValueError:
            if not self._stream.closed:
                raise
            self._stream = _Nowhere()
        except OSError as error:
            gone, self._stream = self._stream, _Nowhere()
            _to_null(gone)
            if not isinstance(error, BrokenPipeError) and sys.stderr is not self:
                print(f"verisal: output is lost from here on: {error.strerror or error}", file=sys.stderr)


@final
class _Nowhere(io.TextIOBase):
    """Takes any text."""

    def write(self, text: str, /) -> int:
        """Nothing."""
        return len(text)


def _to_null(stream: TextIO | _Nowhere) -> None:
    """Send what is still in the stream's buffer, and what is written below Python, to the null device."""
    # A stream in memory has no number.
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
