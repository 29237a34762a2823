"""Every command in-process on a toy task; a subprocess only where the exit of a process is the point."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from verisal.checkpoint import load_checkpoint
from verisal.cli import main

CONFIG = """
model:
  class_path: helpers.toy.ToyTask
data:
  class_path: helpers.toy.ToyData
trainer:
  max_epochs: 3
  accelerator: cpu
wandb:
  mode: disabled
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOY_STOP", raising=False)
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return str(path)


def metrics_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())["metrics"]


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_checkpoint(path)["state_dict"] for path in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_fit_fills_its_own_folder_and_says_what_to_do_next(config, capsys):
    assert main(["fit", "--config", config]) == 0
    run = Path("runs/toy/latest").resolve().relative_to(Path.cwd().resolve())
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "environment.txt",
        "metrics.csv",
        "report.html",
        "report.json",
        "report.md",
        "run.json",
        "checkpoints/best.ckpt",
        "checkpoints/best.ckpt.sha256",
        "checkpoints/last.ckpt",
    }
    out = capsys.readouterr().out
    assert f"verisal test --config {run}/config.yaml" in out
    assert out.count("epoch 3 of 3: train loss ") == 1
    assert "torch==" in (run / "environment.txt").read_text()


@pytest.mark.parametrize("data", ["ToyData", "NamedImages"])
@pytest.mark.slow
def test_every_command_that_a_fit_prints_works_when_it_is_pasted(config, capsys, data):
    Path(config).write_text(Path(config).read_text().replace("helpers.toy.ToyData", f"helpers.toy.{data}"))
    assert main(["fit", "--config", config, "--run_dir", "a run", "--trainer.max_epochs=1"]) == 0
    out = capsys.readouterr().out
    commands = [shlex.split(words) for words in re.findall(r": +(verisal .*)", out)]
    assert [words[:2] for words in commands] == [["verisal", "test"], ["verisal", "predict"]]
    assert ("--data.images=[IMAGE, ...]" in commands[1]) == (data == "NamedImages")
    for words in commands:
        assert main([word.replace("IMAGE, ...", "a.png") for word in words[1:]]) == 0


@pytest.mark.slow
def test_saved_config_serves_test_and_predict_in_folders_of_their_own(config, capsys):
    assert main(["fit", "--config", config, "--run_dir", "one"]) == 0
    fitted = metrics_of(Path("one"))
    assert main(["test", "--config", "one/config.yaml"]) == 0
    (tested,) = (path for path in Path("runs/toy").iterdir() if not path.is_symlink())
    assert metrics_of(tested) == fitted
    assert main(["predict", "--config", "one/config.yaml", "--run_dir", "scores"]) == 0
    rows = Path("scores/predictions.csv").read_text().splitlines()
    assert rows[0] == "image_id,score"
    assert len(rows) == 33
    assert main(["validate", "--config", "one/config.yaml", "--run_dir", "checked"]) == 0
    assert main(["test", "--config", "one/config.yaml", "--run_dir", "one"]) == 0
    assert Path("one/config.test.yaml").is_file()
    assert yaml.safe_load(Path("one/config.yaml").read_text())["model"]["class_path"] == "helpers.toy.ToyTask"
    assert metrics_of(Path("one")) == fitted


@pytest.mark.slow
def test_same_seed_same_metrics_other_seed_other_metrics(config):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main(["fit", "--config", config, "--run_dir", name, "--seed_everything", seed]) == 0
    assert metrics_of(Path("a")) == metrics_of(Path("b"))
    assert metrics_of(Path("a")) != metrics_of(Path("c"))


@pytest.mark.parametrize(
    ("stop", "code", "workers"), [("1:SIGINT", 130, 0), ("6:SIGTERM", 143, 0), ("6:SIGINT", 130, 1)]
)
@pytest.mark.slow
def test_stopped_run_goes_on_with_the_printed_command_as_if_never_stopped(
    config, capsys, monkeypatch, stop, code, workers
):
    more = [f"--data.init_args.num_workers={workers}"]
    assert main(["fit", "--config", config, "--run_dir", "whole", *more]) == 0
    monkeypatch.setenv("TOY_STOP", stop)
    assert main(["fit", "--config", config, "--run_dir", "cut in two", *more]) == code
    monkeypatch.delenv("TOY_STOP")
    error = capsys.readouterr().err
    assert stop.partition(":")[2] in error
    command = shlex.split(error.strip().splitlines()[-1].partition("go on with: ")[2])
    assert command[:2] == ["verisal", "fit"]
    before = json.loads(Path("cut in two/run.json").read_text())
    assert main(command[1:]) == 0
    assert "resuming run" in capsys.readouterr().out
    assert json.loads(Path("cut in two/run.json").read_text()) == before
    for name in ("last.ckpt", "best.ckpt"):
        assert same_weights(Path("whole/checkpoints", name), Path("cut in two/checkpoints", name))
    assert metrics_of(Path("whole")) == metrics_of(Path("cut in two"))
    end = load_checkpoint("cut in two/checkpoints/last.ckpt")
    assert (end["epoch"], end["global_step"]) == (3, 12)
    assert end["lr_schedulers"] == load_checkpoint("whole/checkpoints/last.ckpt")["lr_schedulers"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--trainer.val_check_interval=9"], "`val_check_interval` (9) must be less than or equal"),
        (["fit", "--trainer.max_time=00:00:00:00"], "nothing was trained: trainer.max_time or a callback"),
        (["test", "--ckpt_path=none", "--trainer.limit_test_batches=0"], "trainer.limit_test_batches is 0"),
        (["validate", "--ckpt_path=none", "--trainer.limit_val_batches=0"], "trainer.limit_val_batches is 0"),
        (["predict", "--ckpt_path=none", "--trainer.limit_predict_batches=0"], "limit_predict_batches is 0"),
    ],
)
def test_commands_that_would_look_at_nothing_are_refused_and_leave_nothing(config, capsys, words, message):
    assert main([words[0], "--config", config, *words[1:]]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert sorted(os.listdir()) == ["toy.yaml"]


def test_a_run_without_validation_is_tested_with_its_last_weights(config, capsys, recwarn):
    words = ["fit", "--config", config, "--run_dir", "run", "--trainer.limit_val_batches=0"]
    assert main(words) == 0
    assert not [one for one in recwarn if "monitor" in str(one.message)]
    assert not Path("run/checkpoints/best.ckpt").exists()
    assert main(["test", "--config", "run/config.yaml", "--run_dir", "again"]) == 0
    assert metrics_of(Path("again")) == metrics_of(Path("run"))
    before = sorted((path, path.read_bytes()) for path in Path("run").rglob("*") if path.is_file())
    fewer = ["--resume=auto", "--trainer.max_epochs=-1", "--trainer.max_steps=3"]
    assert main(["fit", "--config", config, "--run_dir", "run", *fewer]) == 2
    assert "the run has made 12 steps, and trainer.max_steps is 3" in capsys.readouterr().err
    assert before == sorted((path, path.read_bytes()) for path in Path("run").rglob("*") if path.is_file())


def test_finished_run_can_be_extended(config):
    assert main(["fit", "--config", config, "--run_dir", "whole", "--trainer.max_epochs=5"]) == 0
    assert main(["fit", "--config", config, "--run_dir", "grown", "--test_after_fit=false"]) == 0
    grow = ["--run_dir", "grown", "--resume", "auto", "--trainer.max_epochs=5"]
    assert main(["fit", "--config", config, *grow]) == 0
    assert same_weights(Path("whole/checkpoints/last.ckpt"), Path("grown/checkpoints/last.ckpt"))


def test_resume_auto_skips_a_damaged_checkpoint_and_says_so(config, capsys):
    assert main(["fit", "--config", config, "--run_dir", "run"]) == 0
    last = Path("run/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:-100])
    assert main(["fit", "--config", config, "--run_dir", "run", "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert "not used: run/checkpoints/last.ckpt" in out
    assert "from run/checkpoints/best.ckpt" in out


def test_resume_from_a_path_continues_the_run_that_owns_it(config):
    assert main(["fit", "--config", config, "--run_dir", "run"]) == 0
    run_id = json.loads(Path("run/run.json").read_text())["run_id"]
    more = ["--resume", "run/checkpoints/last.ckpt", "--trainer.max_epochs=4"]
    assert main(["fit", "--config", config, *more]) == 0
    assert json.loads(Path("run/run.json").read_text())["run_id"] == run_id
    assert load_checkpoint("run/checkpoints/last.ckpt")["epoch"] == 4


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--resume", "auto"], 2, "--run_dir"),
        (["--resume", "nothing.ckpt"], 1, "nothing.ckpt does not exist"),
        (["--trainer.max_epoch=3"], 2, "did you mean 'trainer.max_epochs'"),
        (["--trainers.max_epochs=3"], 2, "did you mean 'trainer'"),
        (["--model.init_args.widht=3"], 2, "ToyTask has no setting 'widht'; did you mean 'width'?"),
        (["--trainer.max_epochs=many"], 2, "trainer.max_epochs: Expected a int found many"),
        (["--trainer.accelerator=gpu"], 2, "accelerator"),
        (["--trainer.inference_mode=true"], 2, "inference_mode must be false"),
        (["--trainer.logger=true"], 2, "trainer.logger cannot be set"),
        (["--config=missing.yaml"], 2, "missing.yaml"),
        (["--run_dir=toy.yaml/run"], 2, "choose another with --run_dir"),
    ],
)
def test_bad_settings_die_in_one_line(config, capsys, more, code, words):
    if "accelerator" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["fit", "--config", config, *more]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("verisal: error: ")
    assert "Traceback" not in error
    assert "usage" not in error
    assert not Path("runs").exists() or "accelerator" in words


def test_misspelt_class_lists_the_known_ones(config, capsys):
    bad = Path("bad.yaml")
    bad.write_text(Path(config).read_text().replace("ToyTask", "ToyTusk").replace("helpers.toy.", ""))
    assert main(["fit", "--config", config, "--trainer.max_epochs=1"]) == 0  # the toy module is loaded now
    assert main(["fit", "--config", str(bad)]) == 2
    error = capsys.readouterr().err.strip()
    assert "there is no class named 'ToyTusk'; did you mean 'ToyTask'?" in error
    assert "Known: " in error
    assert len(error.splitlines()) == 1


def test_used_folder_is_set_aside_by_a_fresh_run_and_refused_when_it_is_no_run(config, capsys):
    for _ in range(2):
        assert main(["fit", "--config", config, "--run_dir", "run"]) == 0
    (earlier,) = Path("run/earlier").iterdir()
    assert (earlier / "checkpoints/best.ckpt").is_file()
    assert json.loads((earlier / "run.json").read_text())["run_id"] == earlier.name
    assert metrics_of(earlier) == metrics_of(Path("run"))
    assert len(Path("run/metrics.csv").read_text()) == len((earlier / "metrics.csv").read_text())
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("do not touch")
    assert main(["fit", "--config", config, "--run_dir", "mine"]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_nan_loss_stops_at_once_and_keeps_the_last_finite_checkpoint(config, capsys):
    more = ["--run_dir", "run", "--model.init_args.nan_at_step=5"]
    assert main(["fit", "--config", config, *more]) == 1
    error = capsys.readouterr().err
    assert "training loss is nan in epoch 1, batch 1" in error
    assert "Traceback" not in error
    record = json.loads(Path("run/numeric_error.json").read_text())
    assert (record["epoch"], record["step"], record["batch_index"]) == (1, 5, 1)
    kept = load_checkpoint("run/checkpoints/last.ckpt")
    assert kept["global_step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in kept["state_dict"].values())


def test_checkpoint_of_another_class_count_shows_both(config, capsys):
    assert main(["fit", "--config", config, "--run_dir", "run"]) == 0
    more = ["--model.init_args.classes=3", "--ckpt_path", "run/checkpoints/best.ckpt"]
    assert main(["test", "--config", config, *more]) == 1
    error = capsys.readouterr().err
    assert "checkpoint has ['class 0', 'class 1'], config has ['class 0', 'class 1', 'class 2']" in error
    assert "Traceback" not in error
    assert "size mismatch" not in error


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["missing", "truncated", "tampered", "url"])
def test_bad_checkpoint_is_one_clear_error(config, capsys, damage):
    assert main(["fit", "--config", config, "--run_dir", "run", "--test_after_fit=false"]) == 0
    path = Path("run/checkpoints/best.ckpt")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "tampered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    given = "https://host.invalid/best.ckpt" if damage == "url" else str(path)
    assert main(["test", "--config", config, "--ckpt_path", given]) == 1
    error = capsys.readouterr().err
    assert given in error
    assert "weights_only" not in error
    assert "Traceback" not in error


def test_evaluation_without_weights_asks_for_them(config, capsys):
    assert main(["test", "--config", config]) == 2
    assert "--ckpt_path RUN/checkpoints/best.ckpt" in capsys.readouterr().err
    assert main(["test", "--config", config, "--ckpt_path", "none"]) == 0


def test_commands_leave_the_process_as_they_found_it(config):
    environment = dict(os.environ)
    assert main(["fit", "--config", config, "--trainer.max_epochs=1"]) == 0
    assert dict(os.environ) == environment
    assert not torch.are_deterministic_algorithms_enabled()


def test_offline_wandb_keeps_its_id_over_a_resume_and_changes_it_for_a_new_run(config, capsys):
    fit = ["fit", "--config", config, "--run_dir", "run", "--wandb.mode=offline", "--test_after_fit=false"]
    assert main([*fit, "--trainer.max_epochs=1"]) == 0
    first = json.loads(Path("run/run.json").read_text())["run_id"]
    assert main([*fit, "--trainer.max_epochs=2", "--resume", "auto"]) == 0
    assert f"wandb sync run/wandb/offline-run-*-{first}" in capsys.readouterr().out
    assert main([*fit, "--trainer.max_epochs=1"]) == 0
    second = json.loads(Path("run/run.json").read_text())["run_id"]
    assert second != first
    assert list(Path("run/wandb").glob(f"offline-run-*-{first}"))
    assert list(Path("run/wandb").glob(f"offline-run-*-{second}"))


def test_network_without_a_card_is_compared_by_shapes(config, capsys):
    assert main(["fit", "--config", config, "--run_dir", "run", "--test_after_fit=false"]) == 0
    bare = Path("bare.yaml")
    bare.write_text(Path(config).read_text().replace("helpers.toy.ToyTask", "helpers.toy.BareTask"))
    more = ["--ckpt_path", "run/checkpoints/best.ckpt", "--model.init_args.classes=3"]
    assert main(["test", "--config", str(bare), *more]) == 1
    assert "network.3.bias: checkpoint (2,), config (3,)" in capsys.readouterr().err


def run_verisal(args: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "verisal", *args],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.fault
@pytest.mark.slow
def test_full_disk_is_one_line_and_the_old_checkpoint_stays(config):
    assert main(["fit", "--config", config, "--run_dir", "run", "--test_after_fit=false"]) == 0
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        "from verisal.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    grow = ["--run_dir", "run", "--resume", "auto", "--trainer.max_epochs=5"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, "fit", "--config", config, *grow],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "could not be written: File too large; the earlier checkpoint is untouched" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before
    assert not list(Path("run").rglob("*.tmp"))


@pytest.mark.fault
@pytest.mark.slow
def test_two_processes_share_one_run_folder(config):
    more = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    done = run_verisal(["fit", "--config", config, *more])
    assert done.returncode == 0, done.stderr
    run = Path("runs/toy/latest").resolve().relative_to(Path.cwd().resolve())
    assert done.stdout.count("run: ") == 1
    assert (run / "checkpoints/best.ckpt").is_file()


@pytest.mark.fault
@pytest.mark.slow
def test_signal_sets_the_exit_code_of_the_process(config):
    done = run_verisal(["fit", "--config", config, "--run_dir", "run"], TOY_STOP="6:SIGTERM")
    assert done.returncode == 143, done.stderr
    assert "--resume auto" in done.stderr


@pytest.mark.parametrize(
    ("stage", "task", "data", "words"),
    [
        ("fit", "BareTask", "ToyData", "BareTask has nothing to fit (no training_step); use verisal test"),
        ("validate", "BareTask", "ToyData", "BareTask has nothing to validate (no validation_step)"),
        ("predict", "BareTask", "ToyData", "BareTask has nothing to predict (no predict_step)"),
        (
            "fit",
            "ToyTask",
            "TestedData",
            "TestedData has nothing to fit (no train_dataloader); use verisal test",
        ),
    ],
)
def test_a_stage_that_a_task_lacks_is_refused_before_anything_is_built(
    config, capsys, stage, task, data, words
):
    text = Path(config).read_text()
    Path(config).write_text(
        text.replace("helpers.toy.ToyTask", f"helpers.toy.{task}").replace(
            "helpers.toy.ToyData", f"helpers.toy.{data}"
        )
    )
    assert main([stage, "--config", config]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len([line for line in error.splitlines() if not line.startswith("Seed set")]) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("stage", "study", "words"),
    [
        ("fit", "study/transfer", "TransferTask has nothing to fit (no training_step); use verisal test"),
        ("validate", "study/transfer", "use verisal test"),
        ("fit", "benchmark", "use verisal validate or verisal test"),
        ("predict", "classifier", "use verisal fit or verisal validate or verisal test"),
    ],
)
def test_shipped_studies_say_which_command_they_are_for(tmp_path, capsys, monkeypatch, stage, study, words):
    monkeypatch.chdir(tmp_path)
    shipped = Path(__file__).parents[2] / "configs" / f"{study}.yaml"
    assert main([stage, "--config", str(shipped), "--ckpt_path", "none"]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
