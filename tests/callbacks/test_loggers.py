"""What a stranger's loggers hold after a fit and a test: read back from the files of each."""

import csv
import io
import json
import math
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import wandb_files
from helpers.strangers import Stranger, loader, trainer
from verisal.callbacks import ReportRun, SaliencyMetrics, SaliencyPanels
from verisal.metrics import EnergyInside, PerturbationCurve
from verisal.reporting.facts import installed_versions
from verisal.saliency import GradCAM, Gradient

METHODS = {"Grad-CAM": GradCAM(), "gradient": Gradient()}
ROWS = ["Grad-CAM", "gradient", "random", "centre"]
CURVE = "insertion[blur5]_steps2"
MONITORED = "val/grad_cam/insertion"
SETTINGS = {
    "verisal/saliency_metrics/methods/grad_cam": "GradCAM(stage=None)",
    "verisal/saliency_metrics/metrics/insertion": f"{CURVE}, seed 0",
    "verisal/saliency_metrics/max_images": 8,
    "verisal/saliency_metrics/resamples": 10,
    "verisal/saliency_panels/max_images": 2,
}


class Own(Stranger):
    """With hyperparameters of its own."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 6})


def callbacks():
    metrics = [PerturbationCurve("insertion", steps=2), EnergyInside()]
    return [
        SaliencyMetrics(METHODS, metrics, max_images=8, resamples=10),
        SaliencyPanels(METHODS, max_images=2, class_names=["ant", "bee", "cat", "dog"]),
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two epochs and a test with four loggers, from a folder in which nobody writes."""
    root, elsewhere = tmp_path_factory.mktemp("stored"), tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("WANDB_MODE", "offline")  # Lightning's logger changes it, here for these tests alone.
        weights_and_biases = WandbLogger(project="p", save_dir=root, offline=True)
        loggers = [
            weights_and_biases,
            TensorBoardLogger(root, name="tensorboard"),
            MLFlowLogger(save_dir=str(root / "mlruns")),
            CSVLogger(root, name="csv"),
        ]
        metrics, panels = callbacks()
        module = Own()
        run = trainer(metrics, panels, logger=loggers, max_epochs=2)
        run.fit(module, loader(), loader())
        fitted = metrics.evaluation
        run.test(module, loader(), verbose=False)
        weights_and_biases.experiment.finish()
        yield SimpleNamespace(
            root=root, loggers=loggers, metrics=metrics, fitted=fitted, elsewhere=list(elsewhere.iterdir())
        )


@pytest.fixture(scope="module")
def tensorboard(stored):
    events = EventAccumulator(stored.loggers[1].log_dir, size_guidance={"images": 0, "tensors": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def history(stored):
    return wandb_files.history(stored.root)


@pytest.fixture(scope="module")
def mlflow(stored):
    logger = stored.loggers[2]
    client, run = logger.experiment, logger.experiment.get_run(logger.run_id)
    folder = stored.root / "mlruns" / logger.experiment_id / logger.run_id / "artifacts"
    return SimpleNamespace(client=client, run=run, artifacts=folder)


def images_of(mlflow, start):
    return sorted((mlflow.artifacts / "images").glob(f"{start}*.png"))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_nothing_is_strewn_into_the_current_folder(stored):
    assert stored.elsewhere == []


def test_every_logger_has_every_listed_number_of_both_epochs(stored, history, tensorboard, mlflow):
    listed = stored.metrics.names("val")
    by_logger = {
        "wandb": {name: [row[name] for row in history if name in row] for name in listed},
        "tensorboard": {name: [event.value for event in tensorboard.Scalars(name)] for name in listed},
        "mlflow": {
            name: [one.value for one in mlflow.client.get_metric_history(mlflow.run.info.run_id, name)]
            for name in listed
        },
        "csv": {
            name: [
                float(row[name]) for row in rows_of(stored.root / "csv/version_0/metrics.csv") if row[name]
            ]
            for name in listed
        },
    }
    values = by_logger["csv"]
    assert all(len(of_name) == 2 for of_name in values.values())
    assert values[MONITORED][1] == pytest.approx(
        stored.fitted.scores[f"val/Grad-CAM/{CURVE}/auc"].value, abs=1e-6
    )
    assert all(math.isnan(value) for value in values["val/gradient/energy_inside"])
    for found in by_logger.values():
        for name in listed:
            assert list(map(float, found[name])) == pytest.approx(values[name], abs=1e-6, nan_ok=True)


def test_curves_are_native_at_wandb_points_in_csv_and_figures_elsewhere(stored, history, tensorboard, mlflow):
    line = next(curve for curve in stored.fitted.curves if curve.label == "Grad-CAM")
    (last, tested) = [
        next(row for row in reversed(history) if f"curves/{name}_table/path" in row)
        for name in ("insertion_blur5_steps2", "test_insertion_blur5_steps2")
    ]
    assert (last["trainer/global_step"], last["epoch"]) == (5, 1)
    assert (tested["trainer/global_step"], tested["epoch"]) == (6, 2)
    path = last["curves/insertion_blur5_steps2_table/path"]
    (table,) = stored.root.glob(f"wandb/offline-run-*/files/{path}")
    points = [point for point in json.loads(table.read_text())["data"] if point[1] == "Grad-CAM"]
    assert points == [[x, "Grad-CAM", y] for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True)]
    written = [
        float(row["y"])
        for row in rows_of(stored.root / "csv/version_0/curves.csv")
        if (row["epoch"], row["figure"], row["label"]) == ("1", CURVE, "Grad-CAM")
    ]
    assert written == line.y.tolist()
    name = "curves/insertion_blur5_steps2"
    # Beside the numbers of the same epoch.
    scalars = [event.step for event in tensorboard.Scalars(MONITORED)]
    assert [event.step for event in tensorboard.Images(name)] == scalars == [2, 5]
    assert len(tensorboard.Images("curves/test_insertion_blur5_steps2")) == 1
    figures = images_of(mlflow, "curves")
    assert len(figures) == 3
    figures.append(stored.root / f"csv/version_0/{name}.png")
    first = tensorboard.Images(name)[0]
    assert {pixels_of(figure).shape for figure in figures} == {(first.height, first.width, 3)}


def test_pictures_of_maps_arrive_everywhere(stored, history, tensorboard, mlflow):
    shown = [row for row in history if "panels/saliency/captions" in row]
    assert len(shown) == 2
    assert shown[1]["panels/saliency/count"] == 2
    assert "epoch 1, step 5: " in shown[1]["panels/saliency/captions"][0]
    words = r"labelled (ant|bee|cat|dog), predicted and explained (ant|bee|cat|dog)"
    assert re.search(words, shown[1]["panels/saliency/captions"][0])
    assert len(list(stored.root.glob("wandb/offline-run-*/files/media/images/panels/*saliency*.png"))) == 6
    for number in (0, 1):
        assert [event.step for event in tensorboard.Images(f"panels/saliency_{number}")] == [2, 5]
        assert (stored.root / f"csv/version_0/panels/step_000005/saliency_{number}.png").is_file()
    assert len(images_of(mlflow, "panels~saliency")) == 4
    assert len(images_of(mlflow, "panels~test_saliency")) == 2
    # Image and four maps over it, the maps alone below: not one colour.
    picture = pixels_of(images_of(mlflow, "panels~saliency_0")[0])
    assert picture.shape[1] > 2 * picture.shape[0]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_tables_of_a_test_arrive_everywhere(stored, history, tensorboard, mlflow):
    (row,) = [row for row in history if "tables/test_main/path" in row]
    (table,) = stored.root.glob(f"wandb/offline-run-*/files/{row['tables/test_main/path']}")
    assert [cells[0] for cells in json.loads(table.read_text())["data"]] == ROWS
    (event,) = tensorboard.Tensors("tables/test_main/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ROWS
    for folder in (mlflow.artifacts, stored.root / "csv/version_0"):
        assert [row[""] for row in rows_of(folder / "tables/test_main.csv")] == ROWS
        results = rows_of(folder / "tables/test_results.csv")
        assert "test/grad_cam/insertion" in [row["logged_as"] for row in results]


def test_settings_stand_beside_the_modules_own_hyperparameters(stored, tensorboard, mlflow):
    expected = {**SETTINGS, "width": 6}
    config = wandb_files.config(stored.root)
    assert {name: config[name] for name in expected} == expected
    assert {name: mlflow.run.data.params[name] for name in expected} == {
        name: str(value) for name, value in expected.items()
    }
    for folder in (stored.loggers[1].log_dir, stored.loggers[3].log_dir):
        with open(os.path.join(folder, "hparams.yaml")) as file:
            written = yaml.safe_load(file)
        assert {name: written[name] for name in expected} == expected
    text = tensorboard.Tensors("verisal/settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| verisal/saliency_metrics/resamples | 10 |" in text.splitlines()


class Bare(Logger):
    """Takes numbers, and has no folder."""

    name, version = "bare", 3

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class Failing(Bare):
    name = "failing"

    def log_hyperparams(self, params, *args, **kwargs):
        raise ConnectionError("the server went away")

    @property
    def experiment(self):
        return SimpleNamespace(add_image=self.log_hyperparams, add_text=self.log_hyperparams)


def fitted(*added, **settings):
    metrics, panels = callbacks()
    run = trainer(metrics, panels, *added, **settings)
    run.fit(Stranger(), loader(), loader())
    return run


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_logger_of_numbers_without_a_folder_gets_files_where_the_trainer_writes(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        fitted(logger=Bare(), default_root_dir=tmp_path / "own", max_epochs=2)
    assert files_of(tmp_path) == [
        f"own/verisal/bare/version_3/{name}"
        for name in (
            "curves.csv",
            "curves/insertion_blur5_steps2.png",
            *(
                f"panels/step_{step}/saliency_{number}.png"
                for step in ("000002", "000005")
                for number in (0, 1)
            ),
        )
    ]
    (said,) = [record.message for record in caplog.records if "numbers alone" in record.message]
    assert said.endswith(f"files in {tmp_path}/own/verisal/bare/version_3")


def test_a_logger_that_fails_is_said_once_and_stops_neither_the_run_nor_the_others(tmp_path):
    kept = CSVLogger(tmp_path, name="kept")
    with pytest.warns(UserWarning, match="Failing failed") as warned:
        run = fitted(logger=[Failing(), kept], default_root_dir=tmp_path, max_epochs=2)
    run.test(Stranger(), loader(), verbose=False)  # a second warning would be an error
    said = [str(one.message) for one in warned if "Failing failed" in str(one.message)]
    assert said == [
        "Failing failed (ConnectionError: the server went away); the run goes on without what was to be"
        " published there. Further failures are counted, not printed."
    ]
    assert run.callbacks[0].run.publisher.failures == {"Failing": 5}
    assert (tmp_path / "kept/version_0/panels/step_000005/saliency_1.png").is_file()
    assert (tmp_path / "kept/version_0/tables/test_main.csv").is_file()


def test_without_a_logger_one_sentence_says_where_curves_and_pictures_are(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        fitted(logger=False, max_epochs=2)
    assert len([record for record in caplog.records if "no logger for the curves" in record.message]) == 1
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("kind", ["wandb", "none"])
def test_a_report_without_a_folder_goes_where_lightning_keeps_the_checkpoints(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = {
        "wandb": lambda: WandbLogger(project="p", save_dir=tmp_path, offline=True, id="r1"),
        "none": lambda: False,
    }[kind]()
    report = ReportRun()
    metrics, panels = callbacks()
    run = Trainer(
        callbacks=[report, metrics, panels],
        logger=logger,
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(Stranger(), loader(), loader())
    run.test(Stranger(), loader(), verbose=False)
    if kind == "wandb":
        logger.experiment.finish()
    assert report.folder == type(report.folder)(run.checkpoint_callback.dirpath).parent
    content = json.loads((report.folder / "report.json").read_text())
    assert f"test/Grad-CAM/{CURVE}/auc" in content["metrics"]
    assert content["versions"] == installed_versions()
    assert (report.folder / "figures/panel_saliency_1.png").is_file()


def test_a_report_publishes_once_for_all(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fitted(ReportRun(), logger=logger, default_root_dir=tmp_path)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert {name: len(events.Images(name)) for name in events.Tags()["images"]} == {
        "curves/insertion_blur5_steps2": 1,
        "panels/saliency_0": 1,
        "panels/saliency_1": 1,
    }
