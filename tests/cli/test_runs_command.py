"""``verisal runs``, the link to the newest run, and what has become of a command."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from verisal.cli import main
from verisal.reporting.run_folder import create_run_folder, open_run_folder

TOY = """
model: {class_path: helpers.toy.ToyTask}
data: {class_path: helpers.toy.ToyData}
trainer: {max_epochs: 1, accelerator: cpu}
wandb: {mode: disabled}
"""


def make_run(root, task, name, created, *, stage="fit", report=None, state=None, known="report.json"):
    folder = root / task / name
    folder.mkdir(parents=True)
    record = {"run_id": name, "stage": stage, "created": created}
    (folder / "run.json").write_text(json.dumps(record))
    if report is not None:
        metrics = {key: {"value": value} for key, value in report.items()}
        config = {"model": {"init_args": {"head": "b"}}} if task == "detector" else {}
        (folder / known).write_text(json.dumps({"metrics": metrics, "config": config}))
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    root = tmp_path / "runs"
    rows = {"test/a/auroc/x": 0.9, "test/b/auroc/x": 0.5, "test/b/auroc/y": 0.75, "test/b/fpr/clean": 0.05}
    make_run(root, "detector", "one", "2026-01-01T10:00:00+0000", report=rows)
    accuracy = {"test/classifier/accuracy": 0.25, "test/classifier/loss": 2.0}
    make_run(root, "classifier", "two", "2026-01-02T10:00:00+0000", report=accuracy, state={"state": "done"})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = {"state": "running", "process": ended.pid, "host": os.uname().nodename}
    make_run(root, "benchmark", "three", "2026-01-03T10:00:00+0000", stage="validate", state=gone)
    lives = {**gone, "process": os.getpid()}
    make_run(root, "benchmark", "four", "2026-01-04T10:00:00+0000", stage="validate", state=lives)
    values = {"val/rise/deletion/all": 0.4, "val/grad_cam/deletion/all": 0.2}
    make_run(
        root, "benchmark", "five", "2026-01-05T10:00:00+0000", stage="validate", report=values,
        known="report.val.json", state={"state": "stopped"},
    )  # fmt: skip
    (root / "benchmark" / "latest").symlink_to("five")
    return root


def test_runs_are_listed_the_newest_first_with_state_and_figure(runs, capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "2026-01-05 10:00 validate stopped deletion 0.200 (grad_cam) runs/benchmark/five",
        "2026-01-04 10:00 validate running - runs/benchmark/four",
        "2026-01-03 10:00 validate broken off - runs/benchmark/three",
        "2026-01-02 10:00 fit done accuracy 0.250 (classifier) runs/classifier/two",
        # The row whose alarm counts, although another one is better.
        "2026-01-01 10:00 fit done auroc 0.500 to 0.750 (b) runs/detector/one",
    ]


def test_runs_of_one_task_some_of_them_and_in_a_narrow_terminal(runs, monkeypatch, capsys):
    assert main(["runs", "benchmark", "--limit", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("runs/benchmark/five")
    assert lines[2:] == ["and 2 earlier ones: --limit 3"]
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["runs", "benchmark", "--limit", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "  runs/benchmark/five"


def test_what_is_no_run_is_told(runs, capsys):
    assert main(["runs", "detectr"]) == 2
    assert (
        "no run of 'detectr' in runs; there are runs of: benchmark, classifier, detector"
        in capsys.readouterr().err
    )
    assert main(["runs", "--root", "nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    (runs / "detector/one/run.json").write_text("{")
    assert main(["runs", "--root", "runs"]) == 0
    assert "detector" not in capsys.readouterr().out


def test_latest_points_to_the_newest_run_wherever_the_folder_goes(tmp_path):
    for _ in range(2):
        run = create_run_folder("toy", "fit", root=tmp_path / "runs")
        run.begin()
    link = tmp_path / "runs/toy/latest"
    assert os.readlink(link) == run.path.name
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert json.loads((tmp_path / "moved/toy/latest/run.json").read_text())["run_id"] == run.run_id


def test_runs_that_begin_together_leave_one_whole_link(tmp_path):
    made = [create_run_folder("toy", "fit", root=tmp_path) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: run.begin(), made))
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {"latest", *(run.path.name for run in made)}
    assert (tmp_path / "toy/latest/run.json").is_file()


def test_a_system_without_links_and_a_folder_of_that_name_are_left_alone(tmp_path, monkeypatch):
    def refused(*given, **more):
        raise OSError("no links here")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refused)
        create_run_folder("toy", "fit", root=tmp_path).begin()
    assert not (tmp_path / "toy/latest").is_symlink()
    (tmp_path / "toy/latest").mkdir()
    create_run_folder("toy", "fit", root=tmp_path).begin()
    assert not (tmp_path / "toy/latest").is_symlink()
    # A folder that a person names has none beside it.
    open_run_folder(tmp_path / "named/run", "fit", fresh=True).begin()
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["run"]


def test_a_command_says_what_has_become_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY)
    for state, more in (("done", []), ("failed", ["--model.init_args.nan_at_step=2"])):
        assert main(["fit", "--config=toy.yaml", "--run_dir", state, *more]) == (state == "failed")
        assert json.loads(Path(state, "state.json").read_text())["state"] == state
    monkeypatch.setenv("TOY_STOP", "2:SIGTERM")
    assert main(["fit", "--config=toy.yaml", "--run_dir", "stopped"]) == 143
    assert json.loads(Path("stopped/state.json").read_text())["state"] == "stopped"
    capsys.readouterr()
    assert main(["runs", "--root", "."]) == 0
    assert {line.split()[3] for line in capsys.readouterr().out.splitlines()[1:]} == {
        "done",
        "failed",
        "stopped",
    }
