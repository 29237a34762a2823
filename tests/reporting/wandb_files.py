"""Reads the records of an offline W&B run: blocks of 32 KiB, each record under a header of seven bytes."""

import json
import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


def records(run_dir: Path) -> list[wandb_internal_pb2.Record]:
    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        data, position, parts = path.read_bytes(), 7, []
        while position + 7 <= len(data):
            if _BLOCK - position % _BLOCK < 7:
                position += _BLOCK - position % _BLOCK
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            if kind == 0:
                break
            parts.append(data[position + 7 : position + 7 + length])
            position += 7 + length
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
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return rows


def config(run_dir: Path) -> dict[str, object]:
    found = {}
    for record in records(run_dir):
        if record.WhichOneof("record_type") == "run":
            for item in record.run.config.update:
                found[item.key] = json.loads(item.value_json)
    return found
