"""The benchmark's configuration on a few scenes: what it writes; a second command computes nothing."""

import json
from pathlib import Path

import pytest
import yaml

from helpers import wandb_files
from verisal.cli import main
from verisal.saliency import GradCAM, Gradient

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[2] / "configs" / "benchmark.yaml"


def config(folder):
    """The shipped file with two quick methods, six scenes and short curves."""
    content = yaml.safe_load(SHIPPED.read_text())
    content["data"]["init_args"] |= {"val_count": 6, "batch_size": 4}
    content["wandb"] = {"mode": "offline"}
    content["trainer"]["accelerator"] = "cpu"
    methods = {"gradient": {"class_path": "Gradient"}, "grad_cam": {"class_path": "GradCAM"}}
    quick = {
        "steps": 4,
        "max_images": 3,
        "held_out_images": 6,
        "several_images": 4,
        "randomisation_steps": 2,
    }
    for callback in content["trainer"]["callbacks"]:
        settings = callback["init_args"]
        settings["methods"] = methods
        settings |= {name: value for name, value in quick.items() if name in settings}
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["validate", "--config", config(folder), "--run_dir", "run"]) == 0
    return folder / "run"


def report_of(run):
    return json.loads((run / "report.val.json").read_text())


def test_every_method_and_control_has_every_score(run):
    metrics = report_of(run)["metrics"]
    rows = {}
    for name in metrics:
        _, row, rest = name.split("/", 2)
        rows.setdefault(row, set()).add(rest)
    assert rows["gradient"] == rows["grad_cam"] == rows["random"] == rows["centre"]
    assert metrics["val/gradient/energy_inside/energy"]["n"] == 6
    assert metrics["val/gradient/cascading_randomisation[2]/spearman_2"]["n"] == 3
    assert metrics["val/classifier/accuracy"]["n"] == 6
    assert {name.split("/")[0] for name in rows["gradient"]} >= {
        "D-WSOL (our protocol)",
        "D-WSOL (our protocol), present classes",
        "deletion[gauss]_steps4",
        "deletion[recommended]_steps4",
        "insertion[dataset_mean]_steps4",
        "insertion[recommended]_steps4",
        "max_box_acc_v2",
        "pxap",
        "road_morf[linear]",
    }


def test_the_report_opens_with_the_main_table(run):
    text = (run / "report.val.md").read_text()
    assert text.index("## Main table") < text.index("## Accuracy")
    header = next(line for line in text.splitlines() if line.startswith("| | pointing_game"))
    assert header.count("|") == 24
    assert r"| insertion[recommended]\_steps4 ↑ | insertion[recommended]\_steps4 baseline range |" in header
    assert "| gradient |" in text
    figures = {path.name for path in (run / "figures").iterdir()}
    assert {"val_panel_saliency_0.png", "val_deletion_gauss__steps4.png"} <= figures
    samples = (run / "samples.val.csv").read_text().splitlines()
    assert samples[0] == "image_id,row,score,value"
    assert sum(",gradient,energy_inside/energy," in line for line in samples) == 6


def test_tables_panels_and_the_first_curves_reach_weights_and_biases_and_scores_its_summary(run):
    names = {name for row in wandb_files.history(run) for name in row}
    for wanted in ("tables/val_main", "tables/val_results", "panels/val_saliency"):
        assert any(name.startswith(f"{wanted}/") for name in names)
    assert len({name.partition("_table/")[0] for name in names if name.startswith("curves/val_")}) == 3
    # What is measured once is no chart.
    assert not any(name.startswith("val/") for name in names)
    assert "val/gradient/energy_inside" in wandb_files.summary(run)


def test_the_same_command_again_computes_no_map_and_finds_the_same(run, monkeypatch):
    def refused(*_):
        raise AssertionError("a map was computed")

    before = report_of(run)["metrics"]
    monkeypatch.chdir(run.parent)
    for method in (Gradient, GradCAM):
        monkeypatch.setattr(method, "__call__", refused, raising=True)
    content = yaml.safe_load(Path("benchmark.yaml").read_text())
    # Pictures are no rows: they are drawn anew.
    content["trainer"]["callbacks"] = [
        callback for callback in content["trainer"]["callbacks"] if callback["class_path"] != "SaliencyPanels"
    ]
    Path("again.yaml").write_text(yaml.safe_dump(content))
    assert main(["validate", "--config", "again.yaml", "--run_dir", "run"]) == 0
    assert report_of(run)["metrics"] == before
