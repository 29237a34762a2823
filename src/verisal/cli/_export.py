"""``verisal export``: the weights of a run in files that hold no code, and how such files are tested."""

from __future__ import annotations

import json
import re
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from verisal.checkpoint import (
    CARD_KEY,
    EXPORT,
    IMAGES_KEY,
    load_checkpoint,
    load_export,
    save_export,
    trained_file,
)
from verisal.cli._threads import Threads
from verisal.detection.detector_file import ALARM, read_detector
from verisal.errors import ConfigError
from verisal.fingerprint import state_hash
from verisal.models import export_classifier, load_classifier
from verisal.progress import tell
from verisal.reporting.run_folder import find_run_of
from verisal.results import ScoreName
from verisal.saliency.gates.learned import load_mask_network, save_mask_network


def write_export(given: Namespace, threads: Threads) -> int:
    """Run ``verisal export``.

    Args:
        given: what its parser read.
        threads: that it computes on.

    Returns:
        0.

    Raises:
        ConfigError: no run, or a task that has nothing to export.
        CheckpointError: weights that cannot be loaded.
    """
    if words := threads.use(given.threads):
        tell(words)
    source, target = trained_file(Path(given.run)), Path(given.output) / EXPORT
    if source.suffix != ".ckpt":
        raise ConfigError(f"{source} is an export already; copy it, with its .json")
    checkpoint = load_checkpoint(source)
    card = checkpoint.get(CARD_KEY, {})
    match card.get("task"):
        case "classifier":
            _export_classifier(source, target)
        case "masker":
            _export_masker(checkpoint, card, source, target)
        case "detector":
            _export_detector(checkpoint, source, target)
        case other:
            raise ConfigError(
                f"{source} is of the task {other!r}; weights of classifier, masker and detector runs can be"
                " exported"
            )
    size = target.stat().st_size / 1e6
    tell(f"wrote {target} ({size:.2f} MB) and {target.with_suffix('.json').name}")
    if target.with_name(ALARM).is_file():
        tell(f"wrote {target.with_name(ALARM)} and its .json")
        tell(f"  use its alarm: verisal explain IMAGE --detector {shlex.quote(given.output)}")
    run = find_run_of(source)
    config = "CONFIG" if run is None else shlex.quote(str(run / "config.yaml"))
    tell(f"  test it: verisal test --model {shlex.quote(given.output)} --config {config}")
    return 0


def with_export(arguments: Sequence[str]) -> list[str]:
    """The same command where ``--model`` names the folder of an export instead of a task's class.

    The task comes from the config, its weights from the export; a classifier becomes the frozen one of
    :class:`FrozenClassifierTask`. Nothing in the export names what is imported.

    Raises:
        ConfigError: no such folder, or one without an export or a run.
        CheckpointError: a damaged export.
    """
    words = list(arguments)
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--model" and not equals:
            value = words[place + 1] if place + 1 < len(words) else ""
        if name != "--model" or not _is_place(value):
            continue
        file = trained_file(Path(value))
        rest = words[:place] + words[place + (1 if equals else 2) :]
        if file.suffix == ".safetensors" and "checkpoint" not in load_export(file)[1]:
            frozen = ["--model=FrozenClassifierTask", f"--model.classifier={file}", "--ckpt_path=none"]
            return [*rest, *frozen]
        return [*rest, f"--ckpt_path={file}"]
    return words


def _is_place(value: str) -> bool:
    """True if a value of ``--model`` means files, there or not: a class is ``Name`` or ``package.Name``."""
    path = Path(value)
    is_name = re.fullmatch(r"[a-z0-9_~-][\w-]*", value) is not None
    settings = value.lstrip().startswith("{")
    return not settings and (
        is_name or path.is_dir() or "/" in value or path.suffix in (".ckpt", ".safetensors")
    )


def _export_classifier(source: Path, target: Path) -> None:
    classifier = load_classifier(source)
    export_classifier(target, classifier, origin=_origin(source))
    run = find_run_of(source)
    if run is None or not (run / ALARM).is_file():
        return
    file = read_detector(run)
    # Another checkpoint of the run may have been tested.
    if file.card.get("classifier") == state_hash(classifier):
        file.alarm(classifier).save(target.with_name(ALARM))


def _export_masker(
    checkpoint: Mapping[str, Any], card: Mapping[str, Any], source: Path, target: Path
) -> None:
    network, _ = load_mask_network(str(source))
    own = {name: value for name, value in card.items() if name != "task"}
    told = {"card": card, "prefix": "network."}
    seen = checkpoint.get(IMAGES_KEY, {})
    origin = _origin(source, "masker")
    save_mask_network(target, network, {**own, "checkpoint": told, "origin": origin, IMAGES_KEY: seen})


def _export_detector(checkpoint: Mapping[str, Any], source: Path, target: Path) -> None:
    file = read_detector(source)
    for row in file.card["rows"]:
        file.detector(row)
    # Networks in training are not exported.
    kept = {name: tensor for name, tensor in file.tensors.items() if not name.startswith("networks.")}
    card = {
        "network": "detectors",
        "checkpoint": {"card": file.card},
        "settings": {name: file.settings[name] for name in ("head", "detectors")},
        "thresholds": file.thresholds(),
        "origin": _origin(source, str(file.settings["head"])),
        IMAGES_KEY: checkpoint.get(IMAGES_KEY, {}),
    }
    save_export(target, kept, card)


def _origin(source: Path, row: str = "") -> dict[str, Any]:
    """Origin of the weights: the run, its seed, and what its test found of ``row``."""
    run = find_run_of(source)
    origin: dict[str, Any] = {"verisal": version("verisal"), "checkpoint": source.name}
    if run is None:
        return origin
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    origin |= {"run": record["run_id"], "seed": config.get("seed_everything")}
    report = run / "report.json"
    if report.is_file():
        metrics = json.loads(report.read_text(encoding="utf-8")).get("metrics", {})
        origin["test"] = {
            name: score["value"]
            for name, score in metrics.items()
            if name.startswith("test/") and ScoreName(name).row.startswith(row)
        }
    return origin
