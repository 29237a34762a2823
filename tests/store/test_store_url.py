"""Stores behind URLs: what a file system without locks, renames or manners does to them."""

import logging
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.store import FeatureStore
from verisal.store.files import StoreFiles

KEY = {"classifier": "ab12", "data": {"seed": 0}}


def features(items):
    number = torch.tensor(list(items), dtype=torch.float32)
    return {"maps": (number[:, None] * 0.1).to(torch.bfloat16), "labels": number.long() * 1_000_003}


@pytest.fixture(params=["memory", "file"])
def root(request, tmp_path):
    """An object store, and a folder whose locks nobody trusts."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return f"memory://{tmp_path.name}/deep" if request.param == "memory" else f"file://{tmp_path}/deep"


def filled(root, count=10):
    store = FeatureStore(root, key=KEY, shard_size=4)
    store.fill(features, count, progress=False)
    return store


def names(store):
    files, folder = fsspec.url_to_fs(store.location)
    return {Path(name).name for name in files.ls(folder, detail=False)}


def put(store, name, content):
    files, folder = fsspec.url_to_fs(store.location)
    files.pipe_file(f"{folder}/{name}", content)


def got(store, name):
    files, folder = fsspec.url_to_fs(store.location)
    return files.cat_file(f"{folder}/{name}")


def assert_holds(store, count=10):
    loaded, expected = store.load(), features(range(count))
    assert loaded.keys() == expected.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


def test_a_url_holds_the_bytes_that_a_folder_holds(root, tmp_path):
    store = filled(root)
    assert_holds(store)
    assert store.complete
    assert store.location == f"{root}/{store.name}"
    local = filled(str(tmp_path / "local"))
    assert names(store) == {path.name for path in local.path.iterdir()}
    assert all(got(store, path.name) == path.read_bytes() for path in local.path.iterdir())
    with pytest.raises(ConfigError, match="no folder of this machine"):
        _ = store.path


def test_it_is_found_again_by_key_and_by_url(root):
    location = filled(root).location
    assert_holds(FeatureStore(root, key=KEY))
    assert_holds(FeatureStore(f"{root}/", key=KEY))
    assert_holds(FeatureStore.open(location))
    assert_holds(FeatureStore.open(f"{location}/", expect=KEY))
    assert list(FeatureStore.open(location).load(["labels"])) == ["labels"]
    with pytest.raises(DataError, match="classifier is 'ab12' in the store, 'cd34' expected"):
        FeatureStore.open(location, expect=KEY | {"classifier": "cd34"})
    with pytest.raises(DataError, match=f"no feature store at {root}/absent"):
        FeatureStore.open(f"{root}/absent")


def test_the_root_of_a_file_system_can_hold_stores():
    fsspec.filesystem("memory").store.clear()
    store = filled("memory://")
    assert store.location == f"memory://{store.name}"
    assert_holds(FeatureStore.open(store.location))


def test_nothing_is_written_before_fill(root):
    store = FeatureStore(root, key=KEY)
    assert not store.complete
    files, folder = fsspec.url_to_fs(root)
    assert not files.exists(folder)


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["flipped byte", "cut", "emptied", "gone", "sidecar gone", "sidecar cut"])
def test_damage_is_noticed_and_computed_again(root, caplog, damage):
    store = filled(root)
    shard, sidecar = "shard-00001.safetensors", "shard-00001.json"
    before = {name: got(store, name) for name in names(store)}
    content = bytearray(before[shard])
    content[-1] ^= 1
    files, folder = fsspec.url_to_fs(store.location)
    match damage:
        case "flipped byte":
            put(store, shard, bytes(content))
        case "cut":
            put(store, shard, before[shard][:-7])
        case "emptied":
            put(store, shard, b"")
        case "gone":
            files.rm_file(f"{folder}/{shard}")
        case "sidecar gone":
            files.rm_file(f"{folder}/{sidecar}")
        case _:
            put(store, sidecar, before[sidecar][:20])
    again = FeatureStore(root, key=KEY)
    assert not again.complete
    assert again.verify() == (1,)
    with pytest.raises(DataError, match=r"1 of 3 shards are missing or damaged \(first: \[1\]\)"):
        again.load()
    asked = []
    with caplog.at_level(logging.WARNING):
        again.fill(lambda items: asked.extend(items) or features(items), 10, progress=False)
    assert asked == [4, 5, 6, 7]
    told = [record.getMessage() for record in caplog.records]
    assert told == (
        [] if "sidecar" in damage else [f"{store.location}/{shard} is damaged: computing it again"]
    )
    assert {name: got(store, name) for name in names(store)} == before


@pytest.mark.fault
def test_a_damaged_header_is_refused(root):
    store = filled(root)
    put(store, "store.json", b"{")
    with pytest.raises(DataError, match=r"store\.json cannot be read .* compute it again"):
        FeatureStore(root, key=KEY)


def test_a_shard_is_read_once_to_be_checked_and_loaded(root, monkeypatch):
    filled(root)
    asked, read = [], StoreFiles.read
    monkeypatch.setattr(StoreFiles, "read", lambda self, name: asked.append(name) or read(self, name))
    assert_holds(FeatureStore(root, key=KEY))
    assert sorted(name for name in asked if name.endswith(".safetensors")) == [
        f"shard-0000{number}.safetensors" for number in range(3)
    ]


def test_who_is_done_waits_for_the_others_as_long_as_its_slowest_shard_took(root, monkeypatch):
    monkeypatch.setattr(StoreFiles, "pause", 0.01)
    other, asked = FeatureStore(root, key=KEY, shard_size=4), []
    late = threading.Timer(0.1, lambda: other._write_shard(1, features))

    def slow(items):
        asked.append(items[0])
        if items[0] == 0:
            time.sleep(0.4)
        elif items[0] == 8:
            other._read_header()
            late.start()
        return features(items)

    store = FeatureStore(root, key=KEY, shard_size=4)
    store.fill(slow, 10, rank=0, world_size=2, progress=False)
    late.join()
    assert asked == [0, 8]
    assert_holds(store)


def test_what_the_others_do_not_make_is_made_in_the_end(root, monkeypatch):
    monkeypatch.setattr(StoreFiles, "pause", 0.01)
    asked = []
    store = FeatureStore(root, key=KEY, shard_size=2)
    store.fill(
        lambda items: asked.append(items[0]) or features(items), 10, rank=1, world_size=2, progress=False
    )
    assert asked[:2] == [2, 6]
    assert sorted(asked) == [0, 2, 4, 6, 8]
    assert_holds(store)


@pytest.mark.fault
def test_what_killed_processes_left_is_removed(root):
    store = filled(root)
    whole = names(store)
    left = {".shard-00001.json.host-1-ab.tmp", ".store.json.host-2-cd.tmp", ".shard-00002.lease"}
    for name in left | {"notes.txt", ".notes"}:
        put(store, name, b"piece")
    store.fill(features, 10, progress=False)
    assert names(store) == whole | {"notes.txt", ".notes"}


def test_a_piece_that_others_took_for_stale_is_written_again(tmp_path, monkeypatch):
    """A process that slept, while others did its work and tidied up."""
    files = StoreFiles(f"file://{tmp_path}", "store")
    moved, move = [], type(files._fs).mv

    def tidied(system, piece, name, **settings):
        moved.append(name)
        if len(moved) < 3:
            system.rm_file(piece)
        move(system, piece, name, **settings)

    monkeypatch.setattr(type(files._fs), "mv", tidied)
    with files.claim("store") as ours:
        assert ours
        files.write("store.json", b"{}")
    assert files.read("store.json") == b"{}"
    assert len(moved) == 3


@pytest.mark.fault
def test_who_was_overtaken_keeps_what_the_other_made(root):
    """A process that slept at its shard: both do the work, and the store is right."""
    one, two = (FeatureStore(root, key=KEY, shard_size=4) for _ in range(2))

    def slow(items):
        two._write_header(4)
        two._write_shard(0, features)
        return {name: tensor + 1 for name, tensor in features(items).items()}

    one.fill(slow, 4, progress=False)
    assert_holds(one, 4)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nope://bucket", "nope://bucket/.* cannot be a store: Protocol not known: nope"),
        (
            "s3://key:secret@bucket/x",
            "the driver of s3://bucket/x/.* is not installed: .*s3fs.*; add it with pip",
        ),
    ],
)
def test_a_url_that_nobody_can_open_is_one_sentence(url, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where the driver is not installed
    with pytest.raises(ConfigError, match=words) as caught:
        FeatureStore(url, key=KEY)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


class DriverError(Exception):
    """Drivers raise classes of their own."""


@pytest.mark.fault
@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        (
            "pipe_file",
            PermissionError("Access Denied"),
            "no permission to write memory://x/.*: Access Denied",
        ),
        (
            "cat_file",
            PermissionError("Forbidden"),
            r"no permission to read memory://x/.*store\.json: Forbidden",
        ),
        ("makedirs", PermissionError("no"), "no permission to make memory://x/.*: no"),
        ("pipe_file", OSError(28, "No space left on device"), "no space left to write memory://x/"),
        ("pipe_file", OSError(5, "Input/output error"), "cannot write memory://x/.*: Input/output error"),
        ("cat_file", DriverError("no\nlogin"), r"cannot read memory://x/.*store\.json: no$"),
        ("cat_file", DriverError(), r"cannot read memory://x/.*: DriverError$"),
    ],
)
def test_what_a_driver_refuses_is_one_sentence(monkeypatch, method, error, words):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), method, refuse)
    with pytest.raises(DataError, match=words) as caught:
        filled("memory://x")
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_a_write_that_fails_half_way_leaves_no_piece(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    local = fsspec.get_filesystem_class("file")
    monkeypatch.setattr(local, "mv", refuse)
    root = f"file://{tmp_path}"
    with pytest.raises(DataError, match="no space left"):
        filled(root)
    store = FeatureStore(root, key=KEY)
    assert names(store) == set()


def test_data_modules_hand_the_url_on_as_it_is(tmp_path):
    from helpers import tiny_detector, tiny_transfer

    fsspec.filesystem("memory").store.clear()
    url = "memory://studies/deep"
    study = tiny_transfer.data(tmp_path, store=url)
    study.scores(study.score_store("row", {}), lambda: {"val": torch.arange(3.0)})
    assert study.score_store("row", {}).location.startswith(f"{url}/scores-row-")
    assert study.score_store("row", {}).load()["val"].tolist() == [[0.0, 1.0, 2.0]]
    settings = {"fit_count": 4, "val_count": 4, "val_attacked_count": 2, "test_count": 8}
    detector = tiny_detector.data(tmp_path, store=url, **settings)
    detector.setup("test")
    detector.measure(["det_test"], [])
    assert detector.groups("det_test").counts()["clean"] > 0
    kept = {Path(name).parts[1:3] for name in fsspec.filesystem("memory").store}
    assert kept == {("studies", "deep")}
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
