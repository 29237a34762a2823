"""Runs that lie elsewhere, are longer or have other settings when they go on; commands that are refused."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from verisal.checkpoint import load_checkpoint, save_checkpoint
from verisal.cli import main

CONFIG = """
model:
  class_path: helpers.toy.ScriptedTask
data:
  class_path: helpers.toy.ToyData
trainer:
  max_epochs: {epochs}
  accelerator: cpu
  callbacks:
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {{monitor: val/accuracy, mode: max, patience: 9}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{monitor: val/accuracy, mode: max, save_top_k: 2, filename: "top-{{epoch}}"}}
wandb:
  mode: offline
test_after_fit: false
"""


def fit(*more, epochs=2):
    Path("toy.yaml").write_text(CONFIG.format(epochs=epochs))
    return main(["fit", "--config", "toy.yaml", *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two epochs, whose second is the best, and one that did not stop after them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit("--run_dir=half") == 0
        assert fit("--run_dir=whole", epochs=4) == 0
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    """A working folder with a copy of the run of two epochs in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "half", "run", symlinks=True)
    Path("toy.yaml").write_text(CONFIG.format(epochs=2))
    return tmp_path


def weights(path):
    return {name: value.tolist() for name, value in load_checkpoint(path)["state_dict"].items()}


def best(run):
    checkpoint = load_checkpoint(Path(run, "checkpoints/best.ckpt"))
    return float(checkpoint["callbacks"]["BestCheckpoint"]["best_model_score"])


def snapshot():
    """Names and bytes of all that is here; a link, as that to the log of W&B's service, by its target."""
    found = {}
    for path in Path().rglob("*"):
        read = path.readlink if path.is_symlink() else path.read_bytes
        found[str(path)] = None if path.is_dir() else read()
    return found


@pytest.mark.parametrize("how", ["copied", "moved", "linked", "from elsewhere"])
def test_a_run_that_lies_elsewhere_goes_on_as_if_it_had_stayed(made, there, monkeypatch, how):
    place = "run"
    if how == "moved":
        Path("deep/er").mkdir(parents=True)
        Path("run").rename("deep/er/run")
        place = "deep/er/run"
    if how == "linked":
        Path("run").rename("real")
        Path("run").symlink_to("real")
    if how == "from elsewhere":
        Path("other").mkdir()
        monkeypatch.chdir("other")
        place = "../run"
    assert main(["fit", "--config", f"{place}/config.yaml", f"--run_dir={place}", "--resume=auto",
                 "--trainer.max_epochs=4"]) == 0  # fmt: skip
    assert best(place) == pytest.approx(0.5)
    files = ("best.ckpt", "last.ckpt", "top-epoch=1.ckpt", "top-epoch=3.ckpt")
    for name in files:
        assert weights(Path(place, "checkpoints", name)) == weights(made / "whole/checkpoints" / name)
    assert sorted(path.name for path in Path(place, "checkpoints").glob("*.ckpt")) == sorted(files)
    # The folder that was copied is left alone.
    assert best(made / "half") == pytest.approx(0.5)
    assert load_checkpoint(made / "half/checkpoints/last.ckpt")["epoch"] == 2


def test_best_weights_that_are_gone_are_not_waited_for(there, capsys):
    for file in Path("run/checkpoints").glob("best*"):
        file.unlink()
    assert (
        main(["fit", "--config=run/config.yaml", "--run_dir=run", "--resume=auto", "--trainer.max_epochs=4"])
        == 0
    )
    assert "no checkpoint of the earlier part of this run is in" in capsys.readouterr().out
    assert best("run") == pytest.approx(0.3)


def test_going_on_from_an_earlier_state_keeps_better_weights(there):
    """From the end of the first epoch (0.1), to a second one (0.4) that is worse than the one kept."""
    first = Path("run/checkpoints/top-epoch=0.ckpt")
    assert fit(f"--resume={first}", "--model.values=[0.1,0.4]") == 0
    assert best("run") == pytest.approx(0.5)
    assert load_checkpoint("run/checkpoints/last.ckpt")["epoch"] == 2


def test_a_run_that_was_sent_back_goes_on_from_there(there, monkeypatch, capsys):
    """Weights of the part that was left behind are further on, and no place to go on from."""
    monkeypatch.setenv("TOY_STOP", "6:SIGINT")
    assert fit("--resume=run/checkpoints/top-epoch=0.ckpt", "--model.values=[0.1,0.4]") == 130
    monkeypatch.delenv("TOY_STOP")
    assert load_checkpoint("run/checkpoints/last.ckpt")["global_step"] == 4
    assert load_checkpoint("run/checkpoints/best.ckpt")["global_step"] == 8
    assert fit("--run_dir=run", "--resume=auto", "--model.values=[0.1,0.4]") == 0
    assert "from run/checkpoints/last.ckpt" in capsys.readouterr().out
    assert load_checkpoint("run/checkpoints/last.ckpt")["global_step"] == 8


def test_auto_takes_the_state_that_is_furthest_on_whatever_the_files_times(there, capsys):
    files = sorted(Path("run/checkpoints").glob("*.ckpt"))
    for age, file in enumerate(sorted(files, key=lambda file: file.name != "last.ckpt")):
        os.utime(file, (1e9 + age, 1e9 + age))
    assert max(files, key=lambda file: file.stat().st_mtime).name != "last.ckpt"
    assert fit("--run_dir=run", "--resume=auto", epochs=3) == 0
    assert "from run/checkpoints/last.ckpt" in capsys.readouterr().out
    # Weights without the state of a training are no place to go on from.
    light = load_checkpoint("run/checkpoints/last.ckpt")
    save_checkpoint(
        {"epoch": 9, "global_step": 99, "state_dict": light["state_dict"]}, "run/checkpoints/light.ckpt"
    )
    assert fit("--run_dir=run", "--resume=auto", epochs=4) == 0
    out = capsys.readouterr().out
    assert "not used: run/checkpoints/light.ckpt holds no state of a training" in out
    assert "from run/checkpoints/last.ckpt" in out


CONFIGS = ("config.1.yaml", "config.yaml")
BEST = "--ckpt_path=run/checkpoints/best.ckpt"
AUTO = ("fit", "--run_dir=run", "--resume=auto", "--trainer.max_epochs=4")
PATH = ("fit", "--resume=run/checkpoints/best.ckpt", "--trainer.max_epochs=4")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*AUTO, "--model.classes=3"), "checkpoint has ['class 0', 'class 1'], config has"),
        ((*PATH, "--model.classes=3"), "checkpoint has ['class 0', 'class 1'], config has"),
        ((*PATH, "--run_dir=new/run", "--model.classes=3"), "config has ['class 0', 'class 1', 'class 2']"),
        ((*AUTO, "--data.images=missing"), "missing does not exist"),
        ((*AUTO, "--model.refuse=setup"), "refused in setup"),
        ((*AUTO, "--model.lr=0.5"), "0.1 so far, config gives 0.5"),
        ((*AUTO, "--trainer.max_epochs=1"), "max_epochs=1"),
        ((*AUTO, "--trainer.precision=16-mixed"), "trainer.precision"),
        ((*AUTO, "--wandb.mode=online"), "mode is online, but"),
        (("fit", "--resume=run/config.yaml"), "cannot be loaded"),
        (("fit", "--run_dir=run", "--data.images=missing"), "missing does not exist"),
        (("fit", "--data.images=missing"), "missing does not exist"),
        (("fit", "--run_dir=new/run", "--model.refuse=setup"), "refused in setup"),
        (("fit", "--trainer.devices=0"), "devices"),
        (("fit", "--data.images=."), "cannot be read"),
        (("fit", "--run_dir=run", "--data.images=."), "cannot be read"),
        ((*AUTO, "--data.images=."), "cannot be read"),
        (("validate", BEST, "--model.classes=3"), "class 2"),
        (("validate", BEST, "--run_dir=run", "--model.refuse=step"), "refused in step"),
        (("test", BEST, "--model.classes=3"), "class 2"),
        (("test", BEST, "--model.refuse=step"), "refused in step"),
        (("test", BEST, "--run_dir=run", "--data.images=missing"), "missing does not exist"),
        (("test", "--ckpt_path=run/config.yaml"), "cannot be loaded"),
        (("test", "--ckpt_path=none", "--data.images=missing"), "missing does not exist"),
        (("test", BEST, "--data.images=."), "cannot be read"),
        (("predict", BEST, "--model.classes=3"), "class 2"),
        (("predict", BEST, "--model.refuse=batch 1"), "refused in batch 1"),
        (("predict", BEST, "--run_dir=run", "--data.images=missing"), "missing does not exist"),
        (("export", "run", "--output=out"), "can be exported"),
        (("explain", "missing.png", "--output=out", "--query=nothing"), "missing.png does not exist"),
        (("explain", "missing.png", "--output=out", "--detector=run"), "holds no detector"),
        (("data", "check", "missing"), "missing"),
    ],
)  # fmt: skip
def test_a_refused_command_leaves_everything_as_it_was(there, capsys, command, words):
    before = snapshot()
    own = () if command[0] in ("export", "explain", "data") else ("--config=toy.yaml",)
    assert main([command[0], *own, *command[1:]]) in (1, 2)
    said = capsys.readouterr()
    assert words in said.err + said.out
    assert "Traceback" not in said.err
    assert snapshot() == before


def test_a_command_that_is_stopped_before_its_first_work_can_go_on(there, capsys, monkeypatch):
    def stop(self, stage):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        from helpers import toy

        patch.setattr(toy.ToyData, "setup", stop)
        assert fit("--run_dir=new") == 130
    assert "--run_dir new --resume auto" in capsys.readouterr().err
    assert not Path("new/wandb").exists()
    more = ["--run_dir=new", "--resume=auto", "--wandb.mode=disabled"]
    assert main(["fit", "--config=new/config.yaml", *more]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--model.lr=0.5", "Adam group.initial_lr: 0.1 so far, config gives 0.5"),
        ("--model.betas=[0.8,0.999]", "Adam group.betas.0: 0.9 so far, config gives 0.8"),
        ("--model.decay=0.5", "StepLR.gamma: 0.7 so far, config gives 0.5"),
        ("--model.schedule=cosine", "StepLR.gamma: 0.7 so far, config gives nothing"),
        ("--model.monitor=val/other", "'val/accuracy (max)' so far, config gives 'val/other (max)'"),
        ("--model.seed=1", "model.init_args.seed: 0 so far, config gives 1"),
        ("--seed_everything=5", "seed_everything: 0 so far, config gives 5"),
        ("--trainer.callbacks.patience=3", "EarlyStopping.patience: 9 so far, config gives 3"),
    ],
)
def test_settings_that_the_restored_state_holds_are_refused_with_both_values(there, capsys, more, words):
    if "patience" in more:
        text = CONFIG.format(epochs=4).replace("patience: 9", "patience: 3")
        Path("toy.yaml").write_text(text)
        code = main(["fit", "--config=toy.yaml", "--run_dir=run", "--resume=auto"])
    else:
        code = fit("--run_dir=run", "--resume=auto", more, epochs=4)
    assert code == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Use the config in the run's folder" in error


def test_a_schedule_that_cannot_be_extended_is_refused_and_others_hold_from_here_on(there, capsys):
    more = ["--run_dir=cosine", "--model.schedule=cosine"]
    assert fit(*more) == 0
    assert fit(*more, "--resume=auto", epochs=4) == 2
    error = capsys.readouterr().err
    assert "CosineAnnealingLR.T_max: 8 so far, config gives 16" in error
    assert "trainer.max_epochs: 2 so far, now 4" in error
    assert (
        fit("--run_dir=run", "--resume=auto", "--data.num_workers=0", "--seed_everything=false", epochs=3)
        == 0
    )
    said = capsys.readouterr().out
    assert "resumed with other settings:\n  trainer.max_epochs: 2 so far, now 3\n" in said
    assert load_checkpoint("run/checkpoints/last.ckpt")["epoch"] == 3
    epochs = [yaml.safe_load(Path("run", name).read_text())["trainer"]["max_epochs"] for name in CONFIGS]
    assert epochs == [2, 3]
