"""What the tests of the two trainings of mask networks share."""

import shutil

import yaml

from verisal.callbacks import LastCheckpoint
from verisal.checkpoint import load_checkpoint
from verisal.cli import main
from verisal.data import ImageData

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "inference_mode": False,
}


def scenes(**settings):
    """A few scenes for a trainer."""
    counts = {"fit_count": 96, "val_count": 12, "test_count": 8}
    return ImageData(**counts | settings, batch_size=16, num_workers=0)


def write_config(folder, task, settings, *, fit, val, test, batch_size, epochs, **more):
    """``config.yaml`` of a run of a task on so many scenes; its path."""
    data = {"fit_count": fit, "val_count": val, "test_count": test, "batch_size": batch_size}
    config = {
        "model": {"class_path": task, "init_args": settings},
        "data": {"class_path": "ImageData", "init_args": data | {"num_workers": 0}},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | more))
    return path


def assert_resumed_run_is_taught_the_same(folder, monkeypatch, *, taught):
    """A run of the config, whole, and one that goes on from its second epoch, end alike in every bit."""
    save, states = LastCheckpoint._save, []

    def kept(callback, trainer):
        save(callback, trainer)
        states.append(folder / f"{len(states)}.ckpt")
        shutil.copy(callback.path, states[-1])

    monkeypatch.setattr(LastCheckpoint, "_save", kept)
    assert main(["fit", "--config=config.yaml", "--run_dir=whole"]) == 0
    # States: the start, the second epoch's start, the end.
    half = ["--run_dir=half", f"--resume={states[1]}", "--test_after_fit=false"]
    assert main(["fit", "--config=config.yaml", *half]) == 0
    one, two = (load_checkpoint(folder / name / "checkpoints/last.ckpt") for name in ("whole", "half"))
    assert sum(len(names) for part in one["lessons"] for names, _ in part) == taught
    assert one["lessons"] == two["lessons"]
    assert all(value.equal(two["state_dict"][name]) for name, value in one["state_dict"].items())
