"""Every task and command on two and three processes, on uneven numbers of images, equals one process.

Shares of a batch make other gradients, so that a fit of two processes ends with other weights than one does.
What it logs of its weights, and which epoch it chooses by that, is what one process finds for them.
"""

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from helpers import tiny_detector, tiny_transfer
from helpers.commands import run_module
from helpers.forked import together
from verisal.checkpoint import load_checkpoint
from verisal.cli import main
from verisal.data import EmojiScenes
from verisal.tasks.transfer import TransferTask

pytestmark = pytest.mark.slow

SIZE = tiny_detector.SIZE
PHOTOGRAPHS = 5
# For a configuration of several processes.
ALONE = ["--trainer.devices=1", "--trainer.strategy=auto"]
SCENES = {"image_size": SIZE, "num_workers": 0, "batch_size": 4}
LOCAL = {"accelerator": "cpu", "max_epochs": 3}


def made(name, **settings):
    return {"class_path": name, "init_args": settings}


def callbacks():
    """Those of the benchmark, small; one of them on a part of the images."""
    methods = {"occlusion": made("Occlusion", window=16, stride=16), "gradient": made("Gradient")}
    masks = {
        "masks": made("HierarchicalMasks", objective="evidence", reg_weight=0.5, steps=4, learning_rate=0.25)
    }
    held_out = made("EmojiScenes", split="cls_val", count=6, size=SIZE)
    common = {"methods": methods, "resamples": 20}
    return [
        made("SaliencyMetrics", metrics=[made("EnergyInside"), made("PointingGame")], **common),
        made("SaliencyMetrics", metrics=[made("Smoothness")], max_images=3, **common),
        made("PerturbationCurves", kinds=["deletion"], steps=3, **common),
        made("ClassRanks", ranks=[2], held_out=held_out, drawn=["gradient"], drawn_images=3, **common),
        made("DisturbedLocalization", held_out=held_out, **common),
        made("BaselineNeutrality", baselines=[made("DatasetMean")], resamples=20),
        made("MapAgreement", groups={"both": ["occlusion", "gradient"]}, **common),
        made("GateNoise", methods=masks, resamples=20),
    ]


def configs(folder):
    """Name to model and data."""
    classifier = str(tiny_detector.exported(folder))
    return {
        "classifier": (
            made("ClassifierTask", widths=[4, 8, 8, 8], learning_rate=0.02),
            made("ImageData", **SCENES | {"batch_size": 8}, fit_count=50, val_count=33, test_count=35),
        ),
        "frozen": (
            made("FrozenClassifierTask", classifier=classifier),
            made("ImageData", **SCENES, val_split="det_test", val_count=7),
        ),
        "masker": (
            made(
                "MaskerTask", classifier=classifier, width_ratio=0.25, compare_images=5, optimised_steps=[20],
                refine_steps=[1], resamples=20,
            ),
            # One image a batch: which images stand beside it changes twenty steps of descent by rounding.
            made("ImageData", **SCENES | {"batch_size": 1}, fit_count=6, val_count=11, test_count=7),
        ),
        "place_masker": (
            made(
                "PlaceMaskerTask", classifier=classifier, width=4, compare_images=5, taught_images=7,
                refine_steps=[1], resamples=20,
            ),
            made("ImageData", **SCENES | {"batch_size": 2}, fit_count=12, val_count=9, test_count=4),
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which one process has fitted every task that can be; ``one-NAME`` are the runs."""
    folder = tmp_path_factory.mktemp("equal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (model, data) in configs(folder).items():
            trainer = LOCAL | ({"callbacks": callbacks()} if name == "frozen" else {})
            content = {"model": model, "data": data, "trainer": trainer, "wandb": {"mode": "disabled"}}
            content |= {"seed_everything": 0, "test_after_fit": False}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        for name in ("classifier", "masker"):
            assert main(["fit", "--config", f"{name}.yaml", "--run_dir", f"one-{name}"]) == 0
        assert main(["fit", "--config", tiny_detector.config(folder), "--run_dir", "one-detector"]) == 0
        (folder / "photographs").mkdir()
        for index in range(PHOTOGRAPHS):
            pixels = EmojiScenes("cls_val", PHOTOGRAPHS, size=SIZE)[index].image.mul(255).round().byte()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"photographs/{index}.png")
        yield folder


@pytest.fixture(autouse=True)
def _at_home(home, monkeypatch):
    monkeypatch.chdir(home)


def many(count, args, folder):
    codes, said = together(count, args, folder, timeout=240)
    assert codes == [0] * count, "\n".join(said)


def metrics_of(run):
    """The last value of every logged number."""
    rows = rows_of(run / "metrics.csv")
    return {name: float(row[name]) for row in rows for name in row if "/" in name and row[name]}


def report_of(run, stem):
    path = run / f"{stem}.json"
    return json.loads(path.read_text()) if path.is_file() else {"metrics": {}, "counts": {}}


def rows_of(path):
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def same(found, expected, where):
    """Equal to 1e-6, and not a number where that is expected."""
    if expected is None or found is None:
        assert found == expected, where
    else:
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True), where


def same_rows(found, expected, *, tolerance=1e-5):
    """The same lines in the same order; numbers in them may differ by rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            try:
                number = float(value)
            except ValueError:
                assert one[name] == value
            else:
                assert float(one[name]) == pytest.approx(number, abs=tolerance, nan_ok=True), (name, other)


def assert_equal_runs(run, expected, suffix=""):
    """Logged numbers, report, counts and lines per image."""
    logged, wanted = metrics_of(run), metrics_of(expected)
    assert logged.keys() == wanted.keys()
    for name, value in wanted.items():
        same(logged[name], value, name)
    many_report, one_report = report_of(run, f"report{suffix}"), report_of(expected, f"report{suffix}")
    assert many_report["counts"] == one_report["counts"]
    assert many_report["metrics"].keys() == one_report["metrics"].keys()
    for name, score in one_report["metrics"].items():
        found = many_report["metrics"][name]
        assert (found["n"], found["undefined"]) == (score["n"], score["undefined"]), name
        for end in ("value", "low", "high"):
            same(found[end], score[end], name)
    same_rows(rows_of(run / f"samples{suffix}.csv"), rows_of(expected / f"samples{suffix}.csv"))


def weights(name):
    return (
        ["--ckpt_path=none", "--config=frozen.yaml"]
        if name == "frozen"
        else [f"--config=one-{name}/config.yaml"]
    )


@pytest.mark.parametrize(
    ("name", "stage", "count"),
    [
        ("classifier", "validate", 3),
        ("classifier", "test", 2),
        ("frozen", "validate", 2),
        ("frozen", "test", 3),
        ("masker", "validate", 2),
        ("masker", "test", 3),
        ("detector", "validate", 2),
        ("detector", "test", 3),
    ],
)
def test_shares_give_the_numbers_of_the_whole(home, name, stage, count):
    suffix = ".val" if stage == "validate" else ""
    alone, shared = f"{name}-{stage}-1", f"{name}-{stage}-{count}"
    if not (home / alone).exists():
        assert main([stage, *weights(name), "--run_dir", alone]) == 0
    many(count, [stage, *weights(name), "--run_dir", shared], home)
    assert metrics_of(home / alone) or report_of(home / alone, f"report{suffix}")["metrics"]
    assert_equal_runs(home / shared, home / alone, suffix)


@pytest.mark.parametrize("count", [2, 3, PHOTOGRAPHS + 1])
def test_predictions_are_all_there_in_the_order_of_one_process(home, count):
    command = ["predict", "--config=one-detector/config.yaml", "--data.images=[photographs]", "--run_dir"]
    if not (home / "predict-1").exists():
        assert main([*command, "predict-1"]) == 0
    many(count, [*command, f"predict-{count}"], home)
    expected = rows_of(home / "predict-1" / "predictions.csv")
    assert [Path(row["image_id"]).name for row in expected] == [f"{i}.png" for i in range(PHOTOGRAPHS)]
    same_rows(rows_of(home / f"predict-{count}" / "predictions.csv"), expected)


def epochs_of(run):
    """What was logged of every epoch."""
    told = ("val/loss", "val/masker/objective", "val/masker/unlike")
    return [row for row in rows_of(run / "metrics.csv") if any(row.get(name) for name in told)]


@pytest.mark.parametrize(
    ("name", "count", "best"),
    [
        ("classifier", 3, max),
        ("classifier", 2, max),
        ("masker", 2, min),
        ("place_masker", 2, min),
    ],
)
def test_what_a_fit_logs_and_chooses_is_what_one_process_finds_for_its_weights(home, name, count, best):
    monitor = {
        "classifier": "val/accuracy",
        "masker": "val/masker/objective",
        "place_masker": "val/masker/unlike",
    }[name]
    every = yaml.safe_dump(
        [made("ModelCheckpoint", dirpath=f"every-{name}-{count}", filename="{epoch}", save_top_k=-1)]
    )
    run = f"fit-{name}-{count}"
    many(count, ["fit", f"--config={name}.yaml", f"--run_dir={run}", f"--trainer.callbacks={every}"], home)
    found = []
    for epoch, logged in enumerate(epochs_of(home / run)):
        again = f"{run}-epoch-{epoch}"
        weights = f"--ckpt_path=every-{name}-{count}/epoch={epoch}.ckpt"
        assert main(["validate", f"--config={run}/config.yaml", weights, *ALONE, "--run_dir", again]) == 0
        alone = metrics_of(home / again)
        assert alone
        for key, value in alone.items():
            same(float(logged[key]), value, (epoch, key))
        found.append(alone[monitor])
    assert len(found) == LOCAL["max_epochs"]
    chosen = load_checkpoint(home / run / "checkpoints" / "best.ckpt")["epoch"]
    assert chosen == found.index(best(found))


def test_processes_share_what_the_network_of_places_is_taught_and_learn_together(home):
    runs = {}
    for count in (1, 2):
        runs[count] = f"taught-{count}"
        command = ["fit", "--config=place_masker.yaml", f"--run_dir={runs[count]}"]
        if count == 1:
            assert main(command) == 0
        else:
            many(count, command, home)
    one, two = (load_checkpoint(home / run / "checkpoints/last.ckpt") for run in runs.values())
    names = {
        count: [sum(len(some) for some, _ in part) for part in state["lessons"]]
        for count, state in ((1, one), (2, two))
    }
    # Seven images in all: four of the first process, three of the second.
    assert names == {1: [7], 2: [4, 3]}
    # Twelve images, two a process and step: half as many steps, of all of them together.
    assert (one["global_step"], two["global_step"]) == (18, 9)
    # The average follows the network in training, which has moved away from it.
    kinds = [
        {name.removeprefix(kind): value for name, value in two["state_dict"].items() if name.startswith(kind)}
        for kind in ("learner.", "network.")
    ]
    assert kinds[0].keys() == kinds[1].keys() != set()
    assert any(not value.equal(kinds[1][name]) for name, value in kinds[0].items())
    assert all(bool(value.isfinite().all()) for part in kinds for value in part.values())


def test_the_detector_keeps_networks_and_thresholds_of_one_and_the_same_epoch(home):
    # From an empty store: attacks and masks are made together.
    config = tiny_detector.config(home, store="shared")
    many(2, ["fit", "--config", config, "--run_dir", "fit-detector-2"], home)
    for store in (home / "store").iterdir():
        for shard in store.glob("*.json"):
            assert (home / "shared" / store.name / shard.name).read_bytes() == shard.read_bytes()
    runs = [home / "fit-detector-2", home / "one-detector"]
    found, expected = (report_of(run, "report")["metrics"] for run in runs)
    assert found.keys() == expected.keys()
    tested, alone = (
        [(row["image_id"], row["group"]) for row in rows_of(run / "samples.csv")] for run in runs
    )
    assert tested == alone
    assert len(tested) % 2 == 1
    command = ["validate", "--config=fit-detector-2/config.yaml", "--run_dir=fit-detector-2-alone"]
    assert main([*command, *ALONE]) == 0
    scores = report_of(home / "fit-detector-2-alone", "report.val")["metrics"]
    rows = ("masks_activations", "masks", "activations", "gradient", "raw_image")
    logged = metrics_of(home / "fit-detector-2")
    for row in rows:
        name = f"val/{row}/auroc/pgd"
        assert scores[name]["value"] == pytest.approx(logged[name], abs=1e-6)
        # Thresholds were found on these very scores, at a rate of false alarms of 5 %.
        assert scores[f"val/{row}/fpr/clean"]["value"] <= 0.05


@pytest.fixture
def tested(home):
    """The test of the detector on one process."""
    run = home / "detector-test-1"
    if not run.exists():
        assert main(["test", *weights("detector"), "--run_dir", run.name]) == 0
    return run


def test_processes_that_were_started_by_hand_share_a_new_run(home, tested):
    many(2, ["test", "--config=one-detector/config.yaml"], home)
    # The first process made a folder, and the other one works in it.
    (run,) = (path for path in (home / "runs/detector").iterdir() if not path.is_symlink())
    assert_equal_runs(run, tested)


def test_a_single_command_starts_the_other_process_itself(home, tested):
    command = ["test", "--config=one-detector/config.yaml", "--run_dir=launched"]
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = run_module(["verisal", *command, *ddp], home)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(home / "launched", tested)


@pytest.mark.parametrize("count", [2, 3])
def test_a_study_from_nothing_is_that_of_one_process(home, count):
    if not (home / "study-1").exists():
        assert (
            main(["test", "--config", tiny_transfer.config(home, store="alone"), "--run_dir", "study-1"]) == 0
        )
    store = f"study-store-{count}"
    many(
        count, ["test", "--config", tiny_transfer.config(home, store=store), f"--run_dir=study-{count}"], home
    )
    assert_equal_runs(home / f"study-{count}", home / "study-1")
    cells = [path.name for path in (home / store).iterdir() if path.name.startswith("scores-")]
    assert len(cells) == tiny_transfer.CELLS
    assert sorted(cells) == sorted(p.name for p in (home / "alone").iterdir() if p.name.startswith("scores-"))
    assert TransferTask.task_name == "transfer"
