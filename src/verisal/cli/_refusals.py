"""Turns the parser's long refusals into one sentence: which key, what was found, what is known."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

_KEY = re.compile(r'^( *)(?:- )?Parser key "([^"]+)"', re.MULTILINE)
_CLASS_UNKNOWN = re.compile(r"^( *).*Expected a dot import path string: (\S+)", re.MULTILINE)
# The second is of a class below another one; of the command itself it stands at the margin.
_OPTION = re.compile(
    r"^( *)(?:- )?(?:.*Option '([^']+)' is not accepted|(?<= )unrecognized arguments: --([^=\s]+))",
    re.MULTILINE,
)
_GIVEN = re.compile(r"^ *Given value: (.*)$", re.MULTILINE)
_NESTED = re.compile(r"NestedArg\(key='([^']+)'")
_FRAME = ("class_path", "init_args")
_REQUIRED = re.compile(r"^the following arguments are required: (.+)$", re.MULTILINE)
_BASE_OF = {"model": "lightning.pytorch.LightningModule", "data": "lightning.pytorch.LightningDataModule"}
_LIBRARIES = frozenset({"lightning", "torch", "torchmetrics", "torchvision"})
_CLASS_PATH = re.compile(r"given class_path '([^']+)'")
_UNKNOWN_KEY = re.compile(
    r"(?:Group '([^']+)' )?does not accept option '([^']+)'|^Option '([^']+)' is not accepted"
    r"|^unrecognized arguments: (--?)?([^=\s]+)",
    re.MULTILINE,
)
_BASES = re.compile(r"(?<![\w.])((?:[a-z_]\w*\.)+[A-Z]\w*)|Not a valid subclass of (\w+)")
_NOISE = re.compile(
    r"^\s*(-\s*)?(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"Expected a <class 'NoneType'>|Given value type: .*|Given value: NestedArg.*|Expected a path but .*|"
    r"Problem with given class_path '.*':)\s*$"
)


def explain(message: str, known_keys: Iterable[str]) -> str:
    """One or two lines that say what is wrong with a command or config.

    Args:
        message: the parser's own message.
        known_keys: dotted names that the command accepts.
    """
    option = _deepest(_OPTION, message)
    unknown_class = _deepest(_CLASS_UNKNOWN, message)
    nested = _last(_NESTED.findall(message))
    if missing := _REQUIRED.search(message):
        keys = [key.rpartition(".")[2] for key in missing[1].split(", ")]
        return "; ".join(
            _without_class(key, _BASE_OF[key], {}) if key in _BASE_OF else f"{key} is missing" for key in keys
        )
    if frame := _misspelt_frame(message):
        wrong, right = frame
        at = _at(_place(message, None))
        return f"{at}a class has no '{wrong}' beside it; did you mean '{right}'? Known: {', '.join(_FRAME)}"
    if option and option[0] and (not unknown_class or option[0] >= unknown_class[0]):
        return _unknown_setting(message, _place(message, option[0]), option[1])
    if unknown_class and not (nested and unknown_class[1] not in _last(_GIVEN.findall(message))):
        return _unknown_class(message, _place(message, unknown_class[0]), unknown_class[1])
    if nested and (unknown_class or "Not a valid subclass" in message):
        return _setting_without_class(message, _place(message, None), nested)
    if unknown_key := _UNKNOWN_KEY.search(message):
        group, plain, alone, dashes, word = unknown_key.groups()
        if word and not dashes:
            return (
                f"'{word}' stands where an option is expected: a name with -- in front of it, and its value"
            )
        name = plain or alone or word
        return _unknown_key(f"{group}.{name}" if group else name, list(known_keys))
    return _condensed(message)


def unknown_keys(found: Iterable[object], known_keys: Iterable[str]) -> str:
    """Words for the first of the names at the top of a config that no command has; empty if all are known.

    Args:
        found: names at the top of a config.
        known_keys: dotted names that the command accepts.
    """
    known = list(known_keys)
    tops = {key.split(".")[0] for key in known}
    return next((_unknown_key(str(name), known) for name in found if str(name) not in tops), "")


def _unknown_setting(message: str, key: str, name: str) -> str:
    paths = _CLASS_PATH.findall(message)
    classes = [found for found in map(_resolve, paths) if found is not None]
    # What a setting takes is tried as the base class itself, too, which is not what was meant.
    classes = [one for one in classes if not any(issubclass(two, one) and two is not one for two in classes)]
    found = classes[-1] if classes else None
    given = _given_without_class(message)
    if found is not None and given is not None and found.__module__.split(".")[0] in _LIBRARIES:
        return _without_class(key, found, given)
    short = found.__name__ if found else _last(paths).rpartition(".")[2]
    settings = _settings_of(found) if found else []
    # Of a name with dots its first part is wrong, unless that is a setting which has others below it.
    first = name.split(".")[0]
    shown = name if first in (*settings, *_FRAME) else first
    hint = _hint(shown, settings, also=_FRAME) + ("" if settings else " It has none")
    return f"{_at(key)}{short or 'the class'} has no setting '{shown}'{hint}"


def _given_without_class(message: str) -> Mapping[str, object] | None:
    """The settings of a class that nobody has named; None where there is none such."""
    value = _given(message)
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Mapping) and "class_path" not in item:
            inner = item.get("init_args", item)
            return inner if isinstance(inner, Mapping) else {}
    return None


def _without_class(key: str, base: type | str, given: Mapping[str, object]) -> str:
    """Of settings whose class is missing: what to write, which classes there are, and an example."""
    found = _resolve(base) if isinstance(base, str) else base
    # Not what the command line itself adds.
    ours = [] if found is None else [one for one in _concrete(found) if not _of_a_library(one)]
    known = [one for one in ours if not one.__module__.startswith("verisal.cli.")]
    # Those that everybody has come first; the example takes what was given, if any does.
    known.sort(key=lambda one: not one.__module__.startswith("verisal."))
    taking = [one for one in known if given and set(given) <= set(_settings_of(one))]
    one = next(iter(taking or known), None)
    inner = ", ".join(f"{name}: ..." for name in list(given)[:2])
    name = one.__name__ if one is not None else "NAME"
    written = f"{{class_path: {name}" + (f", init_args: {{{inner}}}}}" if inner else "}")
    setting = key.rpartition(".")[2]
    written = written if setting in _BASE_OF else f"[{written}]"
    listed = f" Known: {', '.join([one.__name__ for one in known][:40])}." if known else ""
    return f"{key} needs class_path, the name of its class.{listed} For example {setting}: {written}"


def _misspelt_frame(message: str) -> tuple[str, str] | None:
    """A name beside ``class_path`` or ``init_args`` that is one of these with a slip, and the right one."""
    return next(_slips(_given(message)), None)


def _given(message: str) -> object:
    """The value that was refused; None where it is no plain data."""
    try:
        return ast.literal_eval(_last(_GIVEN.findall(message)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _slips(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        others = [str(name) for name in value if name not in _FRAME]
        near = [(name, difflib.get_close_matches(name, _FRAME, n=1, cutoff=0.8)) for name in others]
        yield from ((name, right[0]) for name, right in near if right)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _slips(item)


def _setting_without_class(message: str, key: str, name: str) -> str:
    """Of a setting below something that has none, or that has no class yet."""
    first = name.split(".")[0]
    near = difflib.get_close_matches(first, _FRAME, n=1)
    suggestion = f"; did you mean '{near[0]}'?" if near else "."
    bases = [base for base in map(_resolve, _base_names(message)) if base is not None]
    ours, others = _subclasses(bases) if "Not a valid subclass" in message else ([], [])
    shown = (
        f" Its class comes first, --{key} NAME. Known: {', '.join((ours or others)[:40])}"
        if bases and ours
        else ""
    )
    return f"{key} has no setting '{name if not near else first}'{suggestion}{shown}"


def _unknown_class(message: str, key: str, name: str) -> str:
    bases = _asked_for(message, key)
    bases = bases or [base for base in map(_resolve, _base_names(message)) if base is not None]
    ours, others = _subclasses(bases)
    hint = _hint(name, ours or others, also=others)
    return f"{_at(key)}there is no class named '{name}'{hint}"


def _asked_for(message: str, key: str) -> list[type]:
    """Classes that the setting ``key`` of the innermost known class takes, by its annotation."""
    found = [_resolve(path) for path in _CLASS_PATH.findall(message)[-1:]]
    for part in key.split(".")[-1:]:
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
    above, _, _ = name.rpartition(".")
    siblings = [key for key in known if key.startswith(f"{above}.")] if above else []
    tops = sorted({key.split(".")[0] for key in known})
    if siblings:
        near = difflib.get_close_matches(name, siblings, n=1)
        suggestion = f"; did you mean '{near[0]}'?" if near else "."
        names = sorted(key.removeprefix(f"{above}.") for key in siblings)
        return f"there is no setting '{name}'{suggestion} Known in {above}: {', '.join(names)}"
    top = name.split(".")[0]
    return f"there is no setting '{top if top not in tops else name}'{_hint(top, tops)}"


def _condensed(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip() and not _NOISE.match(line)]
    text = [re.sub(r"^\s*-\s*", "", line).strip() for line in lines]
    text = [re.sub(r"<class '([^']+)'>", r"\1", line) for line in text]
    text = [re.sub(r'^Parser key "[^"]+":?\s*', "", line).strip() for line in text]
    text = [re.sub(r"^Given value: ", "found ", line) for line in text]
    return _at(_place(message, None)) + " ".join(dict.fromkeys(filter(None, text)))


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
    found = {one for base in bases for one in _concrete(base) if one not in bases}
    ours = {one.__name__ for one in found if not _of_a_library(one)}
    return sorted(ours), sorted({one.__name__ for one in found if _of_a_library(one)})


def _concrete(base: type) -> list[type]:
    """Subclasses of which there can be objects, by their names."""
    found: set[type] = set()
    pending: list[type] = base.__subclasses__()
    seen = {base}
    while pending:
        one = pending.pop()
        if one not in seen:
            seen.add(one)
            pending.extend(one.__subclasses__())
            if not inspect.isabstract(one) and not one.__name__.startswith("_"):
                found.add(one)
    return sorted(found, key=lambda one: one.__name__)


def _of_a_library(found: type) -> bool:
    return found.__module__.split(".")[0] in _LIBRARIES


def _place(message: str, indent: int | None) -> str:
    """Dotted name of the setting that a line with this indent is about: the keys that it stands below."""
    keys: list[tuple[int, str]] = []
    for match in _KEY.finditer(message):
        depth = len(match[1])
        if indent is not None and depth >= max(indent, 1):
            continue
        keys = [item for item in keys if item[0] < depth] + [(depth, match[2])]
    return ".".join(name for _, name in keys)


def _deepest(pattern: re.Pattern[str], message: str) -> tuple[int, str] | None:
    """Indent and first group of the most indented match: the innermost reason."""
    found = [
        (len(match[1]), next(group for group in match.groups()[1:] if group))
        for match in pattern.finditer(message)
    ]
    return max(found, key=lambda item: item[0]) if found else None


def _last(found: Sequence[str]) -> str:
    return found[-1] if found else ""


def _at(key: str) -> str:
    return f"{key}: " if key else ""
