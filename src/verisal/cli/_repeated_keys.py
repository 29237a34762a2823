"""Keys that stand twice in a config file, of which YAML readers silently take the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from verisal.errors import ConfigError

__all__ = ["refuse_repeated_keys"]

_SUFFIXES = (".yaml", ".yml", ".json")


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
