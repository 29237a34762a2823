"""The run of a command, and the checkpoint that it starts from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from verisal._files import left_behind
from verisal.checkpoint import BRANCH_KEY, load_checkpoint, run_weights, save_checkpoint
from verisal.cli._rendezvous import started_group
from verisal.errors import CheckpointError, ConfigError, VerisalError
from verisal.progress import tell
from verisal.reporting.run_folder import RunFolder, create_run_folder, find_run_of, open_run_folder

# The first process hands folder and checkpoint to those that Lightning starts for the other devices.
_HANDED_DOWN = "VERISAL_RUN"
# Branch, epoch and step of a checkpoint.
_State = tuple[int, int, int]
_OF_A_TRAINING = ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks")


def process_rank() -> int:
    """Number of this process among those of one command, 0 for the first."""
    group = started_group()
    return int(os.environ.get("LOCAL_RANK") or 0) if group is None else group.rank


def say(line: str) -> None:
    """Print a line from the first process."""
    if process_rank() == 0:
        tell(line)


@final
@dataclass(frozen=True)
class Start:
    """Start of a command; nothing is written before :meth:`begin`.

    Attributes:
        run: the run's folder.
        checkpoint: what a fit goes on from.
        branch: how often the run has gone back to an earlier state, this time included.
    """

    run: RunFolder
    checkpoint: Path | None
    branch: int = 0

    def begin(self) -> None:
        """Make the folder; the checkpoint is its newest state from now on.

        Raises:
            ConfigError: the folder cannot be made or written.
            CheckpointError: the checkpoint cannot be read or written.
        """
        self.run.begin()
        last = self.run.checkpoints / "last.ckpt"
        # A later --resume auto must not go past the checkpoint that a person has chosen.
        if self.checkpoint is not None and self.checkpoint.resolve() != last.resolve():
            save_checkpoint({**load_checkpoint(self.checkpoint), BRANCH_KEY: self.branch}, last)


def open_run(stage: str, task: str, *, run_dir: Path | None, resume: str) -> Start:
    """Find the run's folder, and the checkpoint that a fit goes on from.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        task: name of the task, for a new folder.
        run_dir: exactly this folder; a new one when None.
        resume: ``never``, ``auto`` or the path of a checkpoint; only a fit heeds it.

    Raises:
        ConfigError: a folder that cannot be used, or ``auto`` without a folder.
        CheckpointError: nothing in the folder, or at the path, can be resumed.
    """
    group = started_group()
    if process_rank() != 0:
        return _attached(_given_down() if group is None else group.take())
    try:
        start = _opened(stage, task, run_dir, resume)
    except VerisalError as error:
        if group is not None:
            group.hand_down(json.dumps({"error": str(error)}))
        raise
    run, checkpoint = start.run, start.checkpoint
    text = json.dumps(
        {
            "run": [str(run.path), run.run_id, run.main_stage, run.continued],
            "checkpoint": None if checkpoint is None else str(checkpoint),
        }
    )
    if group is None:
        os.environ[_HANDED_DOWN] = text
    else:
        group.hand_down(text)
    return start


def _opened(stage: str, task: str, run_dir: Path | None, resume: str) -> Start:
    if stage == "fit" and resume != "never":
        return _resumed(task, run_dir, resume)
    if run_dir is not None:
        return Start(open_run_folder(run_dir, stage, fresh=stage == "fit"), None)
    return Start(create_run_folder(task, stage), None)


def weights_for(stage: str, given: str | None, configs: Sequence[Path]) -> Path | None:
    """The checkpoint that a validate, test or predict uses; None for the weights that the config builds.

    Args:
        stage: the command.
        given: value of ``--ckpt_path``.
        configs: config files of the command; the one inside a run's folder brings that run's best checkpoint,
            or its last one where nothing was validated.

    Raises:
        ConfigError: no checkpoint was named and none belongs to a config.
    """
    if given == "none":
        return None
    if given is not None:
        return Path(given)
    for config in configs:
        if (run := find_run_of(config)) is None:
            continue
        # A run that was never validated has no best weights, and one that tested another's has none.
        if files := run_weights(run):
            say(f"checkpoint: {files[0]}")
            return files[0]
    raise ConfigError(
        f"{stage} needs weights: give --ckpt_path RUN/checkpoints/best.ckpt,"
        " or --ckpt_path none for the weights that the config builds"
    )


def newest_loadable(folder: Path) -> Path | None:
    """The checkpoint in a folder that is furthest on; every one that cannot be resumed is named in a line.

    Raises:
        CheckpointError: there are checkpoints, and none can be resumed.
    """
    found, refused = _resumable(folder)
    for reason in refused:
        say(f"not used: {reason}")
    if refused and not found:
        raise CheckpointError(
            f"none of the {len(refused)} checkpoints in {folder} can be loaded; start again with"
            " --resume never"
        )
    return found[-1][1] if found else None


def _resumable(folder: Path) -> tuple[list[tuple[_State, Path]], list[str]]:
    """The checkpoints in a folder, the furthest on at the end; and why others cannot be resumed.

    Files are ordered by what is in them. Their times, which a copy changes, decide between equal states only.
    """
    found, refused = [], []
    files = [file for file in folder.glob("*.ckpt") if file.is_file() and not left_behind(file.name)]
    for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name)):
        try:
            found.append((_state_of(load_checkpoint(file), file), file))
        except CheckpointError as error:
            refused.append(str(error))
    return sorted(found, key=lambda item: item[0]), refused


def _state_of(checkpoint: Mapping[str, Any], path: Path) -> _State:
    """Branch, epoch and step of a checkpoint that holds all that a training needs to go on."""
    missing = [name for name in _OF_A_TRAINING if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path} holds no state of a training ({', '.join(missing)} missing), only weights; resume from"
            " last.ckpt of a run"
        )
    return int(checkpoint.get(BRANCH_KEY, 0)), int(checkpoint["epoch"]), int(checkpoint["global_step"])


def _resumed(task: str, run_dir: Path | None, resume: str) -> Start:
    if resume == "auto":
        if run_dir is None:
            raise ConfigError("--resume auto needs --run_dir PATH: the folder of the run to go on with")
        run = open_run_folder(run_dir, "fit", fresh=False)
        checkpoint = newest_loadable(run.checkpoints)
        found = f"from {checkpoint}" if checkpoint else "from the start: it has no checkpoint yet"
        say(f"resuming run {run.run_id} {found}")
        branch = int(load_checkpoint(checkpoint).get(BRANCH_KEY, 0)) if checkpoint else 0
        return Start(run, checkpoint, branch)
    given = Path(resume)
    chosen = _state_of(load_checkpoint(resume), given)
    owner = run_dir or find_run_of(given)
    run = create_run_folder(task, "fit") if owner is None else open_run_folder(owner, "fit", fresh=False)
    say(f"resuming run {run.run_id} from {given}")
    # What the run leaves behind must not be taken for its newest state later.
    there, _ = _resumable(run.checkpoints)
    behind = [state for state, _ in there if state > chosen]
    return Start(run, given, max((branch for branch, _, _ in behind), default=chosen[0] - 1) + 1)


def _given_down() -> str:
    if _HANDED_DOWN not in os.environ:
        raise ConfigError(
            "this process was started as one of several; start a single verisal command and set"
            " trainer.devices (it starts the others itself), or start all with torchrun or srun"
        )
    return os.environ[_HANDED_DOWN]


def _attached(text: str) -> Start:
    found = json.loads(text)
    if "error" in found:
        raise ConfigError(f"the first process ended: {found['error']}")
    path, run_id, stage, continued = found["run"]
    checkpoint = found["checkpoint"]
    return Start(
        RunFolder(Path(path), run_id, stage, continued), None if checkpoint is None else Path(checkpoint)
    )
