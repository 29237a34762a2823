"""The detector from end to end, in-process, on scenes that a tiny classifier knows by heart."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.listed_names import unlisted
from helpers.normalizations import CENTRED
from helpers.tiny_detector import COUNTS, config, exported, memorised
from verisal.checkpoint import load_checkpoint, save_checkpoint
from verisal.cli import main
from verisal.models import Classifier, export_classifier
from verisal.tasks import DetectorTask

# The run of the fixture draws all figures; the commands of the tests are run for their numbers.
pytestmark = pytest.mark.usefixtures("without_figures")

ROWS = ("masks_activations", "masks", "activations", "gradient", "raw_image", "max_softmax")


def metrics_of(run, name="report.json"):
    return json.loads((Path(run) / name).read_text())["metrics"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder with the tiny classifier, its store, and one fitted run: ``fitted``."""
    folder = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with redirect_stdout(StringIO()) as said:
            assert main(["fit", "--config", config(folder), "--run_dir", "fitted"]) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder


@pytest.fixture
def inside(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def failed(args, capsys, code):
    """What a command that cannot work says, which is no traceback."""
    capsys.readouterr()
    assert main(args) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    said = error[error.index("verisal: error: ") :]
    assert said.count("verisal: ") == 1
    return said


@pytest.mark.slow
def test_report_names_every_row_attack_and_group(home):
    metrics = metrics_of(home / "fitted")
    for row in ROWS:
        for attack in ("pgd", "fgsm"):
            for metric in ("auroc", "fpr_at_tpr95", "tpr_at_fpr5", "tpr_at_fpr1"):
                assert f"test/{row}/{metric}/{attack}" in metrics
            assert f"test/{row}/alarm_rate/{attack}_failed" in metrics
        for group in ("clean", "clean_misclassified", "noise_linf", "noise_l2"):
            assert f"test/{row}/fpr/{group}" in metrics
    for row in ROWS[:-1]:
        assert f"test/{row}/auroc_member_min/pgd" in metrics
    assert set(metrics["test/masks/auroc/pgd"]) == {"value", "low", "high", "n", "undefined"}
    auroc = metrics["test/max_softmax/auroc/pgd"]
    assert 0 <= auroc["low"] <= auroc["value"] <= auroc["high"] <= 1
    # FPR 1 % asks for 1000 validation images.
    assert metrics["test/masks/tpr_at_fpr1/pgd"]["value"] is None
    assert metrics["test/masks/tpr_at_fpr5/pgd"]["n"] == auroc["n"] > 20


def test_run_folder_holds_table_samples_figures_and_checkpoints(home):
    names = {
        str(path.relative_to(home / "fitted")) for path in (home / "fitted").rglob("*") if path.is_file()
    }
    assert names >= {
        "report.html",
        "report.md",
        "samples.csv",
        "figures/roc_pgd.png",
        "figures/roc_fgsm.png",
        "figures/scores_masks.png",
        "figures/panel_pgd_0.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    with (home / "fitted/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "group", *ROWS]
    clean = [row for row in rows if row["group"] in ("clean", "clean_misclassified")]
    assert sorted(row["image_id"] for row in clean) == sorted(
        f"emoji-0-det_test-{index}" for index in range(COUNTS["det_test"])
    )


@pytest.mark.slow
def test_test_in_a_new_run_gives_the_same_metrics(inside):
    best = "fitted/checkpoints/best.ckpt"
    assert main(["test", "--config", config(inside), "--ckpt_path", best, "--run_dir", "tested"]) == 0
    assert metrics_of("tested") == metrics_of("fitted")
    assert main(["test", "--config", "fitted/config.yaml", "--run_dir", "tested again"]) == 0
    assert metrics_of("tested again") == metrics_of("fitted")


@pytest.mark.slow
def test_a_second_fit_from_nothing_gives_the_same_metrics_bit_by_bit(inside):
    assert main(["fit", "--config", config(inside, store="other"), "--run_dir", "second"]) == 0
    assert metrics_of("second") == metrics_of("fitted")
    first, second = (
        load_checkpoint(f"{run}/checkpoints/best.ckpt")["state_dict"] for run in ("fitted", "second")
    )
    assert all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.slow
def test_a_second_run_finds_the_store(inside, monkeypatch):
    def never(self, classifier, images):
        raise AssertionError("features are computed again")

    monkeypatch.setattr("verisal.detectors.features.DetectorFeatures.__call__", never)
    monkeypatch.setattr("verisal.attacks.PGD._perturb", never)
    # What a row costs is timed anew, and asks the classifier.
    monkeypatch.setattr("verisal.tasks.detector.costs_of", lambda *_: {})
    assert main(["fit", "--config", config(inside), "--run_dir", "quick", "--trainer.max_epochs=1"]) == 0
    assert set(metrics_of("quick")) == set(metrics_of("fitted"))


@pytest.mark.slow
def test_validate_reports_the_kept_networks_on_the_fitted_attacks(inside):
    assert main(["validate", "--config", "fitted/config.yaml", "--run_dir", "validated"]) == 0
    metrics = metrics_of("validated", "report.val.json")
    with Path("fitted/metrics.csv").open() as file:
        logged = [line for line in csv.DictReader(file) if line.get("val/masks/auroc/pgd")][-1]
    assert unlisted(logged) == []
    for row in ROWS:
        value = metrics[f"val/{row}/auroc/pgd"]["value"]
        assert value == pytest.approx(float(logged[f"val/{row}/auroc/pgd"]), abs=1e-5)
        # The thresholds are those of these very images.
        alarms = metrics[f"val/{row}/fpr/clean"]
        assert alarms["value"] * alarms["n"] == pytest.approx(int(0.05 * alarms["n"]))
    assert not any("/fgsm" in name for name in metrics)


def test_predict_scores_pictures_of_any_size(inside):
    folder = inside / "pictures"
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for name, (width, height) in {"a.png": (32, 32), "b.png": (45, 17), "c.png": (3, 90)}.items():
        pixels = (torch.rand(height, width, 3, generator=rng) * 255).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    more = [f"--data.images=['{folder}']", "--run_dir", "predicted"]
    assert main(["predict", "--config", "fitted/config.yaml", *more]) == 0
    with Path("predicted/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("image_id", "prediction", "probability", "alarm", "threshold/masks_activations"),
        *(f"score/{row}" for row in ROWS),
    ]
    assert [Path(row["image_id"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    for row in rows:
        assert row["prediction"] in memorised().class_names
        score, threshold = float(row["score/masks_activations"]), float(row["threshold/masks_activations"])
        assert row["alarm"] == str(score > threshold)
        # The score of max-softmax is minus the log odds of the probability beside it.
        odds = torch.tensor(-float(row["score/max_softmax"]), dtype=torch.float64)
        assert float(row["probability"]) == pytest.approx(float(odds.sigmoid()), abs=1e-5)


@pytest.mark.slow
def test_what_fit_and_export_print_works_when_it_is_pasted(inside, capsys):
    test, predict = (
        shlex.split(line) for line in re.findall(r": +(verisal .*)", Path("said.txt").read_text())
    )
    assert test == ["verisal", "test", "--config", "fitted/config.yaml"]
    assert main([*test[1:], "--print_config"]) == 0
    assert main([*predict[1:], "--run_dir", "pasted"]) == 0
    said = capsys.readouterr().out
    (row,) = csv.DictReader(Path("pasted/predictions.csv").read_text().splitlines())
    verdict = {"True": "ALARM: looks adversarial", "False": "no alarm"}[row["alarm"]]
    line = f"{row['image_id']}: {row['prediction']} {float(row['probability']):.2f}, {verdict}"
    assert row["image_id"].endswith("example.png")
    assert line in said.splitlines()
    assert main(["export", "fitted", "--output", "pasted export"]) == 0
    (again,) = re.findall(r": +(verisal .*)", capsys.readouterr().out)
    assert main([*shlex.split(again)[1:], "--print_config"]) == 0


def test_explain_takes_the_network_of_the_detector(inside, capsys):
    words = ["explain", "fitted/example.png", "--saliency=EdgeDetector", "--output", "explained"]
    assert main([*words, "--detector", "fitted"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^classifier: .*\.safetensors, for which the detector was trained$", said, re.MULTILINE)
    assert re.search(r"example\.png: \S.* \d\.\d\d, (no alarm|ALARM: looks adversarial), score ", said)
    assert "doubt" not in said
    # The file of an export does not say, and no shipped network has these weights.
    assert main(["export", "fitted", "--output", "without run"]) == 0
    assert main([*words, "--detector", "without run"]) == 2
    assert (
        "does not say which network it was trained beside; give it with --classifier"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_predict_without_pictures_says_what_to_add(inside, capsys):
    for given, code, words in (
        ([], 2, "predict needs images: add --data.images="),
        (["--data.images=['gone.png']"], 1, "gone.png does not exist"),
    ):
        line = failed(
            ["predict", "--config", "fitted/config.yaml", "--run_dir", "none", *given], capsys, code
        )
        assert words in line


def test_a_checkpoint_of_another_classifier_is_refused(inside, capsys):
    other = config(inside, store="other-classifier", classifier=exported(inside, seed=1))
    args = ["test", "--config", other, "--ckpt_path", "fitted/checkpoints/best.ckpt", "--run_dir", "no"]
    line = failed(args, capsys, 1)
    # Nothing but the weights of the classifier differs.
    assert [row.split(":")[0].strip() for row in line.splitlines() if "checkpoint has" in row] == [
        "classifier"
    ]
    assert "fitted/checkpoints/best.ckpt was made for something else" in line
    # Told before any image is attacked.
    assert not Path("no").exists()
    assert not Path("other-classifier").exists()


def test_a_finished_detector_goes_on_for_more_epochs(inside):
    shutil.copytree("fitted", "longer")
    more = ["--run_dir=longer", "--resume=auto", "--trainer.max_epochs=3", "--test_after_fit=false"]
    before = load_checkpoint("longer/checkpoints/last.ckpt")
    assert main(["fit", "--config=longer/config.yaml", *more]) == 0
    after = load_checkpoint("longer/checkpoints/last.ckpt")
    assert (before["epoch"], after["epoch"]) == (2, 3)
    assert after["lr_schedulers"] == [{"last_epoch": before["global_step"] // 2 * 3}]
    assert set(after["state_dict"]) == set(before["state_dict"])


def test_a_checkpoint_of_another_class_count_is_refused(inside, capsys):
    checkpoint = dict(load_checkpoint("fitted/checkpoints/best.ckpt"))
    card = dict(checkpoint["verisal_card"])
    card["class_names"] = card["class_names"][:-1]
    save_checkpoint(checkpoint | {"verisal_card": card}, inside / "fewer.ckpt")
    args = ["test", "--config", "fitted/config.yaml", "--ckpt_path", "fewer.ckpt", "--run_dir", "no"]
    line = failed(args, capsys, 1)
    assert [row.split(":")[0].strip() for row in line.splitlines() if "checkpoint has" in row] == [
        "class_names"
    ]
    assert "fewer.ckpt was made for something else" in line


def test_a_classifier_of_other_classes_is_refused(inside, capsys):
    network = memorised().network
    other = Classifier(
        network,
        network.stage_names,
        class_names=[f"class {n}" for n in range(24)],
        image_size=32,
        normalization=CENTRED,
    )
    export_classifier(inside / "strange.safetensors", other, origin={})
    strange = config(inside, store="strange", classifier=inside / "strange.safetensors")
    assert "the images are of" in failed(["fit", "--config", strange, "--run_dir", "no"], capsys, 2)


BAD = {
    "attack": (
        "class_path: PGD",
        "class_path: PDG",
        ("'PDG'", "did you mean 'PGD'", "FGSM", "CarliniWagnerL2"),
    ),
    "attack setting": ("steps: 4}}\n      fgsm", "stepz: 4}}\n      fgsm", ("stepz", "steps")),
    "saliency": (
        "verisal.saliency.HierarchicalMasks",
        "HierarchicMasks",
        ("HierarchicMasks", "HierarchicalMasks"),
    ),
    "detector": ("class_path: MaxSoftmax", "class_path: MaxSoftmx", ("did you mean 'MaxSoftmax'",)),
    "head": ("head: masks_activations", "head: confidence", ("head",)),
    "attack value": ("eps: 0.0157", "eps: 4", ("eps", "found 4")),
    "classifier": ("classifier: ", "classifier: tiny # ", ("unknown classifier 'tiny'", "emoji_scenes_64")),
    "noise": ("    noise_like: pgd", "    noise_like: cw", ("must be a fitted attack", "pgd", "'cw'")),
    "test noise": (
        "    noise_like: pgd",
        "    noise_like: pgd\n    test_noise_like: cw",
        ("noise_like is 'cw'", "fgsm", "pgd"),
    ),
    "rows twice": ("      activations:", "      masks:", ("masks",)),
}


@pytest.mark.parametrize("bad", BAD)
def test_misspelt_settings_die_at_once_with_the_known_ones(inside, capsys, bad):
    old, new, words = BAD[bad]
    text = Path(config(inside)).read_text()
    assert old in text
    wrong = inside / f"{bad.replace(' ', '_')}.yaml"
    wrong.write_text(text.replace(old, new))
    line = failed(["fit", "--config", str(wrong), "--run_dir", "never"], capsys, 2)
    assert all(word in line for word in words), line
    assert "ImageData" not in line
    assert not Path("never").exists()


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.slow
def test_a_fit_that_was_stopped_goes_on_to_the_same_result(inside, monkeypatch, capsys, epoch):
    fit, step = (
        ["fit", "--config", config(inside), "--run_dir", f"resumed {epoch}"],
        DetectorTask.training_step,
    )

    def stops(self, batch, batch_idx):
        if self.current_epoch == epoch and batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DetectorTask, "training_step", stops)
        assert main(fit) == 130
    assert "--resume auto" in capsys.readouterr().err
    assert load_checkpoint(f"resumed {epoch}/checkpoints/last.ckpt")["epoch"] == epoch
    assert main([*fit, "--resume", "auto"]) == 0
    assert metrics_of(f"resumed {epoch}") == metrics_of("fitted")


@pytest.mark.fault
@pytest.mark.slow
def test_a_new_process_gives_the_same_metrics(inside):
    done = subprocess.run(
        [sys.executable, "-m", "verisal", "test", "--config", "fitted/config.yaml", "--run_dir", "apart"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    apart, here = metrics_of("apart"), metrics_of("fitted")
    assert apart.keys() == here.keys()
    for name, score in here.items():
        assert apart[name]["n"] == score["n"]
        for end in ("value", "low", "high"):
            assert apart[name][end] == pytest.approx(score[end], abs=1e-6), name
