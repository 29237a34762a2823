"""The transfer study as a command: its report, going on after Ctrl-C, and the quick form."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from helpers.tiny_detector import COUNTS
from helpers.tiny_transfer import CELLS, FAMILIES, FITS, ROWS, config
from verisal.cli import main
from verisal.tasks import TransferTask

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "configs/study"


def report_of(run):
    return json.loads((Path(run) / "report.json").read_text())


def metrics_of(run):
    return report_of(run)["metrics"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder with the tiny classifier, its store, a study that Ctrl-C stopped and the one that went on."""
    folder = tmp_path_factory.mktemp("transfer")
    fitted, fit = [], TransferTask._fit_and_score

    def counts(self, cell):
        if len(fitted) == CELLS // 2 and not (folder / "stopped.json").exists():
            raise KeyboardInterrupt
        fitted.append(cell)
        return fit(self, cell)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(TransferTask, "_fit_and_score", counts)
        command = ["test", "--config", config(folder)]
        found = {"code": main([*command, "--run_dir", "stopped"]), "fitted": [len(fitted)]}
        (folder / "stopped.json").write_text("{}")
        assert main([*command, "--run_dir", "studied"]) == 0
    found["fitted"].append(len(fitted) - found["fitted"][0])
    (folder / "stopped.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def inside(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_report_names_every_cell_column_and_group(home):
    metrics = metrics_of(home / "studied")
    columns = ("mean_seen", "mean_unseen", "worst_unseen")
    expected = {f"test/{row}/auroc/{column}" for row in ROWS for column in columns}
    expected |= {f"test/{row}/tpr_at_fpr5/{column}" for row in ROWS for column in columns}
    expected |= {
        f"test/{row}/auroc_fitted_on_{fit}/{column}"
        for row in ROWS
        for fit in FITS
        for column in (*FAMILIES, *columns)
    }
    expected |= {
        f"test/{row}/auroc/{attack}" for row in ROWS for attack in ("pgd", "fgsm", "weak", "nothing")
    }
    expected |= {f"test/{row}/alarm_rate/weak_failed" for row in ROWS}
    groups = ("clean", "clean_misclassified", "noise_linf", "noise_small", "noise_l2", "worst_benign")
    expected |= {f"test/{row}/fpr/{group}" for row in ROWS for group in groups}
    ends = ("fooled", "detected", "auroc", "right_or_rejected", "clean_rejected")
    expected |= {f"test/{row}/end_to_end/{name}" for row in ROWS for name in ends}
    expected |= {
        f"test/consistency_minus_{row}/difference/{column}"
        for row in ROWS[1:]
        for column in ("mean_unseen", "worst_unseen")
    }
    assert expected <= metrics.keys()
    # The strict columns would have no family left but the one that never succeeded.
    assert not any(name.endswith("_strict") for name in metrics)
    assert set(metrics["test/pixels/auroc/mean_unseen"]) == {"value", "low", "high", "n", "undefined"}
    assert metrics["test/pixels/auroc_fitted_on_default/none"]["value"] is None
    # Two seeds: their spread stands beside the row.
    assert "test/pixels/auroc_member_min/pgd" in metrics
    assert "test/max_softmax/auroc_member_min/pgd" not in metrics


def test_run_folder_holds_samples_and_heat_maps(home):
    with (home / "studied/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "group", *ROWS]
    clean = [row for row in rows if row["group"] in ("clean", "clean_misclassified")]
    assert len(clean) == COUNTS["det_test"]
    for name in ("transfer_consistency", "detectors", "roc_pgd"):
        with Image.open(home / f"studied/figures/{name}.png") as picture:
            assert picture.width > 300
    text = (home / "studied/report.md").read_text()
    for word in ("mean unseen", "worst unseen", "right or rejected", "FPR worst benign"):
        assert word in text


def test_stopped_it_goes_on_with_the_same_command(home):
    stopped = json.loads((home / "stopped.json").read_text())
    assert stopped["code"] == 130
    assert stopped["fitted"] == [CELLS // 2, CELLS - CELLS // 2]
    assert not (home / "stopped/report.json").exists()


def test_a_finished_study_is_only_reported(inside, monkeypatch):
    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("verisal.attacks.PGD._perturb", never)
    monkeypatch.setattr("verisal.detectors.ShiftedLogits.__call__", never)
    monkeypatch.setattr(TransferTask, "_fit_and_score", never)
    # What it costs is timed anew, and asks the classifier.
    monkeypatch.setattr(TransferTask, "_timings", lambda self: {})
    assert main(["test", "--config", "studied/config.yaml", "--ckpt_path", "none", "--run_dir", "again"]) == 0
    assert metrics_of("again") == metrics_of("studied")


BAD = {
    "head": ("head: consistency", "head: masks", "head must be one of the detectors"),
    "default": ("    head: consistency", "    default: broad\n    head: consistency", "default is 'broad'"),
    "detector": ("class_path: MaxSoftmax", "class_path: MaxSoftmx", "did you mean 'MaxSoftmax'"),
    "family": ("      - weak\n", "", "without a family: ['weak']"),
    "noise like": ("noise_like: pgd", "noise_like: weak", "must be a fitted attack"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_setting_dies_at_once_with_what_to_do(inside, capsys, bad):
    old, new, words = BAD[bad]
    text = Path(config(inside)).read_text()
    assert old in text
    wrong = inside / f"wrong-{bad.replace(' ', '-')}.yaml"
    wrong.write_text(text.replace(old, new, 1))
    assert main(["test", "--config", str(wrong), "--run_dir", f"wrong-{bad}"]) != 0
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_the_quick_form_runs_as_it_is_shipped_but_with_fewer_images(tmp_path, monkeypatch):
    """All rows, attacks and adaptive attacks of the overlay; without a threshold, which needs 200 images."""
    monkeypatch.chdir(tmp_path)
    few = {"fit_count": 12, "val_count": 6, "test_count": 6, "store": "store"}
    quick = [f"--data.init_args.{name}={value}" for name, value in few.items()]
    configs = [
        part for name in ("transfer", "transfer_quick") for part in ("--config", str(STUDY / f"{name}.yaml"))
    ]
    more = ["--wandb.mode", "disabled", "--trainer.accelerator", "cpu", "--run_dir", "quick"]
    assert main(["test", *configs, *quick, *more]) == 0
    report = report_of("quick")
    overlay = yaml.safe_load((STUDY / "transfer_quick.yaml").read_text())
    rows = overlay["model"]["init_args"]["detectors"]
    for row in rows:
        assert f"test/{row}/auroc/mean_unseen" in report["metrics"]
    assert "FPR 5 % not supported" in " ".join(report["notes"])
