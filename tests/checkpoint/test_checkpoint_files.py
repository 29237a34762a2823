import errno
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from verisal._files import write_atomic
from verisal.checkpoint import (
    CARD_KEY,
    check_card,
    file_sha256,
    load_checkpoint,
    load_export,
    remove_checkpoint,
    save_checkpoint,
    save_export,
)
from verisal.errors import CheckpointError
from verisal.fingerprint import state_hash

STATE = {"state_dict": {"weight": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "names": ["a", "b"]}


class Runs:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_round_trip_with_sidecar_of_sha256sum(tmp_path):
    path = tmp_path / "new" / "a.ckpt"
    save_checkpoint(STATE, path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert (loaded["epoch"], loaded["names"]) == (3, ["a", "b"])
    assert (tmp_path / "new" / "a.ckpt.sha256").read_text() == f"{file_sha256(path)}  a.ckpt\n"
    remove_checkpoint(path)
    assert list(path.parent.iterdir()) == []
    remove_checkpoint(path)


@pytest.mark.fault
@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_truncated_at_any_point(tmp_path, kept, sidecar):
    path = tmp_path / "a.ckpt"
    save_checkpoint(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    if not sidecar:
        (tmp_path / "a.ckpt.sha256").unlink()
    with pytest.raises(CheckpointError, match=rf"a\.ckpt \({path.stat().st_size} bytes\)") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.fault
def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(STATE, path)
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="does not match its checksum"):
            load_checkpoint(path)
    path.write_bytes(content)
    assert load_checkpoint(path)["epoch"] == 3


@pytest.mark.fault
def test_code_in_a_checkpoint_is_never_run(tmp_path):
    for name, write in (("t.ckpt", torch.save), ("p.ckpt", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        write({"state_dict": {}, "evil": Runs(tmp_path / "made")}, tmp_path / name)
        with pytest.raises(CheckpointError, match="other than tensors and plain data") as caught:
            load_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value)
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("url", ["https://host.invalid/a.ckpt", "s3://bucket/a.ckpt", "file:///tmp/a.ckpt"])
def test_urls_are_refused(url):
    with pytest.raises(CheckpointError, match="not loaded from URLs"):
        load_checkpoint(url)


def test_missing_names_the_neighbours_and_other_content_is_named(tmp_path):
    save_checkpoint(STATE, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt does not exist.*last\.ckpt"):
        load_checkpoint(tmp_path / "best.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"is a folder; .*, for example last\.ckpt in it"):
        load_checkpoint(tmp_path)


@pytest.mark.fault
def test_no_space_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_checkpoint(STATE, path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; the earlier checkpoint is untouched"):
        save_checkpoint({**STATE, "epoch": 4}, path)
    with pytest.raises(CheckpointError, match="nothing was written"):
        save_checkpoint(STATE, tmp_path / "b.ckpt")
    assert load_checkpoint(path)["epoch"] == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.sha256"]


@pytest.mark.fault
@pytest.mark.parametrize("failing_rename", [1, 2, 3])
def test_stopped_between_any_two_renames_the_pair_still_loads(tmp_path, monkeypatch, failing_rename):
    path = tmp_path / "a.ckpt"
    save_checkpoint(STATE, path)
    rename, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == failing_rename:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint({**STATE, "epoch": 4}, path)
    assert load_checkpoint(path)["epoch"] == (4 if failing_rename == 3 else 3)


@pytest.mark.fault
def test_killed_while_it_saves_leaves_a_loadable_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    code = (
        "import sys, torch; from verisal.checkpoint import save_checkpoint\n"
        "for n in range(10**6): save_checkpoint({'n': n, 'x': torch.full((20000,), n)}, sys.argv[1])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])  # noqa: S603
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["x"], torch.full((20000,), loaded["n"]))


def test_card_differences_show_both_values_and_tuples_equal_lists():
    checkpoint = {CARD_KEY: {"classes": ["cat", "dog"], "image_size": 64}}
    check_card(checkpoint, {"classes": ("cat", "dog"), "image_size": 64}, "a.ckpt")
    with pytest.raises(CheckpointError) as caught:
        check_card(checkpoint, {"classes": ["cat"], "image_size": 64, "stages": 4}, "a.ckpt")
    text = str(caught.value)
    assert "classes: checkpoint has ['cat', 'dog'], config has ['cat']" in text
    assert "stages: checkpoint has 'nothing', config has 4" in text
    assert "image_size" not in text
    with pytest.raises(CheckpointError, match="no card"):
        check_card({}, {"classes": []}, "a.ckpt")
    with pytest.raises(CheckpointError, match="plain data"):
        check_card(checkpoint, {"network": nn.Linear(1, 1)}, "a.ckpt")


def test_export_round_trip_and_damage(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {"w": torch.randn(3, 4)[:, ::2], "n": torch.tensor(7)}
    save_export(path, tensors, {"config": "configs/classifier.yaml", "classes": ("a", "b")})
    loaded, card = load_export(path)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert card["classes"] == ["a", "b"]
    assert card["sha256"] == file_sha256(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum differs"):
        load_export(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a card"):
        load_export(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"net\.json does not exist"):
        load_export(path)
    path.write_bytes(b"x")
    path.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(path)}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_export(path)


def test_state_hash_depends_on_names_values_shapes_and_dtypes_but_not_on_order():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    same = state_hash(one)
    assert state_hash(dict(reversed(one.items()))) == same
    assert state_hash({**one, "a": one["a"].repeat_interleave(2)[::2]}) == same
    others = [
        {"c": one["a"], "b": one["b"]},
        {**one, "a": torch.tensor([1.0, 2.5])},
        {**one, "a": one["a"][:, None]},
        {**one, "a": one["a"].double()},
        {**one, "b": torch.tensor(3, dtype=torch.bfloat16)},
    ]
    assert len({same, *(state_hash(other) for other in others)}) == 6
    network = nn.Linear(2, 2)
    assert state_hash(network) == state_hash(network.state_dict())


def test_state_hash_tells_types_apart_whose_bytes_are_the_same():
    zeros = torch.zeros(4)
    states = [zeros, zeros.int(), zeros.view(torch.uint8).view(torch.int32).float(), zeros.to(torch.int32)]
    assert len({state_hash({"a": state}) for state in states}) == 2
    assert state_hash({"a": zeros.half()}) != state_hash({"a": zeros.bfloat16()})


def test_write_atomic_keeps_the_usual_permissions(tmp_path):
    write_atomic(tmp_path / "a", b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.fault
def test_write_atomic_removes_what_a_killed_process_left_and_nothing_that_is_written(tmp_path):
    live, stale = tmp_path / ".a.ckpt.0.tmp", tmp_path / ".a.ckpt.1.tmp"
    others = [tmp_path / ".b.ckpt.0.tmp", tmp_path / ".a.ckpt", tmp_path / "a.ckpt.tmp"]
    for path in (live, stale, *others):
        path.write_bytes(b"a piece that is longer")
    with live.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "a.ckpt", b"1")
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.ckpt", live, *others])
    write_atomic(tmp_path / "a.ckpt", b"2")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.ckpt", *others])
    assert (tmp_path / "a.ckpt").read_bytes() == b"2"


@pytest.mark.fault
def test_write_atomic_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuses)
    (tmp_path / ".a.xyz.tmp").write_bytes(b"piece")
    write_atomic(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.xyz.tmp"}
    monkeypatch.undo()
    write_atomic(tmp_path / "b", b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.fault
def test_write_atomic_begins_again_where_its_file_was_taken_for_stale(tmp_path, monkeypatch):
    made, lock = [], fcntl.flock

    def taken(handle, how):
        made.append(os.readlink(f"/proc/self/fd/{handle}"))
        if len(made) == 1:
            os.unlink(made[0])
        if len(made) == 2:
            raise BlockingIOError
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", taken)
    write_atomic(tmp_path / "a", b"1")
    assert len(made) == 3
    assert (tmp_path / "a").read_bytes() == b"1"
