"""Turns the parser's long refusals into one sentence: which key, what was found, what is known."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from typing import get_args

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS_UNKNOWN = re.compile(r"^( *).*Expected a dot import path string: (\S+)", re.MULTILINE)
_OPTION = re.compile(r"^( *).*Option '([^']+)' is not accepted", re.MULTILINE)
_CLASS_PATH = re.compile(r"given class_path '([^']+)'")
_UNKNOWN_KEY = re.compile(r"does not accept option '([^']+)'|unrecognized arguments: --([^=\s]+)")
_BASES = re.compile(r"(?<![\w.])((?:[a-z_]\w*\.)+[A-Z]\w*)|Not a valid subclass of (\w+)")
_NOISE = re.compile(
    r"^\s*(-\s*)?(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"Expected a <class 'NoneType'>|Given value type: .*|Expected a path but .*)\s*$"
)


def explain(message: str, known_keys: Iterable[str]) -> str:
    """One or two lines that say what is wrong with a command or config.

    Args:
        message: the parser's own message.
        known_keys: dotted names that the command accepts.
    """
    key = _last(_KEY.findall(message))
    option = _deepest(_OPTION, message)
    unknown_class = _deepest(_CLASS_UNKNOWN, message)
    if option and (not unknown_class or option[0] >= unknown_class[0]):
        return _unknown_setting(message, key, option[1])
    if unknown_class:
        return _unknown_class(message, key, unknown_class[1])
    unknown_key = _UNKNOWN_KEY.search(message)
    if unknown_key:
        return _unknown_key(unknown_key[1] or unknown_key[2], list(known_keys))
    return _condensed(message)


def _unknown_setting(message: str, key: str, name: str) -> str:
    paths = [match[1] for match in _CLASS_PATH.finditer(message)]
    found = _resolve(_last(paths))
    short = _last(paths).rpartition(".")[2]
    settings = _settings_of(found) if found else []
    return f"{_at(key)}{short or 'the class'} has no setting '{name}'{_hint(name, settings)}"


def _unknown_class(message: str, key: str, name: str) -> str:
    bases = _asked_for(message, key)
    bases = bases or [base for base in map(_resolve, _base_names(message)) if base is not None]
    ours, others = _subclasses(bases)
    hint = _hint(name, ours or others, also=others)
    return f"{_at(key)}there is no class named '{name}'{hint}"


def _asked_for(message: str, key: str) -> list[type]:
    """Classes that the setting ``key`` of the innermost known class takes, by its annotation."""
    found = [_resolve(path) for path in _CLASS_PATH.findall(message)[-1:]]
    for part in key.split("."):
        annotations = [_annotation(owner, part) for owner in found if owner is not None]
        found = [kind for annotation in annotations for kind in _classes_in(annotation)]
    return [kind for kind in found if kind is not None and kind.__module__ != "builtins"]


def _annotation(owner: type, setting: str) -> object:
    try:
        parameter = inspect.signature(owner, eval_str=True).parameters.get(setting)
    except (NameError, TypeError, ValueError):
        return None
    return parameter and parameter.annotation


def _classes_in(annotation: object) -> list[type | None]:
    inner = [kind for part in get_args(annotation) for kind in _classes_in(part)]
    return inner or ([annotation] if isinstance(annotation, type) else [])


def _unknown_key(name: str, known: Sequence[str]) -> str:
    depth = name.count(".")
    siblings = [key for key in known if key.startswith(name.rpartition(".")[0] + ".")] if depth else []
    tops = sorted({key.split(".")[0] for key in known})
    if depth and siblings:
        return f"there is no setting '{name}'{_hint(name, sorted(siblings))}"
    top = name.split(".")[0]
    return f"there is no setting '{top if top not in tops else name}'{_hint(top, tops)}"


def _condensed(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip() and not _NOISE.match(line)]
    text = [re.sub(r"^\s*-\s*", "", line).strip() for line in lines]
    text = [re.sub(r"<class '([^']+)'>", r"\1", line) for line in text]
    text = [re.sub(r'^Parser key "([^"]+)":?\s*', r"\1: ", line).strip() for line in text]
    text = [re.sub(r"^Given value: ", "found ", line) for line in text]
    return " ".join(dict.fromkeys(text))


def _hint(name: str, known: Sequence[str], *, also: Sequence[str] = ()) -> str:
    near = difflib.get_close_matches(name, [*known, *also], n=1, cutoff=0.6)
    shown = list(known[:40]) + (["..."] if len(known) > 40 else [])
    return (f"; did you mean '{near[0]}'?" if near else ".") + (
        f" Known: {', '.join(shown)}" if shown else ""
    )


def _settings_of(found: type) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _base_names(message: str) -> list[str]:
    return [first or second for first, second in _BASES.findall(message)]


def _resolve(path: str) -> type | None:
    """A class by dotted path among the loaded modules, or by bare name among the loaded classes' names."""
    module, _, name = path.rpartition(".")
    if module in sys.modules:
        found = getattr(sys.modules[module], name, None)
        return found if isinstance(found, type) else None
    return None


def _subclasses(bases: Sequence[type]) -> tuple[list[str], list[str]]:
    """Names of concrete subclasses: those of this project and of the user, and those of the libraries."""
    ours: set[str] = set()
    others: set[str] = set()
    pending = list(bases)
    seen: set[type] = set()
    while pending:
        found = pending.pop()
        if found in seen:
            continue
        seen.add(found)
        pending.extend(found.__subclasses__())
        if found in bases or inspect.isabstract(found) or found.__name__.startswith("_"):
            continue
        library = found.__module__.split(".")[0] in {"lightning", "torch", "torchmetrics", "torchvision"}
        (others if library else ours).add(found.__name__)
    return sorted(ours), sorted(others)


def _deepest(pattern: re.Pattern[str], message: str) -> tuple[int, str] | None:
    """Indent and first group of the most indented match: the innermost reason."""
    found = [(len(match[1]), match[2]) for match in pattern.finditer(message)]
    return max(found, key=lambda item: item[0]) if found else None


def _last(found: Sequence[str]) -> str:
    return found[-1] if found else ""


def _at(key: str) -> str:
    return f"{key}: " if key else ""
