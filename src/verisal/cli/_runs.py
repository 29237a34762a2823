"""Which run a command works in, and which checkpoint it starts from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from verisal.checkpoint import load_checkpoint, save_checkpoint
from verisal.errors import CheckpointError, ConfigError, VerisalError
from verisal.reporting import (
    RunFolder,
    attach_run_folder,
    create_run_folder,
    find_run_of,
    open_run_folder,
)

from ._rendezvous import started_group

__all__ = ["newest_loadable", "open_run", "process_rank", "resume_command", "say", "weights_for"]

# The first process hands folder and checkpoint to those that Lightning starts for the other devices.
_HANDED_DOWN = "VERISAL_RUN"


def process_rank() -> int:
    """Number of this process among those of one command, 0 for the first."""
    group = started_group()
    return int(os.environ.get("LOCAL_RANK") or 0) if group is None else group.rank


def say(line: str) -> None:
    """Print a line from the first process."""
    if process_rank() == 0:
        print(line, flush=True)


def open_run(stage: str, task: str, *, run_dir: Path | None, resume: str) -> tuple[RunFolder, Path | None]:
    """Make or find the run's folder, and the checkpoint that a fit goes on from.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        task: name of the task, for a new folder.
        run_dir: exactly this folder; a new one when None.
        resume: ``never``, ``auto`` or the path of a checkpoint; only a fit heeds it.

    Raises:
        ConfigError: a folder that cannot be used, or ``auto`` without a folder.
        CheckpointError: nothing in the folder, or at the path, can be loaded.
    """
    group = started_group()
    if process_rank() != 0:
        return _attached(_given_down() if group is None else group.take())
    try:
        run, checkpoint = _opened(stage, task, run_dir, resume)
    except VerisalError as error:
        if group is not None:
            group.hand_down(json.dumps({"error": str(error)}))
        raise
    text = json.dumps({"run": str(run.path), "checkpoint": None if checkpoint is None else str(checkpoint)})
    if group is None:
        os.environ[_HANDED_DOWN] = text
    else:
        group.hand_down(text)
    return run, checkpoint


def _opened(stage: str, task: str, run_dir: Path | None, resume: str) -> tuple[RunFolder, Path | None]:
    checkpoint: Path | None = None
    if stage == "fit" and resume != "never":
        run, checkpoint = _resumed(task, run_dir, resume)
    elif run_dir is not None:
        run = open_run_folder(run_dir, stage, fresh=stage == "fit")
    else:
        run = create_run_folder(task, stage)
    return run, checkpoint


def weights_for(stage: str, given: str | None, configs: Sequence[Path]) -> Path | None:
    """The checkpoint that a validate, test or predict uses; None for the weights that the config builds.

    Args:
        stage: the command.
        given: value of ``--ckpt_path``.
        configs: config files of the command; the one inside a run's folder brings that run's best checkpoint.

    Raises:
        ConfigError: no checkpoint was named and none belongs to a config.
    """
    if given == "none":
        return None
    if given is not None:
        return Path(given)
    for config in configs:
        run = find_run_of(config)
        best = None if run is None else run / "checkpoints" / "best.ckpt"
        if best is not None and best.is_file():
            say(f"checkpoint: {best}")
            return best
    raise ConfigError(
        f"{stage} needs weights: give --ckpt_path RUN/checkpoints/best.ckpt,"
        " or --ckpt_path none for the weights that the config builds"
    )


def newest_loadable(folder: Path) -> Path | None:
    """Newest checkpoint in a folder that loads; every damaged one is named in a line.

    Raises:
        CheckpointError: there are checkpoints, and none loads.
    """
    files = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files:
        try:
            load_checkpoint(file)
        except CheckpointError as error:
            say(f"not used: {error}")
        else:
            return file
    if files:
        raise CheckpointError(
            f"none of the {len(files)} checkpoints in {folder} can be loaded; start again with --resume never"
        )
    return None


def resume_command(stage: str, run: RunFolder, config: Path, weights: str) -> str:
    """The command that goes on with a stopped fit, validate or test."""
    words = ["verisal", stage, "--config", str(config), "--run_dir", str(run.path)]
    return shlex.join([*words, *(["--resume", "auto"] if stage == "fit" else ["--ckpt_path", weights])])


def _resumed(task: str, run_dir: Path | None, resume: str) -> tuple[RunFolder, Path | None]:
    if resume == "auto":
        if run_dir is None:
            raise ConfigError("--resume auto needs --run_dir PATH: the folder of the run to go on with")
        run = open_run_folder(run_dir, "fit", fresh=False)
        checkpoint = newest_loadable(run.checkpoints)
        found = f"from {checkpoint}" if checkpoint else "from the start: it has no checkpoint yet"
        say(f"resuming run {run.run_id} {found}")
        return run, checkpoint
    given = Path(resume)
    state = load_checkpoint(resume)
    owner = run_dir or find_run_of(given)
    run = create_run_folder(task, "fit") if owner is None else open_run_folder(owner, "fit", fresh=False)
    say(f"resuming run {run.run_id} from {given}")
    # From here on this is the newest state of the run: a later --resume auto must not go past it.
    last = run.checkpoints / "last.ckpt"
    if given.resolve() != last.resolve():
        save_checkpoint(state, last)
    return run, last


def _given_down() -> str:
    if _HANDED_DOWN not in os.environ:
        raise ConfigError(
            "this process was started as one of several; start a single verisal command and set"
            " trainer.devices (it starts the others itself), or start all with torchrun or srun"
        )
    return os.environ[_HANDED_DOWN]


def _attached(text: str) -> tuple[RunFolder, Path | None]:
    found = json.loads(text)
    if "error" in found:
        raise ConfigError(f"the first process ended: {found['error']}")
    checkpoint = found["checkpoint"]
    return attach_run_folder(Path(found["run"])), None if checkpoint is None else Path(checkpoint)
