"""One identity of settings, weights and tensors: all that decides a result, for keys and for reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError


class Configured:
    """An object whose results follow from its settings and from what it is called with.

    Sub-classes are dataclasses of settings as a rule; of another class every public attribute is one.

    Attributes:
        rules: raised whenever equal settings come to give other results, so that stored ones are made again.
    """

    # Without annotation: whoever reads the hints of a sub-class has the names of that class's module alone.
    rules = 1

    @final
    def settings(self) -> dict[str, Any]:
        """Class name, rules above 1 and every setting, nested ones too; equal settings mean equal results."""
        rules = {"rules": self.rules} if self.rules > 1 else {}
        decisive = {name: settings_of(value) for name, value in self._decisive().items()}
        return {"class": type(self).__name__, **rules, **decisive}

    def _decisive(self) -> dict[str, Any]:
        """Settings by name; a sub-class may put a hash in place of a path, or leave out a setting."""
        if is_dataclass(self):
            return {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def without_defaults(settings: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """Settings without those of ``defaults`` that are as they were before they could be set.

    So maps that were made then keep their identity.
    """
    return {
        name: value for name, value in settings.items() if name not in defaults or value != defaults[name]
    }


def settings_of(part: object) -> Any:  # noqa: ANN401 - plain data of any shape
    """Settings of an object, with those of everything nested in it, as plain data that names each class.

    What a dataclass keeps besides its settings (fields with ``init=False``) is left out, and a tensor is its
    hash. Anything else that is no plain data stays as it is; :func:`canonical` refuses it.
    """
    if isinstance(part, Configured):
        return part.settings()
    if is_dataclass(part) and not isinstance(part, type):
        settings = {item.name: settings_of(getattr(part, item.name)) for item in fields(part) if item.init}
        return {"class": type(part).__name__, **settings}
    if isinstance(part, Tensor):
        return {"tensor": state_hash({"": part})}
    if isinstance(part, (list, tuple)):
        return [settings_of(item) for item in part]
    if isinstance(part, Mapping):
        return {name: settings_of(item) for name, item in part.items()}
    return part


def canonical(part: object) -> str:
    """One JSON text for equal settings, whatever their order.

    Raises:
        ConfigError: naming the entry that is not plain data.

    >>> canonical({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    settings = settings_of(part)
    for name, value in flat(settings):
        if not (value is None or isinstance(value, str | int | float | list | Mapping)):
            raise ConfigError(f"setting {name}: expected plain data, found {type(value).__name__}")
    try:
        return json.dumps(
            settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings are not plain data: {error}") from error


def fingerprint(*parts: object) -> str:
    """Hexadecimal SHA-256 of settings: of objects, of tensors and of plain data.

    Raises:
        ConfigError: naming the entry that is not plain data, such as a function.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def state_hash(state: nn.Module | Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of named tensors: names, dtypes, shapes and bytes.

    The order of the entries and the device they lie on do not matter.

    Args:
        state: a module (its ``state_dict`` is taken) or a mapping of names to tensors.
    """
    tensors: Mapping[str, Tensor] = state.state_dict() if isinstance(state, nn.Module) else state
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def row_digests(tensor: Tensor, size: int) -> list[bytes]:
    """Per row of ``tensor (B, ...)`` a hash of ``size`` bytes of its values, without names and shapes."""
    return [hashlib.blake2b(_bytes_of(row), digest_size=size).digest() for row in tensor.detach().cpu()]


def flat(settings: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every entry of nested plain data."""
    children: list[tuple[str, Any]] = []
    if isinstance(settings, Mapping):
        children = [(f"{name}.{child}" if name else str(child), item) for child, item in settings.items()]
    elif isinstance(settings, list | tuple):
        children = [(f"{name}[{index}]", item) for index, item in enumerate(settings)]
    if name and not children:
        yield name, settings
    for child, item in children:
        yield from flat(item, child)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
