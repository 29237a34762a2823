"""By what a run is found at Weights & Biases: name, group, kind of work, tags, the figures that matter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from verisal.callbacks import BestCheckpoint
from verisal.callbacks.explaining.names import LogsScores, snake_case
from verisal.checkpoint import load_weights
from verisal.reporting import WandbSettings, WandbSink
from verisal.reporting.run_folder import RunFolder
from verisal.reporting.wandb_layout import Best, NamesFigures, RunCard, five_of

# Folders inside a data set, whose names say nothing of it.
_PARTS = frozenset({"train", "fit", "val", "test", "images"})


@runtime_checkable
class UsesStores(Protocol):
    """Data that are kept in stores."""

    def used_stores(self) -> Mapping[str, str]:
        """Name of each store that has been read or made, to its path or URL."""
        ...


def card_of(
    stage: str,
    task: LightningModule,
    *,
    callbacks: Sequence[object],
    config: Mapping[str, Any],
    run: RunFolder,
    command: str,
) -> RunCard:
    """What is known of a run before it starts.

    Args:
        stage: the command.
        task: what it works on.
        callbacks: those of the config.
        config: all settings as plain data.
        run: its folder.
        command: as it was given.
    """
    study, name = _study(config), task_name(task)
    group = study or data_name(config)
    kind = stage
    if stage in ("validate", "test"):
        explaining = any(isinstance(callback, LogsScores) for callback in callbacks)
        kind = "study" if study else "benchmark" if explaining else stage
    return RunCard(
        name=f"{group} {name} {run.path.name}",
        group=group,
        job_type=kind,
        tags=(name,),
        notes=command,
        first=_first(task, callbacks) if stage == "fit" else {},
    )


def _first(task: LightningModule, callbacks: Sequence[object]) -> dict[str, Best]:
    own = task.main_figures if isinstance(task, NamesFigures) else {}
    earlier: list[LogsScores] = []
    theirs = []
    for callback in callbacks:
        if isinstance(callback, LogsScores) and isinstance(callback, Callback):
            theirs.append(callback.main_figures(after=earlier))
            earlier.append(callback)
    return five_of(own, theirs)


def keep_at_wandb(
    loggers: Sequence[Logger],
    settings: WandbSettings,
    run: RunFolder,
    trainer: Trainer,
    task: LightningModule,
) -> None:
    """Say which weights are the best, and where the stored features are that they were made from, if asked.

    Args:
        loggers: of the run.
        settings: say what is asked for.
        run: its folder.
        trainer: that has fitted the task.
        task: its name is that of the artifact.
    """
    file, data = run.checkpoints / "best.ckpt", trainer.datamodule  # type: ignore[attr-defined]
    for sink in [logger for logger in loggers if isinstance(logger, WandbSink)]:
        if settings.features and isinstance(data, UsesStores):
            sink.use_features(data.used_stores())
        if settings.checkpoint != "none" and file.is_file():
            state = load_weights(file)
            sink.keep_checkpoint(
                file,
                name=f"{task_name(task)}-{run.run_id}",
                aliases=["best", f"epoch-{state['epoch']}"],
                facts={"epoch": state["epoch"], "step": state["global_step"], **_choice(trainer)},
                upload=settings.checkpoint == "upload",
            )


def _choice(trainer: Trainer) -> dict[str, object]:
    """By what the best checkpoint was chosen, and its value; nothing where the newest one is kept."""
    chosen = next(one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint))
    if chosen.monitor is None or chosen.best_model_score is None:
        return {}
    return {"chosen by": chosen.monitor, "value": float(chosen.best_model_score)}


def task_name(task: LightningModule) -> str:
    """``mask_detector`` for ``MaskDetectorTask``."""
    name = type(task).__name__.removesuffix("Task") or "run"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def data_name(config: Mapping[str, Any]) -> str:
    """What the data are of, in lower case: ``digits``, ``emoji_scenes``, or the folder that holds them."""
    data = config.get("data") or {}
    given = data.get("init_args") or {}
    splits = given.get("splits") or given.get("source") or {}
    splits = splits.get("init_args") or splits
    images = splits.get("images") or {}
    if not images:
        # Without a source these modules draw scenes.
        own = str(data.get("class_path", "")).rpartition(".")[2]
        return "emoji_scenes" if own in ("ImageData", "DetectorData") else snake_case(own) or "data"
    reader, settings = str(images.get("class_path", "")).rpartition(".")[2], images.get("init_args") or {}
    # The reader of folders serves any data set: its folder says which.
    if reader == "ImageFolder" and isinstance(settings.get("root"), str):
        parts = [part for part in Path(settings["root"]).absolute().parts if part not in _PARTS]
        return re.sub(r"_(train|fit|val|test)$", "", parts[-1]) if len(parts) > 1 else snake_case(reader)
    return snake_case(reader) or "data"


def _study(config: Mapping[str, Any]) -> str:
    """Name of the study that is judged; empty where there is none."""
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    for one in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(one, Mapping) and str(one.get("class_path", "")).endswith("StudyPage"):
            study = (one.get("init_args") or {}).get("study") or {}
            return snake_case(str(study.get("class_path", "")).rpartition(".")[2])
    return ""
