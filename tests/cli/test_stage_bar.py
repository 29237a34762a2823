"""What a fit shows of its stages: on a terminal of 80 columns, in a log file, and what it leaves out."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.terminals import on_a_terminal, screen
from verisal import progress
from verisal.cli import _trainer as trainer_module
from verisal.cli import main
from verisal.cli._stage_bar import StageBar
from verisal.cli._trainer import EpochLines

CONFIG = """
model: {class_path: helpers.toy.ToyTask}
data: {class_path: helpers.toy.ToyData}
trainer: {max_epochs: 3, accelerator: cpu}
wandb: {mode: disabled}
"""
EPOCH = r"epoch (\d) of 3: train loss [\d.]+, val accuracy [\d.]+ \(.*s\)"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(CONFIG)
    return ["fit", "--config", "toy.yaml", "--run_dir", "run"]


@pytest.mark.slow
def test_a_fit_leaves_whole_lines_on_a_terminal_and_its_table_last(config, tmp_path):
    tests = str(Path(__file__).parents[1])
    start = (
        f"import sys; sys.path.insert(0, {tests!r}); from verisal.cli import main; sys.exit(main({config}))"
    )
    written = on_a_terminal(["-c", start], 80, folder=tmp_path)
    assert "loading libraries" in written
    assert re.search(r"epoch \d of 3  (training|validating)", written)
    assert "v_num" not in written
    drawn = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", written)]
    assert max(len(line) for line in drawn if "epoch" in line) <= 80
    left = [line for line in screen(written) if line]
    epochs = [line for line in left if line.startswith("epoch")]
    assert [re.fullmatch(EPOCH, line)[1] for line in epochs] == ["1", "2", "3"]
    assert not any("━" in line for line in left)
    table = left.index("test: Accuracy")
    assert max(len(line) for line in left[table:] if not line.startswith(("report:", "run:", "  "))) <= 80
    assert left[-3].startswith("run: ")


def test_a_log_file_has_a_line_for_each_epoch(config, capsys):
    assert main(config) == 0
    captured = capsys.readouterr()
    assert len(re.findall(EPOCH, captured.out)) == 3
    assert "\x1b" not in captured.out + captured.err
    assert "━" not in captured.out + captured.err
    # What is no part of the report is said, without a table of Lightning's.
    assert re.search(r"^test accuracy [\d.]+$", captured.out, re.MULTILINE)
    assert "Test metric" not in captured.out


def test_a_bar_of_ones_own_takes_the_place(config, capsys):
    own = "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.TQDMProgressBar}]"
    assert main([*config, own, "--trainer.max_epochs=1"]) == 0
    assert main([*config, "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"]) == 0


@pytest.mark.parametrize(("epochs", "lines"), [(3, 3), (200, 5), (-1, 5)])
def test_of_many_epochs_one_a_minute_has_a_line(monkeypatch, capsys, epochs, lines):
    now = [0.0]
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: now[0])
    callback = EpochLines()
    trainer = SimpleNamespace(
        callback_metrics={"train/loss": torch.tensor(0.5), "train/a/loss": torch.tensor(1.0)},
        is_global_zero=True, max_epochs=epochs,
    )  # fmt: skip
    for epoch in range(epochs if 0 < epochs < 9 else 200):
        trainer.current_epoch = epoch
        callback.on_train_epoch_start(trainer, None)
        now[0] += 1.0
        callback.on_train_epoch_end(trainer, None)
    callback.on_train_end(trainer, None)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == lines
    of = f" of {epochs}" if epochs > 0 else ""
    assert said[0] == f"epoch 1{of}: train loss 0.5 (1.0 s)"
    assert said[-1].startswith("epoch 3 " if epochs == 3 else "epoch 200")


def test_a_training_that_fails_leaves_no_bar(config, capsys):
    assert main([*config, "--model.nan_at_step=2"]) == 1
    assert not progress.at_work()
    assert StageBar()._work is None
