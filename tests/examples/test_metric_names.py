"""The page of metric names has every metric, every callback that logs, and every task."""

import inspect
from pathlib import Path

from helpers.listed_names import reference, unlisted
from verisal import callbacks, metrics, tasks
from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks.explaining.names import LogsScores
from verisal.saliency import GradCAM

PAGES = Path(__file__).parents[2] / "docs" / "reference"
CALLBACKS = [getattr(callbacks, name) for name in callbacks.__all__]


def test_every_metric_of_maps_is_listed():
    kinds = [getattr(metrics, name) for name in metrics.__all__]
    kinds = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, metrics.SaliencyMetric)]
    listed = {type(metric) for metric in reference().metrics_of_maps()}
    assert {kind for kind in kinds if kind not in listed} == {metrics.SaliencyMetric, metrics.CurveMetric}
    page = reference().filled("<!-- generated: metrics -->")
    for metric in reference().metrics_of_maps():
        assert f"`{metric.name}`" in page


def test_every_callback_that_logs_is_listed():
    methods = [GradCAM()]
    silent = [callbacks.AttackedMaps(methods, MapAttack(kind="top_k")), callbacks.FitAlarm()]
    silent.append(callbacks.SaliencyPanels(methods))
    assert [callback.names() for callback in silent] == [()] * 3
    page = (PAGES / "metric_names.md").read_text()
    assert all(f"`{type(callback).__name__}`" in page for callback in silent)
    listed = reference().callbacks_that_log()
    assert all(callback.names() for callback in listed.values())
    kinds = {kind.__name__ for kind in CALLBACKS if issubclass(kind, LogsScores)}
    assert kinds == {*listed, *(type(callback).__name__ for callback in silent)}


def test_every_task_is_listed():
    assert set(tasks.__all__) <= set(reference().names_of_tasks())


def test_a_name_that_is_on_no_page_is_found():
    known = ["epoch", "train/loss", "val/masks/auroc/pgd", "test/grad_cam/relevance_gap"]
    assert unlisted([*known, "val/masks/luck/pgd", "train/luck"]) == ["val/masks/luck/pgd", "train/luck"]
