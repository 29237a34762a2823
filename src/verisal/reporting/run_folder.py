"""The folder of one run: made once, owned by one run id, never shared by two fresh runs."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import final

from verisal.checkpoint import write_atomic
from verisal.errors import ConfigError

__all__ = ["RunFolder", "attach_run_folder", "create_run_folder", "find_run_of", "open_run_folder"]

_RECORD = "run.json"
_EARLIER = "earlier"
_KEPT = frozenset({_EARLIER, "wandb"})


@final
@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Attributes:
        path: the folder.
        run_id: names the run, here and at Weights & Biases; a resumed run keeps it.
        main_stage: stage whose config is ``config.yaml``.
        continued: whether the folder held this run already.
    """

    path: Path
    run_id: str
    main_stage: str
    continued: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    def config_file(self, stage: str) -> Path:
        """``config.yaml`` for the stage that made the folder, ``config.<stage>.yaml`` for any other."""
        return self.path / ("config.yaml" if stage == self.main_stage else f"config.{stage}.yaml")

    def write_config(self, stage: str, text: str) -> Path:
        """Write the full config of a stage and return its path."""
        target = self.config_file(stage)
        write_atomic(target, text.encode())
        return target

    def write_environment(self) -> None:
        """Write ``environment.txt``: Python, platform, processors and the installed packages."""
        packages = sorted({f"{item.name}=={item.version}" for item in distributions()}, key=str.lower)
        head = [
            f"# Python {platform.python_version()} ({sys.implementation.name})",
            f"# {platform.platform()}, {os.cpu_count()} processors",
        ]
        write_atomic(self.path / "environment.txt", ("\n".join([*head, *packages]) + "\n").encode())


def create_run_folder(task: str, stage: str, *, root: Path = Path("runs")) -> RunFolder:
    """Make ``<root>/<task>/<time>-<id>/``; two runs in the same second get two folders.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    while True:
        run_id = secrets.token_hex(4)
        path = root / task / f"{time.strftime('%Y%m%d-%H%M%S')}-{run_id}"
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if path.is_dir():
                continue
            raise ConfigError(_refusal(path, "a file is in the way")) from None
        except OSError as error:
            raise ConfigError(_refusal(path, error.strerror or str(error))) from None
        return _started(path, run_id, stage)


def open_run_folder(path: Path, stage: str, *, fresh: bool) -> RunFolder:
    """Use exactly ``path``, made if needed.

    Args:
        path: the folder.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        fresh: start a new run. Files of a run that is there already move to ``earlier/<its id>/``.

    Raises:
        ConfigError: the folder cannot be made or written, or is not empty and holds no run.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_refusal(path, error.strerror or str(error))) from None
    record = _read_record(path)
    if record is None:
        strangers = sorted(item.name for item in path.iterdir() if item.name not in _KEPT)
        if strangers:
            raise ConfigError(
                f"run folder {path} holds files of something else ({', '.join(strangers[:5])});"
                " give --run_dir an empty or new folder, or the folder of a run"
            )
        return _started(path, secrets.token_hex(4), stage)
    run_id, main_stage = record
    if not fresh:
        _check_writable(path)
        return RunFolder(path, run_id, main_stage, continued=True)
    _set_aside(path, run_id)
    return _started(path, secrets.token_hex(4), stage)


def attach_run_folder(path: Path) -> RunFolder:
    """The run that another process of the same command has just opened.

    Raises:
        ConfigError: there is no run in the folder.
    """
    record = _read_record(path)
    if record is None:
        raise ConfigError(f"{path} holds no run; the first process of a command makes its folder")
    return RunFolder(path, *record, continued=True)


def find_run_of(file: Path) -> Path | None:
    """Run folder that a checkpoint or config file belongs to, or None."""
    for folder in list(file.absolute().parents)[:2]:
        if (folder / _RECORD).is_file():
            return folder
    return None


def _started(path: Path, run_id: str, stage: str) -> RunFolder:
    _check_writable(path)
    record = {"run_id": run_id, "stage": stage, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_atomic(path / _RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return RunFolder(path, run_id, stage, continued=False)


def _read_record(path: Path) -> tuple[str, str] | None:
    file = path / _RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return str(record["run_id"]), str(record["stage"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file} is damaged; give --run_dir another folder") from None


def _check_writable(path: Path) -> None:
    try:
        write_atomic(path / ".writable", b"x" * 4096)
        (path / ".writable").unlink()
    except OSError as error:
        raise ConfigError(_refusal(path, error.strerror or str(error))) from None


def _set_aside(path: Path, run_id: str) -> None:
    try:
        target = path / _EARLIER / run_id
        target.mkdir(parents=True, exist_ok=True)
        for item in list(path.iterdir()):
            if item.name not in _KEPT:
                item.replace(target / item.name)
    except OSError as error:
        raise ConfigError(_refusal(path, error.strerror or str(error))) from None


def _refusal(path: Path, reason: str) -> str:
    return f"run folder {path} cannot be written ({reason}); choose another with --run_dir PATH"
