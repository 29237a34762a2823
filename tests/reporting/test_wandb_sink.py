import json
import urllib.error

import numpy as np
import pytest
import torch
import wandb

from helpers import wandb_files
from verisal.errors import ConfigError
from verisal.reporting import Picture, Publication, Table, WandbSettings, WandbSink, wandb_mode
from verisal.reporting.wandb_layout import RunCard
from verisal.reporting.wandb_sink import wandb_logger
from verisal.results import Curve


def curve(label, y):
    return Curve("roc_a", label, torch.tensor([0.0, 1.0]), torch.tensor(y), "FPR", "TPR")


def publication():
    return Publication(
        {"roc_a": (curve("masks", [0.5, 1.0]), curve("gradient", [0.25, 1.0]))},
        {"cw": (Picture(np.zeros((4, 5, 3), dtype=np.uint8), "one image"),)},
        {"results": Table(("row", "value"), (("masks", 0.75),))},
    )


def opened(run_dir, run_id="r1", *, resuming=False):
    return wandb_logger(run_dir, WandbSettings(), config={"lr": 0.5}, run_id=run_id, resuming=resuming)


CARD = RunCard(
    name="digits \x1b[2Jrun",
    group="digits",
    job_type="fit",
    tags=("classifier",),
    notes="verisal fit --config digits",
    first={"val/accuracy": "max", "val/masks/auroc": "max"},
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Folder of a fit with two epochs, a test, artifacts, and an end by NaN."""
    folder = tmp_path_factory.mktemp("told")
    weights = folder / "best.ckpt"
    weights.write_bytes(b"weights")
    (folder / "store").mkdir()
    (folder / "store" / "store.json").write_text("{}")
    settings = WandbSettings(mode="offline", tags=("mine",), charts=("val/row_30/auroc",))
    config = {"classes": ["a\x1b[31mb"]}
    logger = wandb_logger(folder, settings, config=config, run_id="r1", resuming=False, card=CARD)
    rows = {f"val/row_{number}/auroc": number / 100 for number in range(40)}
    for epoch, accuracy in enumerate((0.5, 0.75, 0.25)):
        values = rows | {"val/masks/auroc": 0.5, "val/accuracy": accuracy, "epoch": epoch}
        logger.log_metrics(values, step=10 * epoch)
        logger.log_metrics({"train/loss": torch.tensor(1.0 - accuracy), "epoch": epoch}, step=10 * epoch)
    logger.log_metrics({"test/accuracy": torch.tensor(0.625), "test/masks/auroc": 0.875, "epoch": 2}, step=20)
    logger.keep_checkpoint(
        weights, name="x-r1", aliases=["best", "epoch-1"], facts={"epoch": 1}, upload=False
    )
    logger.use_features({"images-abc": str(folder / "store"), "far": "s3://bucket/far"})
    logger.alert("ended", "loss is nan\x07")
    logger.close(exit_code=1)
    assert logger.failures == 0
    return folder


def test_what_is_measured_once_is_in_the_summary_alone(told):
    rows, summary = wandb_files.history(told), wandb_files.summary(told)
    assert not [name for row in rows for name in row if name.startswith("test/")]
    assert (summary["test/accuracy"], summary["test/masks/auroc"]) == (0.625, 0.875)


def test_the_section_that_comes_first_has_the_figures_that_matter_and_their_best_values(told):
    rows, summary = wandb_files.history(told), wandb_files.summary(told)
    accuracies = [row["core/val_accuracy"] for row in rows if "core/val_accuracy" in row]
    assert accuracies == [0.5, 0.75, 0.25]
    assert summary["core/val_accuracy"] == {"max": 0.75}
    defined = {metric.name or metric.glob_name: metric for metric in wandb_files.of_kind(told, "metric")}
    assert defined["core/val_masks_auroc"].step_metric == "trainer/global_step"
    assert defined["epoch"].options.hidden
    assert defined["trainer/global_step"].options.hidden


def test_few_values_are_charts_and_all_others_in_the_summary(told):
    names = {name for row in wandb_files.history(told) for name in row if name.startswith("val/")}
    assert {"val/accuracy", "val/masks/auroc", "val/row_30/auroc"} <= names
    assert len(names) == 1 + 9 + 1
    left = {f"val/row_{number}/auroc" for number in range(40)} - names
    assert left <= wandb_files.summary(told).keys()
    assert all("trainer/global_step" in row and "epoch" in row for row in wandb_files.history(told))


def test_a_run_says_what_it_is_without_what_moves_a_cursor(told):
    (run,) = wandb_files.of_kind(told, "run")
    assert run.display_name == r"digits \x1b[2Jrun"
    assert (run.run_group, run.job_type, run.notes) == ("digits", "fit", "verisal fit --config digits")
    assert sorted(run.tags) == ["classifier", "mine"]
    assert wandb_files.config(told)["classes"] == [r"a\x1b[31mb"]


def test_a_failed_run_is_one_there_and_an_alert_is_sent(told):
    (alert,) = wandb_files.of_kind(told, "alert")
    assert (alert.title, alert.text, alert.level) == ("ended", r"loss is nan\x07", "ERROR")
    assert [end.exit_code for end in wandb_files.of_kind(told, "exit")] == [1]


def test_the_best_checkpoint_and_the_features_are_known_by_their_places(told):
    model, features = wandb_files.of_kind(told, "artifact")
    assert (model.type, model.name, sorted(model.aliases)) == ("model", "x-r1", ["best", "epoch-1", "latest"])
    (file,) = model.manifest.contents
    assert (file.path, file.ref) == ("best.ckpt", (told / "best.ckpt").as_uri())
    assert file.digest
    assert not file.local_path
    assert (features.type, features.name) == ("features", "digits-features")
    (shard,) = features.manifest.contents
    assert (shard.path, shard.ref) == ("images-abc/store.json", f"{(told / 'store').as_uri()}/store.json")
    assert not shard.local_path
    assert json.loads(features.metadata) == {"images-abc": str(told / "store"), "far": "s3://bucket/far"}


def test_settings_go_before_what_is_found_and_an_evaluation_has_no_charts(tmp_path):
    settings = WandbSettings(name="mine", group="others", job_type="sweep", notes="a", mode="offline")
    logger = wandb_logger(tmp_path, settings, config={}, run_id="r", resuming=False, card=CARD, fitting=False)
    logger.log_metrics({"val/accuracy": 0.5, "epoch": 0}, step=0)
    logger.close()
    (run,) = wandb_files.of_kind(tmp_path, "run")
    assert (run.display_name, run.run_group, run.job_type, run.notes) == ("mine", "others", "sweep", "a")
    assert wandb_files.history(tmp_path) == []
    assert wandb_files.summary(tmp_path)["val/accuracy"] == 0.5


class BrokenRun:
    id = "broken"

    def log(self, entries):
        raise ConnectionError("the server went away")

    def finish(self, exit_code):
        raise TimeoutError("no answer")


def test_an_offline_run_holds_what_was_logged(tmp_path, capsys):
    logger = opened(tmp_path / "run")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert (
        f"offline (WANDB_MODE=offline); upload later with: wandb sync {tmp_path}/run/wandb/offline-run-*-r1"
        in line
    )
    logger.log_metrics({"val/auroc": 0.75}, step=3)
    logger.publish(publication(), step=3, epoch=1)
    logger.close()
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""
    scalars, published = wandb_files.history(tmp_path / "run")
    assert (scalars["val/auroc"], scalars["trainer/global_step"]) == (0.75, 3)
    assert (published["trainer/global_step"], published["epoch"]) == (3, 1)
    assert published["panels/cw/captions"] == ["epoch 1, step 3: one image"]
    assert published["tables/results/nrows"] == 1
    table = next((tmp_path / "run").glob(f"wandb/offline-run-*/files/{published['curves/roc_a_table/path']}"))
    assert sorted(json.loads(table.read_text())["data"]) == sorted(
        [[0.0, "masks", 0.5], [1.0, "masks", 1.0], [0.0, "gradient", 0.25], [1.0, "gradient", 1.0]]
    )
    assert wandb_files.config(tmp_path / "run")["lr"] == 0.5
    assert logger.failures == 0


def test_two_runs_in_a_row_in_one_folder_keep_apart(tmp_path, capsys):
    first = opened(tmp_path, "first")
    first.log_metrics({"loss": 1.0}, step=0)  # left open, as a run that crashed leaves it
    second = opened(tmp_path, "second")
    second.log_metrics({"loss": 2.0}, step=0)
    second.close()
    first.log_metrics({"loss": 3.0}, step=1)
    first.close()
    found = {path.name.rsplit("-", 1)[1]: path for path in tmp_path.glob("wandb/offline-run-*")}
    assert sorted(found) == ["first", "second"]
    assert [row["loss"] for row in wandb_files.history(tmp_path)] == [1.0, 3.0, 2.0]
    assert "run already in progress" not in capsys.readouterr().err


def test_a_resumed_run_keeps_its_id_and_says_so(tmp_path, capsys):
    logger = opened(tmp_path, "same", resuming=True)
    assert "a folder of its own" in capsys.readouterr().out
    assert logger.version == "same"
    assert logger._wandb_init["resume"] == "allow"


@pytest.mark.fault
def test_failures_in_mid_run_are_counted_and_warned_of_once(tmp_path):
    logger = WandbSink(offline=True, save_dir=tmp_path, experiment=BrokenRun())
    with pytest.warns(UserWarning, match=r"ConnectionError: the server went away.*metrics\.csv"):
        logger.log_metrics({"loss": 1.0}, step=0)
    logger.log_metrics({"loss": 1.0}, step=1)  # a second warning would be an error
    logger.publish(publication(), step=1, epoch=0)
    logger.alert("a", "b")
    logger.keep_checkpoint(tmp_path / "none", name="a", aliases=[], facts={}, upload=False)
    logger.use_features({})
    logger.close()
    assert logger.failures == 7


@pytest.mark.fault
def test_a_killed_service_process_does_not_end_the_run(tmp_path):
    logger = opened(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    wandb.teardown(exit_code=1)
    with pytest.warns(UserWarning, match="Weights & Biases failed"):
        logger.log_metrics({"loss": 2.0}, step=1)
    assert logger.failures == 1
    logger.close()


@pytest.mark.fault
def test_a_run_that_cannot_be_opened_costs_nothing_but_itself(tmp_path, monkeypatch):
    def refuse(**settings):
        raise wandb.errors.CommError("no server")

    monkeypatch.setattr(wandb, "init", refuse)
    logger = opened(tmp_path)
    with pytest.warns(UserWarning, match="CommError: no server"):
        logger.log_metrics({"loss": 1.0}, step=0)
    logger.publish(publication(), step=0, epoch=0)
    # What a user's callback may ask of a run.
    logger.experiment.config.update({"rate": 0.1})
    logger.experiment.define_metric("loss", summary="min")
    logger.watch(torch.nn.Linear(2, 2))
    logger.close()
    assert logger.failures == 1


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_disabled(tmp_path, monkeypatch, capsys, mode):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    settings = WandbSettings(mode=mode)
    assert wandb_logger(tmp_path, settings, config={}, run_id="r", resuming=False) is None
    assert capsys.readouterr().out.startswith("Weights & Biases: disabled")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def undecided(monkeypatch):
    """Nothing in the environment decides."""
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def test_without_login_it_is_offline(tmp_path, undecided, capsys):
    logger = wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r", resuming=False)
    assert "offline (not logged in)" in capsys.readouterr().out
    assert logger._wandb_init["mode"] == "offline"
    with pytest.raises(ConfigError, match="mode is online, but not logged in; run `wandb login`"):
        wandb_logger(tmp_path, WandbSettings(mode="online"), config={}, run_id="r", resuming=False)


def test_without_network_it_is_offline(tmp_path, undecided, capsys):
    undecided.setattr(wandb_mode, "_login_problem", lambda: None)

    def fail(address, timeout):
        raise urllib.error.URLError("Name or service not known")

    undecided.setattr(wandb_mode.urllib.request, "urlopen", fail)
    wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r", resuming=False)
    assert "(Name or service not known)" in capsys.readouterr().out


def test_a_server_that_answers_an_error_is_reached(tmp_path, undecided, capsys):
    undecided.setattr(wandb_mode, "_login_problem", lambda: None)

    def refuse(address, timeout):
        raise urllib.error.HTTPError(address, 404, "Not Found", None, None)

    undecided.setattr(wandb_mode.urllib.request, "urlopen", refuse)
    logger = wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r", resuming=False)
    assert "online, project verisal, run r" in capsys.readouterr().out
    assert logger._wandb_init["mode"] == "online"


def test_a_look_up_that_never_ends_is_given_up(undecided):
    undecided.setattr(wandb_mode, "_REACH_SECONDS", 0.0)
    undecided.setattr(wandb_mode, "_ask", lambda address: __import__("time").sleep(2))
    assert wandb_mode._reach_problem().startswith("no answer from")
