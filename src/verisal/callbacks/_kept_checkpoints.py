"""What a resumed run knows of the checkpoints that its earlier part has kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from verisal.checkpoint import load_checkpoint
from verisal.errors import CheckpointError

__all__ = ["found_again"]


def found_again(
    state: Mapping[str, Any], folder: str, *, key: str, mode: str, filename: str | None
) -> dict[str, Any]:
    """State of a ``ModelCheckpoint`` for files that are in ``folder`` now, wherever they were written.

    Lightning keeps absolute paths, and forgets the best epochs of a run whose folder has another name now.
    The score of a file is the one that is in it, because a later part of the run may have replaced it. A
    file that is gone or damaged has none. A file whose name is always the same is looked for even where the
    state does not know it yet: going on from an earlier state must not replace it by worse weights.

    Args:
        state: of the callback, from the checkpoint that is resumed.
        folder: where the callback keeps its files.
        key: of the callback's state in a checkpoint.
        mode: whether the lowest or the highest score is the best.
        filename: pattern of the files' names; None for Lightning's own.
    """
    before = str(state["dirpath"])
    told = {_name(path, before): score for path, score in state["best_k_models"].items()}
    fixed = [f"{filename}.ckpt"] if state["monitor"] and filename and "{" not in filename else []
    kept: dict[str, Tensor] = {}
    for name in dict.fromkeys([*told, *fixed]):
        file = os.path.join(folder, name)
        try:
            own = load_checkpoint(file).get("callbacks", {}).get(key, {})
        except CheckpointError:
            continue
        inside = {_name(path, own["dirpath"]): score for path, score in own.get("best_k_models", {}).items()}
        score = inside.get(name, told.get(name))
        if score is not None:
            kept[file] = score
    ranked = sorted(kept, key=lambda path: float(kept[path]), reverse=mode == "max")
    found: dict[str, Any] = {**state, "dirpath": folder, "best_k_models": kept}
    if ranked:
        found |= {"best_model_path": ranked[0], "best_model_score": kept[ranked[0]]}
        found |= {"kth_best_model_path": ranked[-1], "kth_value": kept[ranked[-1]]}
    else:
        worst = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        found |= {"best_model_path": "", "best_model_score": None}
        found |= {"kth_best_model_path": "", "kth_value": worst}
    # Without a monitored value the newest file alone is known.
    places = ("last_model_path",) if state["monitor"] else ("last_model_path", "best_model_path")
    for place in places:
        file = os.path.join(folder, _name(state[place], before))
        found[place] = file if state[place] and os.path.isfile(file) else ""
    return found


def _name(path: str, folder: str) -> str:
    """Place of a file inside the folder in which it was written."""
    return path[len(folder) :].lstrip("/\\") if path.startswith(folder) else os.path.basename(path)
