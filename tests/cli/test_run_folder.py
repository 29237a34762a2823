import json
import re

import pytest

from verisal.errors import ConfigError
from verisal.reporting import attach_run_folder, create_run_folder, find_run_of, open_run_folder


def test_new_folders_never_collide(tmp_path):
    runs = [create_run_folder("detector", "fit", root=tmp_path) for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    for run in runs:
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{run.run_id}", run.path.name)
        assert run.path.parent == tmp_path / "detector"
        assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]
        assert not run.continued


def test_existing_run_is_continued_or_set_aside(tmp_path):
    first = open_run_folder(tmp_path / "run", "fit", fresh=True)
    (first.path / "metrics.csv").write_text("epoch\n0\n")
    (first.path / "wandb").mkdir()
    again = open_run_folder(tmp_path / "run", "fit", fresh=False)
    assert (again.run_id, again.continued) == (first.run_id, True)
    assert attach_run_folder(tmp_path / "run").run_id == first.run_id
    fresh = open_run_folder(tmp_path / "run", "fit", fresh=True)
    assert fresh.run_id != first.run_id
    assert (tmp_path / "run/earlier" / first.run_id / "metrics.csv").read_text() == "epoch\n0\n"
    assert sorted(path.name for path in fresh.path.iterdir()) == ["earlier", "run.json", "wandb"]


def test_config_of_another_stage_has_its_own_file(tmp_path):
    run = open_run_folder(tmp_path / "run", "fit", fresh=True)
    assert run.write_config("fit", "a: 1\n") == run.path / "config.yaml"
    assert run.write_config("test", "b: 1\n") == run.path / "config.test.yaml"
    assert run.config_file("fit").read_text() == "a: 1\n"


def test_owner_of_a_file(tmp_path):
    run = open_run_folder(tmp_path / "run", "fit", fresh=True)
    assert find_run_of(run.checkpoints / "best.ckpt") == run.path
    assert find_run_of(run.path / "config.yaml") == run.path
    assert find_run_of(tmp_path / "config.yaml") is None


def test_unusable_folders_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="choose another with --run_dir"):
            open_run_folder(path, "fit", fresh=True)
    with pytest.raises(ConfigError, match="choose another with --run_dir"):
        create_run_folder("detector", "fit", root=tmp_path / "file")
    run = open_run_folder(tmp_path / "run", "fit", fresh=True)
    (run.path / "run.json").write_text(json.dumps({"run_id": 1})[:-3])
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        open_run_folder(run.path, "fit", fresh=False)
    with pytest.raises(ConfigError, match="holds no run"):
        attach_run_folder(tmp_path / "nothing")


def test_full_disk_is_told_before_anything_runs(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("verisal.reporting.run_folder.write_atomic", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        open_run_folder(tmp_path / "run", "fit", fresh=True)
