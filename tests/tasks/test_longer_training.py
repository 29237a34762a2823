"""A training that was stopped goes on exactly; one that has ended, with more epochs or other images."""

import csv
import shutil
from itertools import pairwise

import pytest

from verisal.callbacks import LastCheckpoint
from verisal.checkpoint import load_checkpoint
from verisal.cli import main

CONFIG = """
model:
  class_path: ClassifierTask
  init_args: {widths: [8, 8, 8, 8]}
data:
  class_path: ImageData
  init_args: {fit_count: 24, val_count: 8, test_count: 8, image_size: 32, batch_size: 8, num_workers: 0}
trainer:
  accelerator: cpu
  max_epochs: 2
  log_every_n_steps: 1
  callbacks: {class_path: lightning.pytorch.callbacks.LearningRateMonitor}
wandb: {mode: disabled}
test_after_fit: false
"""


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    (folder / "config.yaml").write_text(CONFIG)
    save = LastCheckpoint._save

    def kept(callback, trainer):
        save(callback, trainer)
        if not (folder / "start.ckpt").exists():
            shutil.copy(callback.path, folder / "start.ckpt")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LastCheckpoint, "_save", kept)
        assert main(["fit", "--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_classifier_that_was_stopped_in_its_first_epoch_goes_on_exactly(half, tmp_path):
    start = half.parent / "start.ckpt"
    assert load_checkpoint(start)["global_step"] == 0
    assert (
        main(["fit", f"--config={half}/config.yaml", f"--run_dir={tmp_path}/run", f"--resume={start}"]) == 0
    )
    whole, again = (load_checkpoint(run / "checkpoints/last.ckpt") for run in (half, tmp_path / "run"))
    assert all(value.equal(again["state_dict"][name]) for name, value in whole["state_dict"].items())


def rates(run):
    with (run / "metrics.csv").open() as file:
        return [float(row["lr-AdamW/pg1"]) for row in csv.DictReader(file) if row["lr-AdamW/pg1"]]


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        (["--trainer.max_epochs=4"], 12),
        (["--trainer.max_epochs=3", "--data.batch_size=4"], 12),
        (["--trainer.max_epochs=4", "--data.batch_size=12"], 10),
        (["--trainer.max_epochs=3", "--data.fit_count=40"], 11),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=9"], 9),
    ],
)
def test_classifier_goes_on_and_its_rate_ends_where_the_training_ends(half, tmp_path, capsys, more, steps):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    assert main(["fit", f"--config={run}/config.yaml", f"--run_dir={run}", "--resume=auto", *more]) == 0
    assert "resumed with other settings:" in capsys.readouterr().out
    end = load_checkpoint(run / "checkpoints/last.ckpt")
    assert (end["global_step"], end["lr_schedulers"]) == (steps, [{"last_epoch": steps}])
    assert end["epoch"] == (3 if steps in (9, 11) or "batch_size=4" in more[-1] else 4)
    seen = rates(run)
    assert len(seen) == steps
    assert seen[-1] == pytest.approx(0.004 / 25 / 1e4)
    # The rate of the longer curve at this place, not the end of the shorter one.
    assert seen[6] > 0.0005
    assert all(later < earlier for earlier, later in pairwise(seen[6:]))


def test_fewer_epochs_than_were_done_are_refused(half, capsys):
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    more = [f"--config={half}/config.yaml", f"--run_dir={half}", "--resume=auto", "--trainer.max_epochs=1"]
    assert main(["fit", *more]) == 2
    assert "current_epoch=2" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in half.rglob("*") if path.is_file()} == before
