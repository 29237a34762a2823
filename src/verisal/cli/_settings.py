"""Settings of a command: parsing, and refusals in one sentence that names the setting."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from verisal.cli._options import SHOWN_BY
from verisal.cli._refusals import explain, unknown_keys
from verisal.errors import ConfigError, VerisalError

_SEEDS = 2**32
# Least values of what the trainer takes whatever they are, and then divides by or never reaches.
_LEAST = {
    "num_nodes": 1,
    "min_epochs": 0,
    "min_steps": 0,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "accumulate_grad_batches": 1,
    "reload_dataloaders_every_n_epochs": 0,
    "gradient_clip_val": 0,
}
_MOST = 2**31 - 1
# Ranges that a name means in every class of this package; torch refuses others once work has begun.
_RANGES = {
    "batch_size": (1, _MOST),
    "num_workers": (0, _MOST),
    "learning_rate": (0, _MOST),
    "weight_decay": (0, _MOST),
    "dropout": (0, 1),
    "label_smoothing": (0, 1),
    "seed": (0, _SEEDS - 1),
}
_LONGEST = 60
# Key in the config, and settings by name.
Place = tuple[str, Mapping[str, object]]


def parsed_settings(parser: ArgumentParser, words: Sequence[str], known: Sequence[str]) -> Namespace:
    """The settings in the words of a command.

    Args:
        parser: of the command.
        words: as they were given.
        known: dotted names of the settings, for a misspelt one.

    Raises:
        ConfigError: unknown key or class, wrong type, missing or damaged file.
    """
    _check_configs(words, known)
    try:
        found: Namespace = parser.parse_args(list(words))
    except argparse.ArgumentError as error:
        raise ConfigError(explain(str(error), known)) from None
    # The parser lets some errors of files and of conversions through.
    except Exception as error:
        raise ConfigError(f"{_culprit(parser, words, error)}: {_in_one_line(error)}") from error
    return found


def _culprit(parser: ArgumentParser, words: Sequence[str], error: Exception) -> str:
    """The option of the command that brings the same error when it stands alone."""
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        alone = [word] if "=" in word else list(words[place : place + 2])
        try:
            # Those that print and end the command do so only where nothing is wrong.
            with redirect_stdout(StringIO()):
                parser.parse_args([*words[:1], *alone])
        except type(error):
            return " ".join(alone)
        # One that stands alone lacks the others; the error itself is raised by the caller.
        except (Exception, SystemExit):  # noqa: S112
            continue
    return " ".join(words)


def _check_configs(words: Sequence[str], known: Sequence[str]) -> None:
    """Raise unless every config file among the words of a command holds settings.

    Raises:
        ConfigError: a file that is no text or no YAML, or that holds something other than settings of the
            command.
    """
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--config" or not (equals or place + 1 < len(words)):
            continue
        value = value if equals else words[place + 1]
        if not value.strip():
            raise ConfigError("--config is empty; expected the path of a YAML file")
        path = Path(value)
        try:
            if not path.is_file():
                continue
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        # A config may also stand in the command itself, and is then too long for the name of a file.
        except OSError:
            continue
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"--config {path} is no YAML file: {_in_one_line(error)}") from None
        if not isinstance(content, dict):
            found = "nothing" if content is None else f"a {type(content).__name__}"
            raise ConfigError(f"--config {path} holds {found}; expected names of settings and their values")
        # The parser passes over one that nothing stands under.
        if told := unknown_keys(content, known):
            raise ConfigError(f"--config {path}: {told}")


def check_seed(seed: object) -> None:
    """Raise unless every library takes the seed.

    Raises:
        ConfigError: a number outside of [0, 2^32).
    """
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed_everything must be from 0 to {_SEEDS - 1}, found {seed}")


def check_numbers(config: Namespace) -> None:
    """Raise for numbers of classes of this package that no training can use.

    Raises:
        ConfigError: naming the setting, what was found and the values that work.
    """
    for key, path, given in _classes("", config):
        for name, (least, most) in _RANGES.items() if path.startswith("verisal.") else ():
            value = given.get(name)
            if isinstance(value, int | float) and not least <= value <= most:
                raise ConfigError(f"{key}.{name} must be from {least} to {most}, found {value}")


def check_trainer(settings: Namespace) -> None:
    """Raise for numbers that the trainer takes, and that end a training later.

    Raises:
        ConfigError: naming the setting, what was found and the values that work.
    """
    for name, least in _LEAST.items():
        value = settings.get(name)
        if isinstance(value, int | float) and not least <= value <= _MOST:
            raise ConfigError(f"trainer.{name} must be from {least} to {_MOST}, found {value}")
    interval = settings.get("val_check_interval")
    if isinstance(interval, int | float) and not 0 < interval <= _MOST:
        raise ConfigError(
            "trainer.val_check_interval must be a number of batches from 1, or a share of an epoch above 0,"
            f" found {interval}"
        )


@contextmanager
def refused_settings(of: Callable[[BaseException], Place]) -> Iterator[None]:
    """Turn what a library says of settings into one sentence; where it came from stays in the cause.

    Args:
        of: place and values of the settings that an error is about; asked only if there is one.

    Raises:
        ConfigError: instead of any error but this package's own.
    """
    try:
        yield
    except Exception as error:
        first = _first(error)
        if isinstance(first, VerisalError):
            raise
        raise ConfigError(_sentence(*of(first), first)) from error


def class_that_failed(config: Namespace) -> Callable[[BaseException], Place]:
    """Key and chosen settings of the innermost class of a config that was being made, for an error."""

    def of(error: BaseException) -> Place:
        place: Place = ("the config", {})
        classes, trace = list(_classes("", config)), error.__traceback__
        while trace is not None:
            frame: Any = trace.tb_frame
            own = type(frame.f_locals.get("self"))
            made = [(key, given) for key, path, given in classes if path.rpartition(".")[2] == own.__name__]
            if made:
                place = made[0][0], _chosen(own, made[0][1])
            trace = trace.tb_next
        return place

    return of


def _first(error: BaseException) -> BaseException:
    """The error that others were raised from: a parser tells its own story of it."""
    while error.__cause__ is not None and not isinstance(error, VerisalError):
        error = error.__cause__
    return error


def _in_one_line(error: BaseException) -> str:
    """The error's own words, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _sentence(place: str, given: Mapping[str, object], error: BaseException) -> str:
    told = _in_one_line(error)
    # Those of which the library speaks; all of them where it speaks of none.
    named = {name: value for name, value in given.items() if re.search(rf"\b{re.escape(name)}\b", told)}
    shown = ", ".join(f"{place}.{name} is {_short(value)}" for name, value in (named or given).items())
    return f"{shown or place}: {told} ({SHOWN_BY})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _classes(key: str, value: object) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Every class in a config: its key, its dotted path and its settings."""
    if isinstance(value, Namespace):
        value = {name: value[name] for name in vars(value)}
    if isinstance(value, Mapping):
        settings = value.get("init_args")
        if isinstance(value.get("class_path"), str):
            given = settings if isinstance(settings, Mapping | Namespace) else {}
            plain = {
                name: item
                for name, item in dict(given.items()).items()
                if isinstance(item, str | int | float)
            }
            yield f"{key}.init_args" if key else "init_args", value["class_path"], plain
        for name, item in value.items():
            yield from _classes(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _classes(key, item)


def _chosen(own: type, given: Mapping[str, object]) -> dict[str, object]:
    usual = inspect.signature(own).parameters
    return {name: value for name, value in given.items() if name in usual and value != usual[name].default}
