"""The folder of one run: owned by one run id, never shared by two fresh runs, made when its work begins."""

from __future__ import annotations

import itertools
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import final

from verisal._files import RUN_RECORD, left_behind, write_atomic
from verisal.errors import ConfigError

_EARLIER = "earlier"
_STATE = "state.json"
LATEST = "latest"
"""Link to the newest run of a task, beside its folder."""
_KEPT = frozenset({_EARLIER, "wandb"})


@final
@dataclass(frozen=True)
class RunFolder:
    """One run's folder; nothing is written before :meth:`begin`.

    Attributes:
        path: the folder.
        run_id: names the run, here and at Weights & Biases; a resumed run keeps it.
        main_stage: stage whose config is ``config.yaml``.
        continued: True if the folder held this run already.
        replaces: id of another run that is there; it moves to ``earlier/<its id>/``.
        numbered: True for a folder that is named by time and id; ``latest`` beside it points to it then.
    """

    path: Path
    run_id: str
    main_stage: str
    continued: bool
    replaces: str | None = None
    numbered: bool = False

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    def begin(self) -> None:
        """Make the folder, set an earlier run aside, and write the record.

        Raises:
            ConfigError: the folder cannot be made or written, or another run has begun there meanwhile.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            there = _read_record(self.path)
            expected = self.run_id if self.continued else self.replaces
            if (None if there is None else there[0]) != expected:
                raise ConfigError(
                    f"another command has begun a run in {self.path} meanwhile; give --run_dir another folder"
                )
            if self.replaces is not None:
                _set_aside(self.path, self.replaces)
            if not self.continued:
                created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                record = {"run_id": self.run_id, "stage": self.main_stage, "created": created}
                write_atomic(self.path / RUN_RECORD, (json.dumps(record, indent=2) + "\n").encode())
                if self.numbered:
                    _point_to(self.path)
        except OSError as error:
            raise ConfigError(_refusal(self.path, error.strerror or str(error))) from None

    def config_file(self, stage: str) -> Path:
        """``config.yaml`` for the stage that made the folder, ``config.<stage>.yaml`` for any other."""
        return self.path / ("config.yaml" if stage == self.main_stage else f"config.{stage}.yaml")

    def write_config(self, stage: str, text: str) -> Path:
        """Write the full config of a stage and return its path.

        Another one of an earlier part of the run is kept beside it, as ``config.1.yaml`` and so on.
        """
        target = self.config_file(stage)
        if stage == self.main_stage and target.is_file() and target.read_bytes() != text.encode():
            names = (self.path / f"config.{number}.yaml" for number in itertools.count(1))
            write_atomic(next(name for name in names if not name.exists()), target.read_bytes())
        write_atomic(target, text.encode())
        return target

    def note_weights(self, file: Path) -> None:
        """Write into ``run.json`` which weights the command that made the folder tests."""
        record = json.loads((self.path / RUN_RECORD).read_text(encoding="utf-8"))
        record["weights"] = str(file.resolve())
        write_atomic(self.path / RUN_RECORD, (json.dumps(record, indent=2) + "\n").encode())

    def write_state(self, state: str) -> None:
        """Write ``state.json``: what has become of the command that works here, and which process it is.

        Args:
            state: ``running``, ``done``, ``stopped`` or ``failed``.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        known = {"state": state, "at": now, "process": os.getpid(), "host": platform.node()}
        write_atomic(self.path / _STATE, (json.dumps(known, indent=2) + "\n").encode())

    def write_environment(self) -> None:
        """Write ``environment.txt``: Python, platform, processors and the installed packages."""
        packages = sorted({f"{item.name}=={item.version}" for item in distributions()}, key=str.lower)
        head = [
            f"# Python {platform.python_version()} ({sys.implementation.name})",
            f"# {platform.platform()}, {os.cpu_count()} processors",
        ]
        write_atomic(self.path / "environment.txt", ("\n".join([*head, *packages]) + "\n").encode())


def create_run_folder(task: str, stage: str, *, root: Path = Path("runs")) -> RunFolder:
    """A new run in ``<root>/<task>/<time>-<id>/``; two runs in the same second get two folders.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    run_id = secrets.token_hex(4)
    path = root / task / f"{time.strftime('%Y%m%d-%H%M%S')}-{run_id}"
    _check_writable(path)
    return RunFolder(path, run_id, stage, continued=False, numbered=True)


def open_run_folder(path: Path, stage: str, *, fresh: bool) -> RunFolder:
    """A run in exactly ``path``.

    Args:
        path: the folder, there or not.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        fresh: a new run, whatever is there.

    Raises:
        ConfigError: the folder cannot be made or written, or is not empty and holds no run.
    """
    _check_writable(path)
    record = _read_record(path)
    if record is not None and not fresh:
        return RunFolder(path, *record, continued=True)
    if record is None and path.is_dir():
        names = [item.name for item in path.iterdir()]
        strangers = sorted(name for name in names if name not in _KEPT and not left_behind(name))
        if strangers:
            raise ConfigError(
                f"run folder {path} holds files of something else ({', '.join(strangers[:5])});"
                " give --run_dir an empty or new folder, or the folder of a run"
            )
    replaces = None if record is None else record[0]
    return RunFolder(path, secrets.token_hex(4), stage, continued=False, replaces=replaces)


def find_run_of(file: Path) -> Path | None:
    """Run folder of a checkpoint or config file, or of the target of a link; None without one."""
    for place in (file.absolute(), file.resolve()):
        for folder in list(place.parents)[:2]:
            if (folder / RUN_RECORD).is_file():
                return folder
    return None


def _read_record(path: Path) -> tuple[str, str] | None:
    file = path / RUN_RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return str(record["run_id"]), str(record["stage"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file} is damaged; give --run_dir another folder") from None


def _check_writable(path: Path) -> None:
    """Raise unless the folder, or the nearest one above it, takes a file; nothing is left behind."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise ConfigError(_refusal(path, "a file is in the way"))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(_refusal(path, error.strerror or str(error))) from None


def _point_to(path: Path) -> None:
    """Let ``latest`` beside a run point to it, by a relative link that is there or not, never half.

    Where there are no links, or something else has that name, nothing is done: it is a convenience.
    """
    link, temporary = path.with_name(LATEST), path.with_name(f".{LATEST}.{path.name}")
    if link.exists() and not link.is_symlink():
        return
    try:
        temporary.symlink_to(path.name, target_is_directory=True)
        temporary.replace(link)
    except (OSError, NotImplementedError):
        temporary.unlink(missing_ok=True)


def _set_aside(path: Path, run_id: str) -> None:
    target = path / _EARLIER / run_id
    target.mkdir(parents=True, exist_ok=True)
    for item in list(path.iterdir()):
        if item.name not in _KEPT:
            item.replace(target / item.name)


def _refusal(path: Path, reason: str) -> str:
    return f"run folder {path} cannot be written ({reason}); choose another with --run_dir PATH"
