"""Name, group, kind of work and main figures of runs at W&B, from the configs that are shipped."""

from pathlib import Path

import pytest
import yaml

from verisal.callbacks import RobustValidation, SaliencyMetrics
from verisal.cli._run_card import card_of, data_name, task_name
from verisal.metrics import PerturbationCurve
from verisal.reporting.run_folder import RunFolder
from verisal.saliency import GradCAM, Gradient
from verisal.tasks import ClassifierTask

CONFIGS = Path(__file__).parents[2] / "configs"


def config(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def card(stage, name, *, task=None, callbacks=()):
    run = RunFolder(Path("runs/x/20260101-000000-abc"), "abc", stage, continued=False)
    return card_of(
        stage,
        task or ClassifierTask(),
        callbacks=callbacks,
        config=config(name),
        run=run,
        command="verisal x",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data/digits", "digits"),
        ("data/photographs", "photographs"),
        ("data/detector_photographs", "photographs"),
        ("detector", "emoji_scenes"),
        ("benchmark", "emoji_scenes"),
        ("study/detection_cifar10", "cifar10"),
    ],
)
def test_runs_on_the_same_data_are_one_group(name, expected):
    assert data_name(config(name)) == expected


def test_a_study_is_a_group_of_its_own():
    found = card("validate", "study/decoys", callbacks=[SaliencyMetrics([Gradient()], [PerturbationCurve()])])
    assert found.group == "decoys_on_scenes" or "decoy" in found.group
    assert found.job_type == "study"


def test_the_kind_of_work_is_the_command_or_what_it_measures():
    metrics = SaliencyMetrics([Gradient()], [PerturbationCurve()])
    assert card("fit", "data/digits", callbacks=[metrics]).job_type == "fit"
    assert card("test", "detector").job_type == "test"
    assert card("validate", "benchmark", callbacks=[metrics]).job_type == "benchmark"


def test_a_card_says_on_what_by_what_and_where():
    found = card("fit", "data/digits")
    assert found.name == "digits classifier 20260101-000000-abc"
    assert (found.tags, found.notes) == (("classifier",), "verisal x")
    assert task_name(ClassifierTask()) == "classifier"


def test_the_five_figures_of_a_fit_are_those_of_the_task_and_of_each_callback():
    callbacks = [
        SaliencyMetrics({"grad": Gradient(), "cam": GradCAM()}, [PerturbationCurve("deletion")]),
        RobustValidation(),
    ]
    found = card("fit", "data/digits", callbacks=callbacks).first
    assert list(found)[:4] == ["val/accuracy", "val/loss", "train/loss", "val/grad/deletion"]
    assert found["val/grad/deletion"] == "min"
    (robust,) = list(found)[4:]
    assert robust.startswith("val/robust/")
    assert "clean" not in robust
    assert found[robust] == "max"
    # What is measured once has no charts.
    assert card("test", "data/digits", callbacks=callbacks).first == {}
