"""Weights from files: tensors only, never code, and a clear word where they do not fit."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from verisal._brief import brief
from verisal.checkpoint import existing_file
from verisal.errors import CheckpointError
from verisal.progress import tell

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
    """A mapping of names to tensors in a file, with the dotted keys that lead to it and its other entries."""

    place: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    __repr__ = brief


def read_states(path: Path | str) -> list[SavedState]:
    """Every mapping of names to tensors in a ``.safetensors`` file, or in a pickle of nothing else.

    Raises:
        CheckpointError: a URL, a missing or damaged file, or one that holds no named tensors.
    """
    if "://" in str(path):
        raise CheckpointError(
            f"{path}: weights are not loaded from URLs; download the file and give its path"
        )
    target = existing_file(path, "a .safetensors or .pth file")
    with target.open("rb") as file:
        start = file.read(16)
    # Of a safetensors file a length of 8 bytes, then JSON, whatever its suffix.
    if target.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return [SavedState("", load_file(target))]
        except SafetensorError as error:
            why = _strange(start) or error
            raise CheckpointError(
                f"{target} ({target.stat().st_size} bytes) is not a safetensors file: {why}"
            ) from None
    if strange := _strange(start):
        raise CheckpointError(f"{target} ({target.stat().st_size} bytes) holds no weights: {strange}")
    try:
        content = torch.load(target, map_location="cpu", weights_only=True)
    # A damaged archive fails with any error, and torch's own words advise to switch the protection off.
    except Exception as error:
        raise CheckpointError(
            f"{target} ({target.stat().st_size} bytes) cannot be loaded: {_reason(error)};"
            " save the network's state_dict() and give that file"
        ) from None
    states = list(_mappings("", content))
    if not states:
        raise CheckpointError(
            f"{target} holds no state dict (names to tensors); save the network's state_dict()"
        )
    return states


def fit_states(
    network: nn.Module, states: Sequence[SavedState], *, source: object, class_names: Sequence[str]
) -> None:
    """Load that state dict of a file which fits, and say in one line what had to be done for it.

    It may lie in a mapping (under ``state_dict``, ``model``, ``ema`` or any other key) beside an optimizer
    and counts; its names may carry what DataParallel, torch.compile or the script's own class put before
    them; and batch normalisation may lack ``num_batches_tracked``, which came later than the layer.

    Raises:
        CheckpointError: none fits, or several do that differ.
    """
    own = network.state_dict()
    readings = [_read_as(own, state) for state in states]
    fitting = [reading for reading in readings if reading.fits]
    best = max(fitting or readings, key=lambda reading: reading.common)
    rivals = (reading for reading in fitting if reading is not best)
    others = [rival.place for rival in rivals if not _same(rival.tensors, best.tensors)]
    if others:
        raise CheckpointError(
            f"{source} holds {1 + len(others)} state dicts that fit {type(network).__name__}:"
            f" {', '.join(place or 'the whole file' for place in (best.place, *others))};"
            " save the one that you mean in a file of its own"
        )
    where = f"{source} (under {best.place})" if best.place else source
    fit_weights(network, best.tensors, source=where, class_names=class_names)
    if best.words:
        tell(f"weights {source}: {'; '.join(best.words)}", error=True)


def load_named(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors with the network's own names and shapes, else ``RuntimeError``.

    Without the versions that a state dict carries, some networks take it for one of an old release.
    """
    state = OrderedDict(tensors)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]  # as torch itself sets it
    network.load_state_dict(state)


@dataclass(frozen=True)
class _Reading:
    """A state dict as a network may read it: where it lies, its tensors, and what was done."""

    place: str
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...]
    fits: bool
    common: int


def _read_as(own: Mapping[str, Tensor], state: SavedState) -> _Reading:
    """Names with as little left out of them as makes them the network's, else as makes most of them alike."""
    readings = []
    for removed, tensors, outside in _readings(own, state.tensors):
        beside = (*state.beside, *outside)
        counters = [name for name in own if name.rpartition(".")[2] == _COUNTER and name not in tensors]
        whole = {**tensors, **{name: own[name] for name in counters}}
        words = (
            *([f"state dict under {state.place}"] if state.place else []),
            *([f"without {', '.join(beside)}, which lies beside the weights"] if beside else []),
            *([f"names without {' and '.join(removed)}"] if removed else []),
            *([f"{len(counters)} {_COUNTER} are missing and stay at 0"] if counters else []),
        )
        fits = _shapes(whole) == _shapes(own)
        common = len(own.keys() & tensors.keys())
        readings.append(_Reading(state.place, whole, words, fits, common))
    return max(readings, key=lambda reading: (reading.fits, reading.common))


def _readings(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor], tuple[str, ...]]]:
    """Parts left out of the names, the state dict with the names that are left, and what lies beside it.

    The plainest comes first. Beside a network that a script's class holds may lie what else it holds, such as
    the weights of a loss, but nothing that may be a second copy of the network.
    """
    yield (), state, ()
    parts = {name: name.split(".") for name in state if name != _AVERAGED}
    removed = sorted({part for words in parts.values() for part in words[:-1] if part in _WRAPPERS})
    bare = {
        name: [*(p for p in words[:-1] if p not in _WRAPPERS), words[-1]] for name, words in parts.items()
    }
    outside: list[str] = []
    while True:
        names = {".".join(words): name for name, words in bare.items()}
        if len(names) < len(bare):
            return
        if removed:
            tensors = {new: state[old] for new, old in names.items()}
            yield tuple(f"{part}." for part in removed), tensors, tuple(outside)
        owners = {words[0] for words in bare.values() if len(words) > 1} & _OWNERS
        if len(owners) != 1:
            return
        removed = [*removed, *owners]
        others = [name for name, words in bare.items() if len(words) == 1 or words[0] not in owners]
        if any(f".{name}".endswith(f".{known}") for name in others for known in own):
            return
        outside += others
        bare = {name: words[1:] for name, words in bare.items() if name not in others}


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


def _strange(start: bytes) -> str:
    """Kind of a file that begins like this, if it is one that is often taken for weights."""
    if start.startswith(b"version https://"):
        return "it is a pointer of Git LFS; fetch the file itself (git lfs pull)"
    if start.lstrip()[:1] == b"<":
        return "it is a web page, as a failed download leaves it; fetch the file again"
    if start[:1] in (b"{", b"["):
        return (
            "it is a text in JSON; of weights in several files, put them together into one safetensors file"
        )
    return "it is compressed; unpack it" if start.startswith(b"\x1f\x8b") else ""


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
    """Load all weights, by name, into the network; ``source`` is named in the message.

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
        _check_values(own, weights, source)
        load_named(network, weights)
        return
    number = len(class_names)
    heads = {there[0] for there, wanted in shapes.values() if wanted[:1] == (number,) and there}
    only_heads = not missing and not unknown and all(own[:1] == (number,) for _, own in shapes.values())
    if only_heads and len(heads) == 1:
        raise CheckpointError(
            f"{source} was made for {heads.pop()} classes (the file does not name them), but the classifier"
            f" has {number}: {', '.join([*class_names[:_NAMED], *['...'] * (number > _NAMED)])}; give the"
            " class_names of the file, such as --class_names '[cat, dog]'"
        )
    differing = [f"{name}: file {there}, network {own}" for name, (there, own) in shapes.items()]
    lines = [
        *_listed("the network has, the file lacks", missing),
        *_listed("the file has, the network lacks", unknown),
        *_listed("other shapes", differing),
    ]
    raise CheckpointError(
        "\n".join([f"{source} does not fit {type(network).__name__}:", *lines])
        + "\nCheck the architecture and its arguments"
    )


def _check_values(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: object) -> None:
    """Raise ``CheckpointError`` for tensors that would load, but not as the numbers that were meant.

    That is whole numbers for weights (a quantised network), NaN, and tensors without values.
    """
    pairs = {name: (weights[name], tensor) for name, tensor in own.items() if isinstance(tensor, Tensor)}
    if empty := [name for name, (given, _) in pairs.items() if given.is_meta]:
        raise CheckpointError(f"{source} holds tensors without values: {', '.join(empty[:_NAMED])}")
    floats = {name: given for name, (given, tensor) in pairs.items() if tensor.is_floating_point()}
    if other := [name for name, given in floats.items() if not given.is_floating_point()]:
        kinds = ", ".join(sorted({str(floats[name].dtype).removeprefix("torch.") for name in other}))
        raise CheckpointError(
            f"{source} holds {kinds} where the network has floating-point numbers"
            f" ({', '.join(other[:_NAMED])}), as a quantised network has; save weights from before that"
        )
    if broken := [name for name, given in floats.items() if given.isnan().any()]:
        raise CheckpointError(
            f"{source} holds NaN in {len(broken)} of {len(pairs)} tensors ({', '.join(broken[:_NAMED])}):"
            " its training diverged; take an earlier checkpoint"
        )


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"  {title} ({len(names)}): {', '.join(names[:_NAMED])}{more}"]
