"""Safe checkpoints and exports: tensors and plain data only, written whole or not at all, with checksums.

A checkpoint ``x.ckpt`` has a sidecar ``x.ckpt.sha256`` in the format of ``sha256sum``. An export is a pair:
``x.safetensors`` with the tensors and ``x.json``, its card. Nothing here can run code from a file.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from torch.types import Storage

from verisal._files import RUN_RECORD, left_behind, write_atomic
from verisal.errors import CheckpointError, ConfigError

CARD_KEY = "verisal_card"
"""Key of the card inside a checkpoint."""

BRANCH_KEY = "verisal_branch"
"""Key, inside a checkpoint, of how often its run had gone back to an earlier state before it was written."""

IMAGES_KEY = "verisal_images"
"""Key inside a checkpoint, and in the card of an export, of the images that the weights depend on: ``fit``,
``val`` and ``classifier`` to ``(N,)`` int64, see :class:`.ImageDigests`."""

EXPORT = "model.safetensors"
"""File name of an export's tensors; the card beside it has the suffix ``.json``."""

MapLocation = str | torch.device | dict[str, str] | Callable[[Storage, str], Storage]

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")


@runtime_checkable
class Carded(Protocol):
    """A task that can say what its weights were made for."""

    def card(self) -> dict[str, Any]:
        """Plain data that must be equal when weights are loaded: class names, image size, stages, network."""
        ...


@runtime_checkable
class CardedByData(Protocol):
    """A task whose card its data can tell as soon as it is made, before anything is computed for a stage."""

    def card_of(self, data: Any) -> dict[str, Any]:  # noqa: ANN401 - the task's own kind of data module
        """The card of the task on this data."""
        ...


def file_sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing_file(path: Path | str, what: str = "an existing file") -> Path:
    """The path, where a file can be read; ``what`` it should be the path of is for the message.

    Raises:
        CheckpointError: nothing there, a folder, or something that cannot be read.
    """
    if not str(path):
        raise CheckpointError(f"an empty path was given; expected {what}")
    target = Path(path)
    try:
        with target.open("rb"):
            return target
    except IsADirectoryError:
        found = (file.relative_to(target) for file in sorted(target.glob("**/*.ckpt")))
        inside = [file for file in found if not any(map(left_behind, file.parts))]
        named = f", for example {inside[0]} in it" if inside else ""
        raise CheckpointError(f"{target} is a folder; give the path of {what}{named}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{target} does not exist; give the path of {what}.{_others(target)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{target} cannot be read ({reason}); give the path of {what}") from None


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path | str) -> None:
    """Write a checkpoint and its checksum sidecar so that a kill at any moment leaves a loadable pair.

    The sidecar names the old and the new checksum while the file is exchanged, and only the new one after.

    Args:
        checkpoint: tensors and plain data.
        path: file to write; its folder is made.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the earlier file is untouched.
    """
    target = Path(path)
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    sidecar = _sidecar(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        accepted = [digest, *(_accepted(target) if target.is_file() else ())]
        write_atomic(sidecar, _sidecar_text(accepted, target))
        write_atomic(target, content)
        write_atomic(sidecar, _sidecar_text([digest], target))
    except OSError as error:
        kept = "the earlier checkpoint is untouched" if target.is_file() else "nothing was written"
        raise CheckpointError(
            f"checkpoint {target} ({len(content)} bytes) could not be written: {error.strerror or error};"
            f" {kept}. Free some space, or choose another folder with --run_dir"
        ) from error


def load_checkpoint(path: Path | str, *, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load the tensors and plain data of a local file, never code.

    Raises:
        CheckpointError: missing, truncated or changed file, content beyond tensors and plain data, or a URL.
    """
    if _URL.match(str(path)):
        raise CheckpointError(
            f"{path}: checkpoints are not loaded from URLs; download the file and give its path"
        )
    target = existing_file(path)
    content = target.read_bytes()
    accepted = _accepted(target)
    if accepted and hashlib.sha256(content).hexdigest() not in accepted:
        raise CheckpointError(
            f"{target} ({len(content)} bytes) does not match its checksum in {_sidecar(target).name}:"
            f" it is truncated, damaged or was changed after it was written.{_others(target)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    # A damaged archive fails with any error, and torch's own words advise to switch the protection off.
    except Exception as error:
        reason = (
            "it holds something other than tensors and plain data, or is damaged"
            if isinstance(error, pickle.UnpicklingError)
            else "it is likely truncated or damaged"
        )
        raise CheckpointError(
            f"{target} ({len(content)} bytes) cannot be loaded: {reason}. Use a checkpoint that"
            f" verisal wrote, and copy it again if it came from elsewhere.{_others(target)}"
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{target} holds a {type(checkpoint).__name__}, not a checkpoint of a run;"
            " give the path of a .ckpt file from a run's checkpoints folder"
        )
    return checkpoint


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint and its sidecar; a missing file is no error."""
    path.unlink(missing_ok=True)
    _sidecar(path).unlink(missing_ok=True)


def check_card(checkpoint: Mapping[str, Any], expected: Mapping[str, Any], path: object) -> None:
    """Compare the card in a loaded checkpoint with that of the configured task.

    Raises:
        CheckpointError: no card, or entries that differ; both values of each are shown.
    """
    found = checkpoint.get(CARD_KEY)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path} has no card that says what it was trained for; use a checkpoint that this task wrote"
        )
    wanted = _plain(expected)
    given = _plain(found)
    lines = [
        f"  {key}: checkpoint has {given.get(key, 'nothing')!r}, config has {wanted.get(key, 'nothing')!r}"
        for key in sorted(wanted.keys() | given.keys())
        if wanted.get(key) != given.get(key)
    ]
    if lines:
        raise CheckpointError(
            "\n".join([f"{path} was made for something else than the config asks for:", *lines])
            + "\nUse the config in that run's folder, or train again with this one"
        )


def save_export(path: Path | str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write ``x.safetensors`` and its card ``x.json``, which records the checksum of the tensors.

    The card is plain data, and tensors under :data:`IMAGES_KEY`, which are kept with the others.

    Raises:
        CheckpointError: the files cannot be written; the earlier ones are untouched.
    """
    target = Path(path)
    plain = {key: value for key, value in card.items() if key != IMAGES_KEY}
    seen = {f"{IMAGES_KEY}.{use}": values for use, values in card.get(IMAGES_KEY, {}).items()}
    all_tensors = {**tensors, **seen}
    content = tensors_to_bytes({name: part.detach().cpu().contiguous() for name, part in all_tensors.items()})
    record = {**_plain(plain), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)
        write_atomic(target.with_suffix(".json"), text.encode())
    except OSError as error:
        raise CheckpointError(f"export {target} could not be written: {error.strerror or error}") from error


def load_export(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pair written by :func:`save_export`: the tensors by name, and the card with its ``sha256``.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not those that the card describes.
    """
    target = Path(path)
    card_path = target.with_suffix(".json")
    for file in (target, card_path):
        existing_file(file)
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{card_path} is not a card: a JSON object with a sha256 was expected"
        ) from None
    content = target.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(
            f"{target} ({len(content)} bytes) is not the file that {card_path.name} describes"
            " (checksum differs): it is damaged or was changed; install or export it again"
        )
    try:
        tensors = tensors_from_bytes(content)
    except SafetensorError as error:
        raise CheckpointError(f"{target} ({len(content)} bytes) is not a safetensors file: {error}") from None
    prefix = f"{IMAGES_KEY}."
    seen = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    return tensors, card | ({IMAGES_KEY: seen} if seen else {})


def load_weights(path: Path | str) -> dict[str, Any]:
    """A checkpoint, or an export as the checkpoint that it was made from.

    An export says in its card, under ``checkpoint``, how: ``card`` is the task's, ``prefix`` stands before
    the names of its tensors, and ``twins`` maps beginnings of names that were left out to those of equal
    tensors.

    Raises:
        CheckpointError: as of :func:`load_checkpoint` and :func:`load_export`; or weights of no task.
    """
    if Path(path).suffix != ".safetensors":
        return load_checkpoint(path)
    tensors, card = load_export(path)
    told = card.get("checkpoint")
    if not isinstance(told, Mapping):
        raise CheckpointError(
            f"{path} does not say which task its weights belong to; a classifier is evaluated by"
            " `verisal test --model FOLDER`, other weights by a file that `verisal export` wrote"
        )
    state = {told.get("prefix", "") + name: tensor for name, tensor in tensors.items()}
    for missing, kept in told.get("twins", {}).items():
        state |= {
            missing + name.removeprefix(kept): tensor.clone()
            for name, tensor in state.items()
            if name.startswith(kept)
        }
    seen = {IMAGES_KEY: card[IMAGES_KEY]} if IMAGES_KEY in card else {}
    return {"state_dict": state, CARD_KEY: told["card"], **seen}


def _plain(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card as it is after JSON, so that tuples equal lists."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(card)))
    except TypeError as error:
        raise CheckpointError(
            f"a card must hold plain data (numbers, texts, lists, mappings): {error}"
        ) from None
    return plain


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sidecar_text(digests: list[str], path: Path) -> bytes:
    return "".join(f"{digest}  {path.name}\n" for digest in digests).encode()


def _accepted(path: Path) -> tuple[str, ...]:
    """Checksums named in the sidecar; none without a sidecar (a file copied on its own)."""
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        return ()
    lines = sidecar.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.split()[0] for line in lines if line.split()) or ("empty sidecar",)


def _others(path: Path) -> str:
    """Sentence naming the other checkpoints in the folder."""
    if not path.parent.is_dir():
        return ""
    files = [file for file in path.parent.glob(f"*{path.suffix or '.ckpt'}") if file != path]
    names = sorted(file.name for file in files if not left_behind(file.name))
    return f" Also in that folder: {', '.join(names[:5])}." if names else ""


def trained_file(path: Path) -> Path:
    """The file with the weights in a run's or an export's folder, or the file itself.

    A run that tested weights of another one has those.

    Raises:
        ConfigError: nothing of the kind.
    """
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; give the folder of a run that `verisal fit` wrote, or of an export by"
            " `verisal export`"
        )
    inside = [*run_weights(path), path / EXPORT]
    files = [path] if path.is_file() else [file for file in inside if file.is_file()]
    if not files and (path / RUN_RECORD).is_file():
        raise ConfigError(
            f"{path} is a run that has trained nothing, so that there are no weights in it; give the folder"
            " of a run of `verisal fit`, or of an export by `verisal export`"
        )
    if not files or files[0].suffix not in (".ckpt", ".safetensors"):
        raise ConfigError(
            f"{path} is no run, checkpoint (.ckpt) or export (.safetensors); give the folder that"
            " `verisal fit` or `verisal export` wrote"
        )
    return files[0]


def run_weights(run: Path) -> list[Path]:
    """The checkpoints of a run that are there: its best, its last, and that of another run that it tested."""
    found = [run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    try:
        record = json.loads((run / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    return [file for file in (*found, Path(str(record.get("weights", "")))) if file.is_file()]
