"""Settings of a resumed run: those that its config states, or a refusal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from verisal.callbacks.checkpoints import Monitored
from verisal.checkpoint import load_checkpoint
from verisal.errors import CheckpointError, ConfigError
from verisal.progress import tell

# Parts that train; the rest says where a run is and what is logged.
_PARTS = ("model", "data", "trainer")
_NOTHING = "nothing"
_SHOWN = 8


@final
class ResumedSettings(Callback):
    """Refuses to resume a run with settings that the restored state would silently replace.

    Optimizers, learning rate schedules, callbacks and random number generators get their state back when a
    run is resumed, and with it the settings that they were made with. What the config gives them is noted
    before the first step, travels in the checkpoint, and is compared before anything is restored. All other
    settings that differ hold from here on, and are named in a line. Callbacks that keep checkpoints find
    those of the earlier part in the folder where they lie now.

    Args:
        config: all settings of the run as nested plain data.
        seed: of everything that is drawn; None if any will do.
    """

    def __init__(self, config: Mapping[str, object], *, seed: int | None) -> None:
        super().__init__()
        self._own: dict[str, dict[str, Any]] = {
            "config": _flat("", {name: config[name] for name in _PARTS if name in config}),
            "training": {} if seed is None else {"seed_everything": seed},
            "callbacks": {},
        }
        self._made: dict[str, dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Settings that the config gives."""
        return self._own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the settings that the run was made with, to compare."""
        self._made = state_dict

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the settings of callbacks before their states are restored."""
        if stage != "fit":
            return
        if isinstance(pl_module, Monitored):
            value = f"{pl_module.monitor} ({pl_module.monitor_mode})"
            self._own["training"]["monitored value"] = value
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            # Those that keep checkpoints have their settings in the key of their state.
            if callback is not self and not isinstance(callback, Checkpoint):
                self._own["callbacks"] |= _flat(type(callback).__name__, _state_of(callback))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let callbacks find their checkpoints where they are now.

        Raises:
            ConfigError: the run has made more steps than the config asks for.
        """
        if -1 < trainer.max_steps < checkpoint["global_step"]:
            raise ConfigError(
                f"the run has made {checkpoint['global_step']} steps, and trainer.max_steps is"
                f" {trainer.max_steps}; give a greater number"
            )
        states = checkpoint.get("callbacks", {})
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
                continue
            if (state := states.get(callback.state_key)) is None:
                continue
            states[callback.state_key] = again = _here(callback, state)
            if state["best_model_path"] and not again["best_model_path"] and trainer.is_global_zero:
                tell(
                    f"no checkpoint of the earlier part of this run is in {callback.dirpath}: the best epoch"
                    " from here on is kept"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, while optimizers and schedules are still as the config makes them.

        Raises:
            ConfigError: settings that differ; both values of each are shown.
        """
        own = self._own["training"]
        for number, optimizer in enumerate(trainer.optimizers):
            name = _numbered(type(optimizer).__name__, number)
            for place, group in enumerate(optimizer.param_groups):
                own |= _flat(_numbered(f"{name} group", place), _unscheduled(group))
        for number, config in enumerate(trainer.lr_scheduler_configs):
            state = config.scheduler.state_dict()
            # Its rates are those of the optimizer's groups; private entries follow from the others.
            told = {key: value for key, value in state.items() if key[0] != "_" and key != "base_lrs"}
            own |= _flat(_numbered(type(config.scheduler).__name__, number), told)
        if self._made is not None:
            self._compare(self._made, speak=trainer.is_global_zero)
            self._made = None

    def _compare(self, made: Mapping[str, Mapping[str, Any]], *, speak: bool) -> None:
        different = {name: _differences(made[name], self._own[name]) for name in self._own}
        # The first weights have been drawn.
        drawn = {name for name in different["config"] if re.fullmatch(r"model\..*\bseed", name)}
        different["training"] |= {name: different["config"].pop(name) for name in drawn}
        # A callback may be new or left out; a seed may be drawn.
        optional = {**different["callbacks"], "seed_everything": different["training"].get("seed_everything")}
        ignored = different["training"] | different["callbacks"]
        for name, values in optional.items():
            if values and _NOTHING in values:
                del ignored[name]
        changed = [f"  {name}: {old} so far, now {new}" for name, (old, new) in different["config"].items()]
        if ignored:
            lines = [f"  {name}: {old} so far, config gives {new}" for name, (old, new) in ignored.items()]
            more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            others = ["in the config:", *changed[:_SHOWN]] if changed else []
            raise ConfigError(
                "\n".join(
                    [
                        "a resumed run keeps these settings, because they are part of its state:",
                        *[*lines[:_SHOWN], *more, *others],
                        "Use the config in the run's folder, or begin a new run with --resume never",
                    ]
                )
            )
        if changed and speak:
            tell("\n".join(["resumed with other settings:", *changed]))


def _state_of(callback: Callback) -> dict[str, Any]:
    # A callback of somebody else's may have no state yet, and fail in any way when it is asked for it.
    try:
        return callback.state_dict()
    except Exception:
        return {}


def _unscheduled(group: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an optimizer's group without those that a schedule sets anew in every step."""
    settings = {**group, "params": len(group["params"])}
    if "initial_lr" in group:
        del settings["lr"]
    if "max_momentum" in group:
        settings.pop("momentum", None)
        settings["betas"] = group.get("betas", ())[1:]
    return settings


def _differences(made: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Both values, as text, of all entries that differ; NaN equals NaN."""
    texts = [{name: repr(value) for name, value in values.items()} for values in (made, own)]
    both = {name: tuple(text.get(name, _NOTHING) for text in texts) for name in dict.fromkeys([*made, *own])}
    return {name: (old, new) for name, (old, new) in both.items() if old != new}


def _numbered(name: str, number: int) -> str:
    return f"{name} {number + 1}" if number else name


def _flat(name: str, value: object) -> dict[str, Any]:
    """Numbers and texts in nested plain data, by dotted names; everything else is no setting."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        parts = [_flat(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
        return {key: leaf for part in parts for key, leaf in part.items()}
    return {name: value} if value is None or isinstance(value, bool | int | float | str) else {}


def _here(callback: ModelCheckpoint, state: Mapping[str, Any]) -> dict[str, Any]:
    """State of the earlier part for files that are in the callback's folder now, wherever they were written.

    Lightning keeps absolute paths, and forgets the best epochs of a run whose folder has another name now.
    The score of a file is the one that is in it, because a later part of the run may have replaced it. A
    file that is gone or damaged has none. A file whose name is always the same is looked for even where the
    state does not know it yet: going on from an earlier state must not replace it by worse weights.
    """
    folder, filename, before = str(callback.dirpath), callback.filename, str(state["dirpath"])
    told = {_name(path, before): score for path, score in state["best_k_models"].items()}
    fixed = [f"{filename}.ckpt"] if state["monitor"] and filename and "{" not in filename else []
    kept: dict[str, Tensor] = {}
    for name in dict.fromkeys([*told, *fixed]):
        file = os.path.join(folder, name)
        try:
            own = load_checkpoint(file).get("callbacks", {}).get(callback.state_key, {})
        except CheckpointError:
            continue
        inside = {_name(path, own["dirpath"]): score for path, score in own.get("best_k_models", {}).items()}
        score = inside.get(name, told.get(name))
        if score is not None:
            kept[file] = score
    ranked = sorted(kept, key=lambda path: float(kept[path]), reverse=callback.mode == "max")
    best, last = (ranked[0], ranked[-1]) if ranked else ("", "")
    worst = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
    again: dict[str, Any] = {
        **state,
        "dirpath": folder,
        "best_k_models": kept,
        "best_model_path": best,
        "best_model_score": kept.get(best),
        "kth_best_model_path": last,
        "kth_value": kept.get(last, worst),
    }
    # Without a monitored value the newest file alone is known.
    places = ("last_model_path",) if state["monitor"] else ("last_model_path", "best_model_path")
    for place in places:
        file = os.path.join(folder, _name(state[place], before))
        again[place] = file if state[place] and os.path.isfile(file) else ""
    return again


def _name(path: str, folder: str) -> str:
    """Place of a file inside the folder in which it was written."""
    return path[len(folder) :].lstrip("/\\") if path.startswith(folder) else os.path.basename(path)
