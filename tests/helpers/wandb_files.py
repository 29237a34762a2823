"""Reads the records of an offline W&B run: blocks of 32 KiB, each record under a header of seven bytes."""

import json
import struct
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


def records(run_dir: Path) -> list[wandb_internal_pb2.Record]:
    """All records of all finished runs; the last ones are written a moment after ``finish`` returns."""
    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        last_moment = time.monotonic() + 250
        while not (of_run := _records(path.read_bytes())) or of_run[-1].WhichOneof("record_type") != "exit":
            assert time.monotonic() < last_moment, f"{path} does not end with the end of its run"
            time.sleep(0.02)
        found += of_run
    return found


def _records(data: bytes) -> list[wandb_internal_pb2.Record]:
    found, position, parts = [], 7, []
    while position + 7 <= len(data):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        end = position + 7 + length
        if kind == 0 or end > len(data):
            break
        parts.append(data[position + 7 : end])
        position = end
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            found.append(record)
            parts = []
    return found


def history(run_dir: Path) -> list[dict[str, object]]:
    """Rows of the run, one per call of ``log``."""
    rows = []
    for record in records(run_dir):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            )
    return rows


def config(run_dir: Path) -> dict[str, object]:
    """What runs began with, and what was added later."""
    found = {}
    for record in records(run_dir):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            for item in (record.run.config if kind == "run" else record.config).update:
                found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def of_kind(run_dir: Path, kind: str) -> list:
    """Records of one kind, ``run``, ``artifact``, ``alert``, ``metric`` or ``exit``."""
    return [getattr(record, kind) for record in records(run_dir) if record.WhichOneof("record_type") == kind]


def summary(run_dir: Path) -> dict[str, object]:
    """What stands for the whole run, by the last values of its updates."""
    found = {}
    for update in (update for one in of_kind(run_dir, "summary") for update in one.update):
        found["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
    return found
