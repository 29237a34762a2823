import json
import urllib.error

import numpy as np
import pytest
import torch
import wandb

from helpers import wandb_files
from verisal.errors import ConfigError
from verisal.reporting import Picture, Publication, Table, WandbSettings, WandbSink, wandb_sink
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


class BrokenRun:
    id = "broken"

    def log(self, entries):
        raise ConnectionError("the server went away")

    def finish(self):
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
    logger.close()
    assert logger.failures == 4


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
    undecided.setattr(wandb_sink, "_login_problem", lambda: None)

    def fail(address, timeout):
        raise urllib.error.URLError("Name or service not known")

    undecided.setattr(wandb_sink.urllib.request, "urlopen", fail)
    wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r", resuming=False)
    assert "(Name or service not known)" in capsys.readouterr().out


def test_a_server_that_answers_an_error_is_reached(tmp_path, undecided, capsys):
    undecided.setattr(wandb_sink, "_login_problem", lambda: None)

    def refuse(address, timeout):
        raise urllib.error.HTTPError(address, 404, "Not Found", None, None)

    undecided.setattr(wandb_sink.urllib.request, "urlopen", refuse)
    logger = wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r", resuming=False)
    assert "online, project verisal, run r" in capsys.readouterr().out
    assert logger._wandb_init["mode"] == "online"


def test_a_look_up_that_never_ends_is_given_up(undecided):
    undecided.setattr(wandb_sink, "_REACH_SECONDS", 0.0)
    undecided.setattr(wandb_sink, "_ask", lambda address: __import__("time").sleep(2))
    assert wandb_sink._reach_problem().startswith("no answer from")
