import doctest
import errno
import fcntl
import io
import json
import logging
import os
import resource
import sys
from pathlib import Path

import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.fingerprint import canonical
from verisal.store import FeatureStore
from verisal.store.files import StoreFiles
from verisal.store.record import mismatch

KEY = {"classifier": {"sha256": "ab12"}, "data": {"seed": 0, "size": 32}, "attack": {"eps": 8 / 255}}


def features(items):
    """Every dtype the package stores; values follow from the item's number alone."""
    number = torch.tensor(list(items), dtype=torch.float32)
    return {
        "maps": (number[:, None, None] * 0.1 + torch.arange(6.0).reshape(2, 3)).to(torch.bfloat16),
        "half": (number / 7).half(),
        "images": (number[:, None] % 251).to(torch.uint8).expand(-1, 5),
        "labels": number.long() * 1_000_003,
        "success": number % 2 == 0,
        "norms": number.sqrt(),
    }


class Counting:
    def __init__(self, compute=features):
        self.compute = compute
        self.items = []

    def __call__(self, items):
        self.items.extend(items)
        return self.compute(items)


def filled(root, count=10, **settings):
    store = FeatureStore(root, key=KEY, **({"shard_size": 4} | settings))
    store.fill(features, count, progress=False)
    return store


def assert_holds(store, count=10):
    loaded, expected = store.load(), features(range(count))
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("shard_size", [1, 4, 5, 100])
def test_what_is_loaded_is_what_was_computed(tmp_path, shard_size):
    assert_holds(filled(tmp_path, shard_size=shard_size))


def test_some_names_in_the_order_asked(tmp_path):
    loaded = filled(tmp_path).load(["norms", "labels"])
    assert list(loaded) == ["norms", "labels"]


def test_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r"has no tensor \['masks'\]; it has \['half', 'images'"):
        filled(tmp_path).load(["masks"])


def test_second_fill_computes_nothing(tmp_path):
    filled(tmp_path)
    counting = Counting()
    store = FeatureStore(tmp_path, key=KEY)
    store.fill(counting, 10, progress=False)
    assert counting.items == []
    assert store.shard_size == 4  # a store keeps its own
    assert_holds(store)


def test_items_are_asked_for_in_shards(tmp_path):
    counting = Counting()
    FeatureStore(tmp_path, key=KEY, shard_size=4).fill(counting, 10, progress=False)
    assert counting.items == list(range(10))


def test_key_decides_the_folder_whatever_its_order(tmp_path):
    turned = {"attack": KEY["attack"], "data": {"size": 32, "seed": 0}, "classifier": KEY["classifier"]}
    assert FeatureStore(tmp_path, key=KEY).path == FeatureStore(tmp_path, key=turned).path
    other = KEY | {"classifier": {"sha256": "ab13"}}
    assert FeatureStore(tmp_path, key=KEY).path != FeatureStore(tmp_path, key=other).path
    assert FeatureStore(tmp_path, key=KEY, prefix="det_fit-pgd").path.name.startswith("det_fit-pgd-")


def test_nothing_is_written_before_fill(tmp_path):
    store = FeatureStore(tmp_path / "deep" / "er", key=KEY)
    assert not store.complete
    with pytest.raises(DataError, match="not complete"):
        store.load()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_another_object_filled_is_seen(tmp_path):
    store = FeatureStore(tmp_path, key=KEY)
    filled(tmp_path)
    assert store.complete
    assert_holds(store)


def test_folder_holds_shards_sidecars_and_header_only(tmp_path):
    store = filled(tmp_path)
    names = {path.name for path in store.path.iterdir()}
    shards = {f"shard-0000{n}.{kind}" for n in range(3) for kind in ("json", "safetensors")}
    assert names == shards | {"store.json"}
    assert json.loads((store.path / "store.json").read_text())["key"] == KEY
    assert {shard: (record.start, record.stop) for shard, record in store.manifest().items()} == {
        0: (0, 4),
        1: (4, 8),
        2: (8, 10),
    }
    assert store.complete


def test_open_by_path(tmp_path, monkeypatch):
    store = filled(tmp_path)
    assert_holds(FeatureStore.open(store.path))
    assert_holds(FeatureStore.open(store.path, expect=KEY))
    moved = store.path.rename(tmp_path / "moved")
    assert_holds(FeatureStore.open(moved))
    monkeypatch.chdir(moved)
    assert_holds(FeatureStore.open("."))


def test_store_from_another_classifier(tmp_path):
    store = filled(tmp_path)
    other = KEY | {"classifier": {"sha256": "ffff"}}
    with pytest.raises(DataError, match="made with other settings") as caught:
        FeatureStore.open(store.path, expect=other)
    message = str(caught.value)
    assert "classifier.sha256 is 'ab12' in the store, 'ffff' expected." in message
    assert "data.seed" not in message  # only what differs is named
    assert "another folder" in message
    assert "\n" not in message


def test_edited_header_is_noticed(tmp_path):
    store = filled(tmp_path)
    header = json.loads((store.path / "store.json").read_text())
    header["key"]["data"]["seed"] = 1
    (store.path / "store.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"data\.seed is 1 in the store, 0 expected"):
        FeatureStore(tmp_path, key=KEY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "key": {}, "count": 1}'])
def test_damaged_header(tmp_path, content):
    store = filled(tmp_path)
    (store.path / "store.json").write_text(content)
    with pytest.raises(DataError, match="compute it again"):
        FeatureStore(tmp_path, key=KEY)


def test_no_store_there(tmp_path):
    with pytest.raises(DataError, match="no feature store at"):
        FeatureStore.open(tmp_path / "absent")


def test_another_number_of_items(tmp_path):
    with pytest.raises(DataError, match="holds 10 items, asked for 12"):
        filled(tmp_path).fill(features, 12, progress=False)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({"a": {"b": [1, object()]}}, r"a\.b\[1\]: expected plain data, found object"),
        ({"network": torch.nn.ReLU()}, "network: expected plain data, found ReLU"),
        ({"eps": float("nan")}, "not plain data"),
    ],
)
def test_key_of_plain_data_only(tmp_path, key, message):
    with pytest.raises(ConfigError, match=message):
        FeatureStore(tmp_path, key=key)


@pytest.mark.parametrize("settings", [{"shard_size": 0}, {"prefix": "a/b"}, {"prefix": ""}])
def test_settings_that_cannot_work(tmp_path, settings):
    with pytest.raises(ConfigError):
        FeatureStore(tmp_path, key=KEY, **settings)


@pytest.mark.parametrize("settings", [{"count": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}])
def test_fill_arguments_that_cannot_work(tmp_path, settings):
    with pytest.raises(ConfigError, match="at least one item and a rank below"):
        FeatureStore(tmp_path, key=KEY).fill(features, **({"count": 3} | settings))


@pytest.mark.parametrize(
    "compute",
    [
        lambda items: {},
        lambda items: {"a": torch.zeros(len(items) + 1)},
        lambda items: {"a": torch.tensor(1.0)},
    ],
    ids=["nothing", "a row too many", "no rows"],
)
def test_tensors_that_do_not_fit_the_items(tmp_path, compute):
    with pytest.raises(DataError, match="must give named tensors with 3 rows each"):
        FeatureStore(tmp_path, key=KEY).fill(compute, 3, progress=False)


def test_shapes_that_change_between_shards_stop_the_fill(tmp_path):
    def compute(items):
        return {"a": torch.zeros(len(items), 2 if items[0] == 0 else 1)}

    with pytest.raises(DataError, match=r"every item must have the same names, dtypes and shapes"):
        FeatureStore(tmp_path, key=KEY, shard_size=2).fill(compute, 4, progress=False)


def test_an_error_while_computing_keeps_the_finished_shards(tmp_path):
    def compute(items):
        if 8 in items:
            raise KeyboardInterrupt
        return features(items)

    store = FeatureStore(tmp_path, key=KEY, shard_size=4)
    with pytest.raises(KeyboardInterrupt):
        store.fill(compute, 10, progress=False)
    assert sorted(path.name for path in store.path.glob("*.safetensors")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    assert list(store.path.glob(".*")) == []
    counting = Counting()
    store.fill(counting, 10, progress=False)
    assert counting.items == [8, 9]
    assert_holds(store)


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.fault
def test_what_killed_processes_left_is_removed_and_what_live_ones_hold_stays(tmp_path):
    store = filled(tmp_path)
    whole = {path.name for path in store.path.iterdir()}
    killed = {".shard-00000.json.x1.tmp", ".shard-00001.123.tmp", ".shard-00001.lock", ".store.json.x2.tmp"}
    held = {".shard-00002.lock", ".shard-00002.safetensors.x3.tmp"}
    for name in killed | held | {"notes.txt", ".notes"}:
        (store.path / name).write_bytes(b"piece")
    with (store.path / ".shard-00002.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        FeatureStore(tmp_path, key=KEY).fill(features, 10, progress=False)
        assert {path.name for path in store.path.iterdir()} == whole | held | {"notes.txt", ".notes"}
    FeatureStore(tmp_path, key=KEY).fill(features, 10, progress=False)
    assert {path.name for path in store.path.iterdir()} == whole | {"notes.txt", ".notes"}


@pytest.mark.fault
@pytest.mark.parametrize(
    "damage",
    [flip_byte, truncate, lambda path: path.write_bytes(b"")],
    ids=["flipped byte", "truncated", "emptied"],
)
def test_a_damaged_shard_is_found_and_computed_again(tmp_path, caplog, damage):
    store = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    damage(store.path / "shard-00001.safetensors")
    again = FeatureStore(tmp_path, key=KEY)
    assert not again.complete
    assert again.verify() == (1,)
    with pytest.raises(DataError, match=r"1 of 3 shards are missing or damaged \(first: \[1\]\)"):
        again.load()
    counting = Counting()
    with caplog.at_level(logging.WARNING):
        again.fill(counting, 10, progress=False)
    assert counting.items == [4, 5, 6, 7]
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.path / 'shard-00001.safetensors'} is damaged: computing it again"
    ]
    assert again.verify() == ()
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before


@pytest.mark.fault
@pytest.mark.parametrize("name", ["shard-00001.safetensors", "shard-00001.json"])
def test_a_missing_file_is_computed_again(tmp_path, name):
    store = filled(tmp_path)
    (store.path / name).unlink()
    again = FeatureStore(tmp_path, key=KEY)
    assert not again.complete
    assert again.verify() == (1,)
    again.fill(features, 10, progress=False)
    assert_holds(again)


@pytest.mark.fault
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"start": 0, "stop": 4, "size": 1, "sha256": "", "tensors": {}}']
)
def test_a_damaged_sidecar_is_computed_again(tmp_path, content):
    store = filled(tmp_path)
    (store.path / "shard-00001.json").write_text(content)
    again = FeatureStore(tmp_path, key=KEY)
    again.fill(features, 10, progress=False)
    assert_holds(again)


class FullDisk(io.RawIOBase):
    def __init__(self, file, code):
        self.file, self.code = file, code

    def write(self, content):
        self.file.write(content[:10])
        raise OSError(self.code, os.strerror(self.code))

    def close(self):
        self.file.close()
        super().close()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left to write .*shard-00001.safetensors"),
        (errno.EDQUOT, "no space left"),
        (errno.EIO, "cannot write .*: Input/output error"),
    ],
)
def test_no_space_left(tmp_path, monkeypatch, code, message):
    store = FeatureStore(tmp_path, key=KEY, shard_size=4)
    opened = os.fdopen

    def full(handle, mode):
        file = opened(handle, mode)
        return FullDisk(file, code) if "shard-00001" in os.readlink(f"/proc/self/fd/{handle}") else file

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(DataError, match=message) as caught:
            store.fill(features, 10, progress=False)
    assert "\n" not in str(caught.value)
    assert {path.name for path in store.path.iterdir()} == {
        "store.json",
        "shard-00000.json",
        "shard-00000.safetensors",
    }
    counting = Counting()
    store.fill(counting, 10, progress=False)
    assert counting.items == [4, 5, 6, 7, 8, 9]
    assert_holds(store)


@pytest.mark.fault
def test_a_real_file_size_limit(tmp_path):
    """The kernel's own refusal in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def compute(items):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        return {"a": torch.zeros(1, 1_200_000)}

    store = FeatureStore(tmp_path, key=KEY, shard_size=1)
    try:
        with pytest.raises(DataError, match=r"no space left to write .*shard-00000.safetensors \(4\.8 MB\)"):
            store.fill(compute, 2, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in store.path.iterdir()] == ["store.json"]


@pytest.mark.fault
def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot make the store folder"):
        FeatureStore(tmp_path / "taken", key=KEY).fill(features, 3, progress=False)


def test_values_of_graphs_views_and_shared_memory_are_stored(tmp_path):
    base = torch.arange(12.0, requires_grad=True)

    def compute(items):
        view = (base * 2).reshape(3, 4)
        return {"view": view.T[: len(items)], "same": view.T[: len(items)]}

    store = FeatureStore(tmp_path, key=KEY)
    store.fill(compute, 4, progress=False)
    expected = (base.detach() * 2).reshape(3, 4).T
    assert torch.equal(store.load()["view"], expected)
    assert torch.equal(store.load()["same"], expected)


def test_a_terminal_gets_a_bar_with_the_readable_part_of_the_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    store = FeatureStore(tmp_path, key=KEY, shard_size=4, prefix="maps")
    store.fill(features, 10)
    said = capsys.readouterr().err
    assert "filling the store maps " in said
    assert "10/10" in said


def test_others_are_told_of_the_items_that_are_made_alone(tmp_path):
    told = []
    store = FeatureStore(tmp_path, key=KEY, shard_size=4)
    store.fill(features, 10, progress=lambda items, note="", *, part="": told.append(items))
    assert told == [4, 4, 2]
    (store.path / "shard-00001.json").unlink()
    again = FeatureStore(tmp_path, key=KEY, shard_size=4)
    again.fill(features, 10, progress=lambda items, note="", *, part="": told.append(items))
    assert told == [4, 4, 2, 4]


def test_nothing_is_shown_when_all_is_there_or_unasked(tmp_path, capsys):
    store = filled(tmp_path)
    store.fill(features, 10)
    FeatureStore(tmp_path / "b", key=KEY).fill(features, 10, rank=0, progress=False)
    FeatureStore(tmp_path / "c", key=KEY).fill(features, 10, rank=1, world_size=2)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_keys():
    assert (
        canonical({"b": 8 / 255, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":0.03137254901960784}'
    )
    assert mismatch({"a": [1, 2]}, {"a": [1]}) == "a[1] is 2 in the store, nothing expected"
    assert mismatch({"a": None}, {}) == "a is None in the store, nothing expected"


def test_documentation():
    result = doctest.testfile(str(Path(__file__).parents[2] / "docs" / "store.md"), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_shards_that_others_write_meanwhile_are_not_read_before_they_are_loaded(tmp_path, monkeypatch):
    read, reads = StoreFiles.read, []
    monkeypatch.setattr(StoreFiles, "read", lambda self, name: reads.append(name) or read(self, name))
    store, other = (FeatureStore(tmp_path, key=KEY, shard_size=2) for _ in range(2))

    def helped(items):
        if items[0] == 0:
            other._read_header()
            for shard in (1, 3):
                other._write_shard(shard, features)
        reads.clear()
        return features(items)

    store.fill(helped, 10, rank=0, world_size=2, progress=False)
    assert [name for name in reads if name.endswith(".safetensors")] == []
    store.load()
    assert sorted(name for name in reads if name.endswith(".safetensors")) == [
        f"shard-0000{number}.safetensors" for number in range(5)
    ]


@pytest.mark.fault
def test_what_others_wrote_meanwhile_is_checked_when_it_is_loaded(tmp_path):
    store, other = (FeatureStore(tmp_path, key=KEY, shard_size=2) for _ in range(2))

    def helped(items):
        if items[0] == 0:
            other._read_header()
            other._write_shard(1, features)
            file = other.path / "shard-00001.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"?")
        return features(items)

    store.fill(helped, 4, rank=0, world_size=2, progress=False)
    with pytest.raises(DataError, match="1 of 2 shards are missing or damaged"):
        store.load()
    store.fill(features, 4, progress=False)
    assert torch.equal(store.load()["labels"], features(range(4))["labels"])


def test_a_store_of_many_small_items_is_opened_with_few_calls(tmp_path, monkeypatch):
    """Of 100 000 items that takes a second: two files are opened for each shard, and each once."""
    FeatureStore(tmp_path, key=KEY, shard_size=2).fill(features, 60, progress=False)
    read, reads = StoreFiles.read, []
    monkeypatch.setattr(StoreFiles, "read", lambda self, name: reads.append(name) or read(self, name))
    store = FeatureStore(tmp_path, key=KEY)
    assert reads == ["store.json"]
    assert store.complete
    assert len(reads) == 2 + 2 * 30
    reads.clear()
    store.load()
    # The records are known by now.
    assert len(reads) == 1 + 30


def test_an_empty_folder_is_listed_and_not_asked_for_every_shard(tmp_path, monkeypatch):
    read, reads = StoreFiles.read, []
    monkeypatch.setattr(StoreFiles, "read", lambda self, name: reads.append(name) or read(self, name))
    FeatureStore(tmp_path, key=KEY, shard_size=1).fill(features, 20, progress=False)
    # Once within the claim, and once where it is written: a file system without locks may have it by then.
    assert sum(name.startswith("shard") for name in reads) == 2 * 20
