"""Options of the commands that need no framework: a refusal is one sentence, as everywhere."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import NoReturn, final

from verisal.errors import ConfigError


@final
class Options(ArgumentParser):
    """A parser that raises instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        """Refuse the words of a command.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message} (see {self.prog} --help)")


def path_word(word: str) -> str:
    """A path.

    Raises:
        ArgumentTypeError: nothing, or what no file can be called.
    """
    if not word.strip() or "\0" in word:
        raise ArgumentTypeError(f"expected a path, found {word!r}")
    return word


def count(word: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"expected a whole number from 1, found {word!r}")
    return number
