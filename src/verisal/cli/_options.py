"""Words of a command that are looked at before anything heavy is imported."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

from verisal.errors import ConfigError

SHOWN_BY = "VERISAL_TRACEBACK=1 shows where"
"""Words after a sentence that stands for a traceback."""

_SUFFIXES = (".yaml", ".yml", ".json")


def check_paths(**given: str | Sequence[str] | None) -> None:
    """Raise unless every path is the name of something.

    Args:
        given: by option: a path, several, or None where the option was left out.

    Raises:
        ConfigError: nothing but blanks, or what no file can be called.
    """
    for name, value in given.items():
        for path in [value] if isinstance(value, str) else value or ():
            if not path.strip() or "\0" in path:
                raise ConfigError(f"{name}: expected a path, found {path!r}")


def refuse_repeated_keys(arguments: Sequence[str]) -> None:
    """Look at every YAML or JSON file that a command line names, as a word or behind ``=``.

    Raises:
        ConfigError: a key stands twice in one mapping; names the file, the key and both lines. What is wrong
            with a file otherwise is left to its reader.
    """
    for word in arguments:
        path = Path(word.partition("=")[2] if word.startswith("-") else word)
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            _refuse(path)


def _refuse(path: Path) -> None:
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError):
        return
    for key, first, second in _repeated(root, set()):
        raise ConfigError(f"{path}: the key {key!r} stands twice, in lines {first} and {second}; keep one")


def _repeated(node: object, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Key and both lines of everything that stands twice below a node."""
    from yaml import MappingNode, ScalarNode, SequenceNode

    # Aliases lead to a node that was met before.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for value in node.value:
            yield from _repeated(value, seen)
    elif isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    yield key.value, lines[key.value], line
                lines.setdefault(key.value, line)
            yield from _repeated(value, seen)


@final
class Options(argparse.ArgumentParser):
    """A parser that raises instead of printing its usage and ending the process.

    Args:
        prog: the command.
        settings: anything else that a parser of the standard library takes.
    """

    def __init__(self, prog: str, **settings: Any) -> None:  # noqa: ANN401 - the library's own
        usual: dict[str, Any] = {
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(prog, **{**usual, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401
        """As the library does, but a misspelt option is named before one that is missing.

        Raises:
            ConfigError: an option that there is not.
        """
        known = [name for action in self._actions for name in action.option_strings]
        inner = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        for word in [] if inner else args or ():
            name = word.partition("=")[0]
            if word == "--":
                break
            if word.startswith("--") and name not in known:
                self.error(f"there is no option '{name}'{near_hint(name, known)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the words of a command.

        Raises:
            ConfigError: always.
        """
        if found := re.match(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)$", message):
            known = [word.strip("' ") for word in found[3].split(",")]
            message = f"{found[1]}: there is no '{found[2]}'{near_hint(found[2], known)}"
        raise ConfigError(f"{message} (see {self.prog} --help)")


def near_hint(name: str, known: Sequence[str]) -> str:
    """Words behind a name that is not known: the nearest of those that are, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f"; did you mean '{near[0]}'?" if near else "."
    return f"{suggestion} Known: {', '.join(known)}"


def path_word(word: str) -> str:
    """A path.

    Raises:
        ArgumentTypeError: nothing, or what no file can be called.
    """
    if not word.strip() or "\0" in word:
        raise argparse.ArgumentTypeError(f"expected a path, found {word!r}")
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
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {word!r}")
    return number


def wrapped(label: str, text: str) -> str:
    """A line of a list: a label, and a text that goes on below itself where the terminal is too narrow."""
    width = shutil.get_terminal_size((100, 24)).columns - 1
    if len(label) + 20 > width:
        return f"{label}{text}"
    return textwrap.fill(text, width, initial_indent=label, subsequent_indent=" " * len(label))
