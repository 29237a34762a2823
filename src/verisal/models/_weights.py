"""Weights from files: tensors only, never code, and a clear word where they do not fit."""

from __future__ import annotations

import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from verisal.checkpoint import existing_file
from verisal.errors import CheckpointError

__all__ = ["fit_states", "fit_weights", "load_named", "read_states"]

_NAMED = 6
# What DataParallel, its distributed form, AveragedModel and torch.compile put into names, at any depth.
_WRAPPERS = frozenset({"module", "_orig_mod"})
# What a training script calls the network that it holds.
_OWNERS = frozenset({"model", "net", "network"})
# A count that AveragedModel keeps beside the weights.
_AVERAGED = "n_averaged"
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class SavedState:
    """A mapping of names to tensors as it lies in a file.

    Attributes:
        place: keys that lead to it, joined by dots; empty for the whole file.
        tensors: by name.
        beside: other entries of the same mapping.
    """

    place: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()


def read_states(path: Path | str) -> list[SavedState]:
    """Every mapping of names to tensors in a file.

    Args:
        path: a ``.safetensors`` file, or a pickle that is read with ``weights_only=True``.

    Raises:
        CheckpointError: a URL, a missing or damaged file, or one that holds no named tensors.
    """
    if "://" in str(path):
        raise CheckpointError(
            f"{path}: weights are not loaded from URLs; download the file and give its path"
        )
    target = existing_file(path, "a .safetensors or .pth file")
    if target.suffix == ".safetensors":
        try:
            return [SavedState("", load_file(target))]
        except SafetensorError as error:
            raise CheckpointError(f"{target} is not a safetensors file: {error}") from None
    try:
        content = torch.load(target, map_location="cpu", weights_only=True)
    # A damaged archive fails with any error, and torch's own words advise to switch the protection off.
    except Exception as error:
        raise CheckpointError(
            f"{target} ({target.stat().st_size} bytes) cannot be loaded: {_reason(error)};"
            " save the network's state_dict() and give that file"
        ) from None
    found = list(_mappings("", content))
    if not found:
        raise CheckpointError(
            f"{target} holds no state dict (names to tensors); save the network's state_dict()"
        )
    return found


def fit_states(
    network: nn.Module, states: Sequence[SavedState], *, source: object, class_names: Sequence[str]
) -> None:
    """Load that state dict of a file which fits, and say in one line what had to be done for it.

    It may lie in a mapping (under ``state_dict``, ``model``, ``ema`` or any other key) beside an optimizer
    and counts; its names may carry what DataParallel, torch.compile or the script's own class put before
    them; and batch normalisation may lack ``num_batches_tracked``, which came later than the layer.

    Args:
        network: whose parameters and buffers are set.
        states: by :func:`read_states`.
        source: of the weights, for the messages.
        class_names: of the network.

    Raises:
        CheckpointError: none fits, or several do that differ.
    """
    own = network.state_dict()
    read = [_read_as(own, state) for state in states]
    fitting = [found for found in read if found.fits]
    best = max(fitting or read, key=lambda found: found.common)
    others = [found.place for found in fitting if not _same(found.tensors, best.tensors)]
    if others:
        raise CheckpointError(
            f"{source} holds {1 + len(others)} state dicts that fit {type(network).__name__}:"
            f" {', '.join(place or 'the whole file' for place in (best.place, *others))};"
            " save the one that you mean in a file of its own"
        )
    where = f"{source} (under {best.place})" if best.place else source
    fit_weights(network, best.tensors, source=where, class_names=class_names)
    if best.words:
        print(f"weights {source}: {'; '.join(best.words)}", file=sys.stderr, flush=True)


def load_named(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors with the network's own names and shapes, whatever a library says of other versions.

    Without the versions that a state dict carries, some networks take it for one of an old release.

    Raises:
        RuntimeError: names or shapes differ.
    """
    state = OrderedDict(tensors)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]  # as torch itself sets it
    network.load_state_dict(state)


@dataclass(frozen=True)
class _Found:
    """A state dict as a network may read it: where it lies, its tensors, and what was done."""

    place: str
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...]
    fits: bool
    common: int


def _read_as(own: Mapping[str, Tensor], state: SavedState) -> _Found:
    """Names with as little left out of them as makes them the network's, else as makes most of them alike."""
    found = []
    for removed, tensors in _readings(state.tensors):
        counters = [name for name in own if name.rpartition(".")[2] == _COUNTER and name not in tensors]
        whole = {**tensors, **{name: own[name] for name in counters}}
        words = (
            *([f"state dict under {state.place}"] if state.place else []),
            *([f"without {', '.join(state.beside)}, which lies beside the weights"] if state.beside else []),
            *([f"names without {' and '.join(removed)}"] if removed else []),
            *([f"{len(counters)} {_COUNTER} are missing and stay at 0"] if counters else []),
        )
        fits = _shapes(whole) == _shapes(own)
        found.append(_Found(state.place, whole, words, fits, len(own.keys() & tensors.keys())))
    return max(found, key=lambda one: (one.fits, one.common))


def _readings(state: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """What is left out of the names, and the state dict with the names that are left; the plainest first."""
    yield (), state
    parts = {name: name.split(".") for name in state if name != _AVERAGED}
    removed = sorted({part for words in parts.values() for part in words[:-1] if part in _WRAPPERS})
    bare = {
        name: [*(p for p in words[:-1] if p not in _WRAPPERS), words[-1]] for name, words in parts.items()
    }
    while True:
        names = {".".join(words): name for name, words in bare.items()}
        if len(names) < len(bare):
            return
        if removed:
            yield tuple(f"{part}." for part in removed), {new: state[old] for new, old in names.items()}
        first = {words[0] if len(words) > 1 else "" for words in bare.values()}
        if len(first) != 1 or not first <= _OWNERS:
            return
        removed = [*removed, *first]
        bare = {name: words[1:] for name, words in bare.items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size | None]:
    # Some layers keep other things than tensors.
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(
        tensor.dtype == second[name].dtype and torch.equal(tensor, second[name])
        for name, tensor in first.items()
    )


def _mappings(place: str, content: object) -> Iterator[SavedState]:
    """The tensors of a mapping, and those of all mappings inside it."""
    if not isinstance(content, Mapping):
        return
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield SavedState(place, tensors, tuple(str(key) for key in content if key not in tensors))
    for key, value in content.items():
        yield from _mappings(f"{place}.{key}" if place else str(key), value)


def _reason(error: Exception) -> str:
    """Why a pickle cannot be read."""
    if "TorchScript" in str(error):
        return "it is a TorchScript program, not a state dict"
    if not isinstance(error, pickle.UnpicklingError):
        return "it is likely truncated or damaged"
    strange = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({strange[1]})" if strange else ""
    return f"it holds something other than tensors and plain data{what}, or is damaged"


def fit_weights(
    network: nn.Module, weights: Mapping[str, Tensor], *, source: object, class_names: Sequence[str]
) -> None:
    """Load all weights into the network.

    Args:
        network: whose parameters and buffers are set.
        weights: by name.
        source: of the weights, for the message.
        class_names: of the network.

    Raises:
        CheckpointError: names or shapes that differ; where only the number of classes does, both numbers
            and the names that are known.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    shapes = {
        name: (tuple(weights[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    }
    if not missing and not unknown and not shapes:
        load_named(network, weights)
        return
    number = len(class_names)
    heads = {found[0] for found, wanted in shapes.values() if wanted[:1] == (number,) and found}
    if (
        not missing
        and not unknown
        and len(heads) == 1
        and all(w[:1] == (number,) for _, w in shapes.values())
    ):
        raise CheckpointError(
            f"{source} was made for {heads.pop()} classes (the file does not name them), but the classifier"
            f" has {number}: {', '.join(class_names)}; give the class_names of the file"
        )
    lines = [
        *_listed("the network has, the file lacks", missing),
        *_listed("the file has, the network lacks", unknown),
        *_listed(
            "other shapes", [f"{name}: file {found}, network {own}" for name, (found, own) in shapes.items()]
        ),
    ]
    raise CheckpointError(
        f"{source} does not fit {type(network).__name__}:\n"
        + "\n".join(lines)
        + "\nCheck the architecture and its arguments"
    )


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"  {title} ({len(names)}): {', '.join(names[:_NAMED])}{more}"]
