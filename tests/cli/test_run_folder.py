import json
import re

import pytest

from verisal.checkpoint import load_checkpoint
from verisal.cli._runs import newest_loadable
from verisal.errors import CheckpointError, ConfigError
from verisal.reporting.run_folder import create_run_folder, find_run_of, open_run_folder


def begun(run):
    run.begin()
    return run


def test_new_folders_never_collide(tmp_path):
    runs = [begun(create_run_folder("detector", "fit", root=tmp_path)) for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    for run in runs:
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{run.run_id}", run.path.name)
        assert run.path.parent == tmp_path / "detector"
        assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]
        assert not run.continued


def test_existing_run_is_continued_or_set_aside(tmp_path):
    first = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    (first.path / "metrics.csv").write_text("epoch\n0\n")
    (first.path / "wandb").mkdir()
    again = begun(open_run_folder(tmp_path / "run", "fit", fresh=False))
    assert (again.run_id, again.continued) == (first.run_id, True)
    fresh = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    assert fresh.run_id != first.run_id
    assert (tmp_path / "run/earlier" / first.run_id / "metrics.csv").read_text() == "epoch\n0\n"
    assert sorted(path.name for path in fresh.path.iterdir()) == ["earlier", "run.json", "wandb"]


def test_what_systems_leave_behind_is_no_run_and_no_checkpoint(tmp_path):
    run = tmp_path / "run"
    (run / "@eaDir").mkdir(parents=True)
    (run / ".DS_Store").write_bytes(b"x")
    made = begun(open_run_folder(run, "fit", fresh=True))
    made.checkpoints.mkdir()
    (made.checkpoints / "._last.ckpt").write_bytes(b"x")
    assert newest_loadable(made.checkpoints) is None
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(made.checkpoints / "none.ckpt")
    assert "._last" not in str(refused.value)


def test_config_of_another_stage_has_its_own_file(tmp_path):
    run = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    assert run.write_config("fit", "a: 1\n") == run.path / "config.yaml"
    assert run.write_config("test", "b: 1\n") == run.path / "config.test.yaml"
    assert run.config_file("fit").read_text() == "a: 1\n"


def test_owner_of_a_file(tmp_path):
    run = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    assert find_run_of(run.checkpoints / "best.ckpt") == run.path
    (tmp_path / "newest.yaml").symlink_to(run.path / "config.yaml")
    assert find_run_of(tmp_path / "newest.yaml") == run.path
    assert find_run_of(run.path / "config.yaml") == run.path
    assert find_run_of(tmp_path / "config.yaml") is None


def test_unusable_folders_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="choose another with --run_dir"):
            open_run_folder(path, "fit", fresh=True)
    with pytest.raises(ConfigError, match="choose another with --run_dir"):
        create_run_folder("detector", "fit", root=tmp_path / "file")
    run = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    (run.path / "run.json").write_text(json.dumps({"run_id": 1})[:-3])
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        open_run_folder(run.path, "fit", fresh=False)


def test_nothing_is_written_before_a_run_begins(tmp_path):
    first = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    before = first.path.joinpath("run.json").read_bytes()
    for fresh in (True, False):
        open_run_folder(first.path, "fit", fresh=fresh)
        open_run_folder(tmp_path / "new" / "run", "fit", fresh=fresh)
    create_run_folder("toy", "fit", root=tmp_path / "runs")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "run.json"]
    assert first.path.joinpath("run.json").read_bytes() == before


def test_a_run_that_another_command_has_begun_meanwhile_is_left_alone(tmp_path):
    late = open_run_folder(tmp_path / "run", "fit", fresh=True)
    first = begun(open_run_folder(tmp_path / "run", "fit", fresh=True))
    with pytest.raises(ConfigError, match="another command has begun a run"):
        late.begin()
    assert json.loads((tmp_path / "run/run.json").read_text())["run_id"] == first.run_id


def test_full_disk_is_told_before_anything_runs(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("verisal.reporting.run_folder.os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        open_run_folder(tmp_path / "run", "fit", fresh=True)
