"""Output that nobody reads any more: a command goes on, for its files are what it works for."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, final

__all__ = ["lasting_output"]


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
        """Whether a person reads."""
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
