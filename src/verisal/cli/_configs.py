"""Configs that come with the package: found by short names, listed, printed."""

from __future__ import annotations

import difflib
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from verisal.cli._options import wrapped
from verisal.errors import ConfigError

_FOLDER = Path(__file__).parents[1] / "configs"
_SUFFIXES = (".yaml", ".yml")
# Rows of a list of names that a terminal shows without scrolling.
_MOST = 12


def shipped_configs() -> dict[str, Path]:
    """Short name, such as ``study/transfer``, to file; those that lie in no folder come first."""
    files = sorted(_FOLDER.rglob("*.yaml"), key=lambda file: (len(file.relative_to(_FOLDER).parts), file))
    return {file.relative_to(_FOLDER).with_suffix("").as_posix(): file for file in files}


def with_shipped_configs(words: Sequence[str]) -> list[str]:
    """The words of a command with the file of a shipped config in place of its short name.

    A path that exists is left as it is. ``configs/detector.yaml`` is ``detector``, so that a command of the
    documents works in any folder.

    Raises:
        ConfigError: neither a file nor a name; names those that are near.
    """
    found = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            continue
        if equals:
            found[place] = f"{option}={_file_of(value)}"
        elif place + 1 < len(words):
            found[place + 1] = _file_of(words[place + 1])
    return found


def show_configs(given: Namespace) -> int:
    """Run ``verisal configs``.

    Args:
        given: what its parser read.

    Returns:
        0.

    Raises:
        ConfigError: there is no config of that name.
    """
    configs = shipped_configs()
    if given.name is None:
        print(_listed(configs))
        print("\nUse one: verisal fit --config detector. Change a copy: verisal configs detector > mine.yaml")
        return 0
    name = _short(given.name)
    inside = {other: file for other, file in configs.items() if other.startswith(f"{name}/")}
    if name not in configs and inside:
        print(_listed(inside))
        return 0
    if name not in configs:
        raise ConfigError(f"there is no config {given.name!r}{_near(name, configs)}")
    sys.stdout.write(configs[name].read_text(encoding="utf-8"))
    return 0


def purpose(file: Path) -> str:
    """First line of the comment at the head of a config, without the colon that leads to its command."""
    head = file.read_text(encoding="utf-8").partition("\n")[0]
    return head.removeprefix("#").strip().rstrip(":")


def _file_of(value: str) -> str:
    """The file of a shipped config, or the value itself: a path that exists, or settings in the command."""
    # Settings that stand in the command, standard input, and what is refused later.
    settings = value.lstrip().startswith("{") or "\n" in value or ": " in value
    if settings or value.strip() in ("", "-") or "\0" in value or _exists(value):
        return value
    name = _short(value)
    configs = shipped_configs()
    if name not in configs:
        raise ConfigError(f"--config {value}: there is no such file or config{_near(name, configs, value)}")
    return str(configs[name])


def _exists(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):
        return False


def _short(value: str) -> str:
    path = Path(value)
    name = path.with_suffix("").as_posix() if path.suffix in _SUFFIXES else path.as_posix()
    return name.removeprefix("configs/")


def _near(name: str, configs: Iterable[str], value: str | None = None) -> str:
    """Names that are like one that does not exist, of shipped configs and of files beside the one given."""
    known = list(configs)
    lasts = {other.rpartition("/")[2]: other for other in known}
    alike = [
        *difflib.get_close_matches(name, known, n=3),
        *(lasts[last] for last in difflib.get_close_matches(name.rpartition("/")[2], list(lasts), n=2)),
        *_files_like(value),
    ]
    near = list(dict.fromkeys(alike))[:_MOST]
    suggestion = f"; did you mean {' or '.join(near[:4])}?" if near else ""
    return f"{suggestion or '.'} verisal configs lists the names that are known"


def _files_like(value: str | None) -> list[str]:
    """Config files in the folder of a path whose names are like its own."""
    if value is None:
        return []
    path = Path(value)
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES]
    except (OSError, ValueError):
        return []
    return [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, names, n=2)]


def _listed(configs: dict[str, Path]) -> str:
    width = max(map(len, configs))
    lines: list[str] = []
    for folder, names in groupby(configs, key=lambda name: name.rpartition("/")[0]):
        if lines and folder:
            lines.append("")
        lines += [wrapped(f"{name:<{width}}  ", purpose(configs[name])) for name in names]
    return "\n".join(lines)
