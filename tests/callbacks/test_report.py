import dataclasses
import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from helpers import wandb_files
from helpers.evaluations import evaluation
from verisal.callbacks import ReportRun
from verisal.reporting import CsvSink, Sink, WandbSettings
from verisal.reporting.wandb_sink import wandb_logger
from verisal.results import SaliencyPanel, Score


class Recorder(Logger, Sink):
    name, version = "", ""

    def __init__(self):
        super().__init__()
        self.published = []

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def publish(self, publication, *, step, epoch):
        self.published.append((publication, step, epoch))


class Task(LightningModule):
    def __init__(self, *, panels=1, points=3):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.evaluation = None
        self.panels, self.points = panels, points

    def training_step(self, batch, index):
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, index):
        pass

    def test_step(self, batch, index):
        pass

    def on_validation_epoch_end(self):
        self._found("val")

    def on_test_epoch_end(self):
        self._found("test")

    def _found(self, split):
        self.evaluation = evaluation(split, panels=self.panels, points=self.points)
        self.log(f"{split}/masks/auroc/cw_l2", 0.75)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Plain(Task):
    def __init__(self):
        super().__init__()
        del self.evaluation

    def _found(self, split):
        pass


@pytest.fixture
def loader():
    return DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2)


def trainer(run_dir, *loggers, callback=None, **settings):
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, **settings}
    return Trainer(
        logger=list(loggers),
        callbacks=[ReportRun(run_dir) if callback is None else callback],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=run_dir,
        **settings,
    )


def test_fit_publishes_curves_each_epoch_and_panels_once(tmp_path, loader):
    recorder = Recorder()
    trainer(tmp_path, recorder).fit(Task(), loader, loader)
    first, second = recorder.published
    assert [step for _, step, _ in recorder.published] == [1, 3]
    assert [epoch for _, _, epoch in recorder.published] == [0, 1]
    assert list(first[0].curves) == ["roc_cw_l2"]
    assert [line.label for line in first[0].curves["roc_cw_l2"]] == ["masks", "gradient"]
    assert list(first[0].pictures) == ["cw_l2"]
    assert second[0].pictures == {}
    assert list(tmp_path.iterdir()) == []  # nothing is reported as final


def test_nothing_is_reported_from_the_sanity_check(tmp_path, loader):
    recorder = Recorder()
    trainer(tmp_path, recorder, max_epochs=1, num_sanity_val_steps=1).fit(Task(), loader, loader)
    assert [step for _, step, _ in recorder.published] == [1]


def test_a_resumed_run_does_not_send_the_panels_again(tmp_path, loader):
    recorder = Recorder()
    before, after = ReportRun(tmp_path), ReportRun(tmp_path)
    trainer(tmp_path, recorder, callback=before).fit(Task(), loader, loader)
    after.load_state_dict(before.state_dict())
    trainer(tmp_path, recorder, callback=after).fit(Task(), loader, loader)
    assert [bool(publication.pictures) for publication, _, _ in recorder.published] == [
        True,
        False,
        False,
        False,
    ]


def test_a_test_leaves_the_whole_report(tmp_path, loader, capsys):
    (tmp_path / "config.yaml").write_text("seed_everything: 7\nmodel:\n  lr: 0.5\n")
    recorder = Recorder()
    trainer(tmp_path, recorder).test(Task(panels=2), loader, verbose=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "figures",
        "report.html",
        "report.json",
        "report.md",
        "samples.csv",
    ]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "panel_cw_l2_0.png",
        "panel_cw_l2_1.png",
        "roc_cw_l2.png",
        "scores_masks.png",
    ]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["metrics"]["test/masks/auroc/cw_l2"]["value"] == 0.75
    assert content["seed"] == 7
    assert content["config"]["model"] == {"lr": 0.5}
    times = content["wall_times"]
    assert list(times) == ["preparation", "test", "figures", "total"]
    assert times["total"] >= sum(times.values()) - times["total"] - 0.002
    assert "0.700-0.800" in capsys.readouterr().out
    (publication, _, _) = recorder.published[0]
    assert len(recorder.published) == 1
    assert list(publication.tables) == ["test_results"]
    assert list(publication.curves) == ["test_roc_cw_l2"]
    assert len(publication.pictures["test_cw_l2"]) == 2


def test_equal_runs_report_equal_metrics(tmp_path, loader):
    for name in ("a", "b"):
        trainer(tmp_path / name).test(Task(), loader, verbose=False)
    a, b = ((tmp_path / name / "report.json").read_text().split('"wall_times"')[0] for name in "ab")
    assert a == b


def test_a_validate_run_never_replaces_the_result_of_a_test(tmp_path, loader, capsys):
    trainer(tmp_path).test(Task(), loader, verbose=False)
    before = (tmp_path / "report.json").read_bytes()
    trainer(tmp_path).validate(Task(), loader, verbose=False)
    assert (tmp_path / "report.json").read_bytes() == before
    assert "val/masks/auroc/cw_l2" in json.loads((tmp_path / "report.val.json").read_text())["metrics"]
    assert (tmp_path / "samples.val.csv").exists()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("report: ")]
    assert said == [f"report: {tmp_path / name}.html, as text {name}.md" for name in ("report", "report.val")]
    assert (tmp_path / "figures" / "val_roc_cw_l2.png").exists()


def test_step_and_epoch_of_a_loaded_checkpoint_are_reported(tmp_path, loader):
    recorder, path = Recorder(), tmp_path / "a.ckpt"
    fitted = trainer(tmp_path)
    fitted.fit(Task(), loader, loader)
    fitted.save_checkpoint(path, weights_only=False)
    trainer(tmp_path, recorder).test(Task(), loader, ckpt_path=path, verbose=False, weights_only=True)
    assert [(step, epoch) for _, step, epoch in recorder.published] == [(4, 2)]


def test_panels_of_one_kind_leave_those_of_another_in_place(tmp_path, loader):
    class Several(Task):
        def _found(self, split):
            kinds = ["saliency"] * 3 + ["attacked_images"] * 3
            maps = {"one": torch.rand(8, 6), "image": torch.rand(3, 8, 6)}
            panels = [SaliencyPanel(str(n), maps["image"], maps, "", kind) for n, kind in enumerate(kinds)]
            self.evaluation = dataclasses.replace(evaluation(split), panels=tuple(panels))

    trainer(tmp_path, callback=ReportRun(tmp_path, max_panels=2)).test(Several(), loader, verbose=False)
    assert sorted(path.name for path in (tmp_path / "figures").glob("panel*")) == [
        "panel_attacked_images_0.png",
        "panel_attacked_images_1.png",
        "panel_saliency_0.png",
        "panel_saliency_1.png",
    ]


def test_panels_are_capped_and_curves_thinned(tmp_path, loader):
    recorder = Recorder()
    callback = ReportRun(tmp_path, max_panels=3)
    trainer(tmp_path, recorder, callback=callback, max_epochs=1).fit(
        Task(panels=5, points=1001), loader, loader
    )
    publication = recorder.published[0][0]
    assert len(publication.pictures["cw_l2"]) == 3
    line = publication.curves["roc_cw_l2"][0]
    assert len(line.x) == 200
    assert (line.x[0].item(), line.x[-1].item(), line.y[-1].item()) == (0.0, 1.0, 1.0)
    assert bool((line.x.diff() > 0).all())


@pytest.mark.parametrize("task", [Plain(), type("Silent", (Task,), {"_found": lambda self, split: None})()])
def test_a_task_that_found_nothing_is_left_alone(tmp_path, loader, task):
    recorder = Recorder()
    runner = trainer(tmp_path, recorder, max_epochs=1)
    runner.fit(task, loader, loader)
    runner.test(task, loader, verbose=False)
    assert recorder.published == []
    assert list(tmp_path.iterdir()) == []


def test_names_become_safe_file_names(tmp_path, loader):
    class Odd(Task):
        def _found(self, split):
            found = evaluation(split)
            odd = [dataclasses.replace(curve, figure="roc_a/b c: ü") for curve in found.curves]
            self.evaluation = dataclasses.replace(
                found, curves=tuple(odd), scores={"test/a": Score(1, 1, 1, 1)}
            )

    trainer(tmp_path).test(Odd(), loader, verbose=False)
    assert (tmp_path / "figures" / "roc_a_b_c_ü.png").exists()


@pytest.mark.slow
def test_everything_together_offline(tmp_path, loader):
    weights_and_biases = wandb_logger(tmp_path, WandbSettings(), config={}, run_id="r1", resuming=False)
    runner = trainer(tmp_path, CsvSink(tmp_path), weights_and_biases)
    runner.fit(Task(), loader, loader)
    runner.test(Task(), loader, verbose=False)
    weights_and_biases.close()
    assert weights_and_biases.failures == 0
    rows = wandb_files.history(tmp_path)
    published = [row for row in rows if any(name.startswith(("curves/", "tables/")) for name in row)]
    assert len(published) == 3  # two validation epochs and the test: one call each
    assert all("trainer/global_step" in row for row in published)
    text = (tmp_path / "metrics.csv").read_text()
    for row in rows:
        for name, value in row.items():
            if name.startswith(("val/", "test/")):
                assert name in text.splitlines()[0]
                assert repr(value) in text
    assert (tmp_path / "curves.csv").read_text().count("test_roc_cw_l2,masks") == 3
    assert isinstance(runner.loggers[0], CsvSink)
    assert runner.log_dir == str(tmp_path)
