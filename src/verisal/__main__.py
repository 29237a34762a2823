"""``python -m verisal`` and the ``verisal`` command.

It parses on any Python 3 and imports nothing heavy before the checks, so that a wrong installation is told in
one line.
"""

import os
import sys
import time
from typing import NoReturn, Optional, Sequence  # noqa: UP035 - must run on an old Python

__all__ = ["entry"]

# As in pyproject.toml.
_TORCH = [2, 6]


def entry() -> NoReturn:
    """Check the installation, then run the command line; exits with its code."""
    began = time.perf_counter()
    _open_standard_streams()
    problem = _python_problem(sys.version_info[:3]) or _torch_problem(_torch_version())
    if problem:
        sys.exit(_refused(problem))
    from verisal.cli import main

    sys.exit(main(began=began))


def _open_standard_streams() -> None:
    """Put the null device where standard input, output or error are closed (``>&-``).

    Otherwise the next file that is opened, a checkpoint for one, gets the number of the missing stream, and
    what is written to that number below Python ends up in the file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken: this one, for all before it are open.
            os.open(os.devnull, os.O_RDWR)


def _refused(problem: str) -> int:
    if sys.stderr is not None:
        sys.stderr.write("verisal: error: " + problem + "\n")
    return 2


def _python_problem(version: Sequence[int]) -> Optional[str]:  # noqa: UP045
    if tuple(version[:2]) >= (3, 11):
        return None
    found = ".".join(str(part) for part in version)
    return "Python 3.11 or newer is needed, this is {}; make an environment with a newer one".format(found)  # noqa: UP032


def _torch_version() -> Optional[str]:  # noqa: UP045
    """Version of the installed torch, read without importing it; None when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _torch_problem(version: Optional[str]) -> Optional[str]:  # noqa: UP045
    remedy = "install it with: pip install --upgrade torch torchvision"
    if version is None:
        return "torch is not installed; " + remedy
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if numbers >= _TORCH:
        return None
    least = ".".join(str(part) for part in _TORCH)
    return "torch {} is installed, {} or newer is needed; ".format(version, least) + remedy  # noqa: UP032


if __name__ == "__main__":
    entry()
