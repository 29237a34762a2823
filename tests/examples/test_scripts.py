"""Every example runs as it stands in an empty folder, leaves what its page promises, and is in one page."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.wandb_files import history
from verisal.checkpoint import load_export

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts/examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "shapes")
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
_SECONDS = 280


def _run(script, folder, *arguments):
    """What the script prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        # MLflow's own data base needs more packages than its client.
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(  # noqa: S603 - our own scripts
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _numbers(text, pattern):
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


def test_torchvision_and_wandb(tmp_path):
    _run("torchvision_wandb.py", tmp_path)
    rows = history(tmp_path)
    scored = [row for row in rows if "val/grad_cam/deletion" in row]
    assert len(scored) == 2
    assert all(
        {"val/gradient/sensitivity_max", "val/grad_cam/d_wsol_response_ratio_c1", "val/loss"} <= row.keys()
        for row in scored
    )
    logged = {name for row in rows for name in row}
    assert {"val/grad_cam/insertion", "val/explaining/share"} <= logged, sorted(logged)
    media = tmp_path.glob("wandb/offline-run-*/files/media")
    folder = next(media)
    assert len(list(folder.glob("images/panels/*.png"))) == 8
    assert list(folder.glob("table/**/*.json"))


def test_timm_and_tensorboard(tmp_path):
    _run("timm_tensorboard.py", tmp_path)
    (run,) = tmp_path.glob("logs/lightning_logs/version_0")
    events = EventAccumulator(str(run)).Reload()
    assert len(events.Scalars("val/cam/relevance_gap")) == 2
    assert {"val/integrated/relevance_gap", "val/centre/relevance_gap"} <= set(events.Tags()["scalars"])
    # What the pages promise of the score to watch: a random map has nothing, however sure the network is.
    assert all(abs(event.value) < 0.05 for event in events.Scalars("val/random/relevance_gap"))
    assert "curves/relevance_gap_dataset_mean_steps8_morf" in events.Tags()["images"]
    assert "panels/saliency_0" in events.Tags()["images"]
    best = max(events.Scalars("val/cam/relevance_gap"), key=lambda event: event.value)
    (checkpoint,) = run.glob("checkpoints/*.ckpt")
    assert f"step={best.step + 1}" in checkpoint.name


def test_hugging_face_and_mlflow(tmp_path):
    _run("huggingface_mlflow.py", tmp_path)
    (run,) = (path.parent for path in tmp_path.glob("mlruns/*/*/metrics"))
    for method in ("gradient", "evidence_masks", "random", "centre"):
        lines = (run / f"metrics/val/{method}/deletion").read_text().splitlines()
        assert len(lines) == 2
        # Masks of a network that has hardly learned anything may be empty, and are undefined then.
        assert method == "evidence_masks" or all(0.0 < float(line.split()[1]) < 1.0 for line in lines)
    images = [path.name for path in run.glob("artifacts/images/*.png")]
    assert len([name for name in images if name.startswith("curves~deletion")]) == 2
    assert len([name for name in images if name.startswith("panels~saliency")]) == 16
    said = run / "params/verisal/saliency_metrics/methods/evidence_masks"
    assert "fall=7" in said.read_text()


def test_boxes_and_dwsol(tmp_path):
    _run("detection_dwsol.py", tmp_path)
    (run,) = tmp_path.glob("logs/lightning_logs/version_0")
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    last = {name: float(value) for name, value in rows[-1].items() if value}
    assert len(rows) == 2
    assert last["val/grad_cam/pointing_game"] > last["val/random/pointing_game"]
    assert last["val/grad_cam/energy_inside"] > last["val/random/energy_inside"]
    assert 0.0 <= last["val/grad_cam/d_wsol"] <= 1.0
    assert last["val/random/d_wsol_margin_rel_c1"] == 0.0
    assert len(list(run.glob("panels/*/saliency_*.png"))) == 8


def test_maps_of_other_packages(tmp_path):
    printed = _run("maps_of_other_packages.py", tmp_path)
    inside = _numbers(printed, r"^(captum|pytorch-grad-cam|torch-cam) .*'EnergyInside': '([\d.]+)'")
    deletion = _numbers(printed, r"^(\S+) .*'PerturbationCurve': '([\d.]+)'")
    assert set(inside) == {"captum", "pytorch-grad-cam", "torch-cam"}
    # A random map has the object's share of the image, and a deletion curve of 0.26.
    assert min(inside.values()) > 0.25
    assert max(deletion.values()) < 0.15


def test_attack_and_guard(tmp_path):
    printed = _run("attack_and_guard.py", tmp_path)
    right = _numbers(printed, r"^(\w+): right ([\d.]+)")
    alarms = _numbers(printed, r"^(\w+): right .* alarms ([\d.]+)")
    assert right["clean"] > 0.9 > 0.4 > right["attacked"]
    assert alarms["attacked"] > 0.9 > 0.3 > alarms["clean"]
    assert "pgd_eps_4" in printed
    load_export(tmp_path / "alarm.safetensors")


def test_xray(tmp_path):
    pytest.importorskip("torchxrayvision")
    printed = _run("xray.py", tmp_path)
    assert "units of [-1024, 1024]" in printed
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_needs(script):
    lines = script.read_text().splitlines()
    assert len(lines) <= 40
    assert "pip install" in lines[0]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_stands_in_one_page_as_it_is(script):
    block = f"```python\n{script.read_text()}```\n"
    assert sum(page.read_text().count(block) for page in PAGES) == 1
