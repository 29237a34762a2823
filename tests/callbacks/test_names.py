"""Names under which scores of callbacks are logged: typed, known beforehand, and all that arrives."""

import math
import re
from argparse import Namespace
from itertools import chain

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from helpers import strangers
from helpers.explaining_toys import Brightness, Samples, Task, loader, right_labels, trainer
from verisal.callbacks import (
    BaselineNeutrality,
    ClassRanks,
    DisturbedLocalization,
    MapAgreement,
    PerturbationCurves,
    SaliencyMetrics,
    SaliencyPanels,
)
from verisal.errors import ConfigError
from verisal.functional.baselines import Blur, DatasetMean
from verisal.metrics import (
    ROAD,
    DabkowskiGal,
    EnergyInside,
    Infidelity,
    MaxBoxAcc,
    MaxBoxAccV2,
    PerturbationCurve,
    PointingGame,
    PxAP,
    RelevanceGap,
    SaliencyFidelity,
    SensitivityMax,
    Smoothness,
)
from verisal.saliency import RISE, GradCAM, Gradient, InputXGradient

METHODS = {"Bright-ness": Brightness()}
ROWS = ("bright_ness", "random", "centre")


class Kept(Logger):
    """Every value that arrives."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(float(value))

    def log_hyperparams(self, params: Namespace | dict, *args, **kwargs):
        pass

    def of_callbacks(self):
        return {name: values for name, values in self.values.items() if name.count("/") > 1}


def held_out():
    return Samples(8, name="held out", labels=right_labels(8))


CALLBACKS = {
    "metrics": lambda: SaliencyMetrics(
        METHODS,
        [EnergyInside(), PointingGame(), MaxBoxAcc(), MaxBoxAccV2(), PxAP(), Smoothness(), ROAD(),
         DabkowskiGal(), SaliencyFidelity(), Infidelity(samples=2), SensitivityMax(samples=1),
         RelevanceGap(steps=2), PerturbationCurve("insertion", steps=2)],
        randomisation_steps=2,
    ),
    "curves": lambda: PerturbationCurves(METHODS, steps=2),
    "one baseline": lambda: PerturbationCurves(METHODS, steps=2, baselines=[Blur(sigma=5)]),
    "queries": lambda: DisturbedLocalization(METHODS, held_out()),
    "ranks": lambda: ClassRanks(METHODS, held_out=held_out(), ranks=(2,)),
    "agreement": lambda: MapAgreement(
        {"a": Brightness(), "b": Brightness(grey=0.6)}, groups={"Grey levels": ["a", "b"]}
    ),
    "neutrality": lambda: BaselineNeutrality([DatasetMean(), Blur(sigma=5)]),
    "panels": lambda: SaliencyPanels(METHODS, max_images=2),
}  # fmt: skip


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_what_is_listed_beforehand_is_what_arrives_and_can_be_typed(kind, stage, tmp_path):
    callback, logger = CALLBACKS[kind](), Kept()
    split = {"validate": "val", "test": "test"}[stage]
    listed = callback.names(split)
    run = trainer(callback, logger=logger, default_root_dir=tmp_path)
    getattr(run, stage)(Task(), loader(8, labels=right_labels(8)), verbose=False)
    assert set(logger.of_callbacks()) == set(listed)
    assert len(set(listed)) == len(listed)
    assert all(re.fullmatch(rf"{split}/[a-z0-9_]+/[a-z0-9_]+", name) for name in listed)
    assert bool(listed) is (kind != "panels")


def test_methods_of_a_list_are_called_like_their_classes():
    methods = [GradCAM(), InputXGradient(), RISE(masks=4)]
    callback = SaliencyMetrics(methods, [EnergyInside(), PerturbationCurve("insertion")])
    assert [name for name in callback.names() if "/random/" not in name and "/centre/" not in name] == [
        "val/grad_cam/energy_inside", "val/grad_cam/insertion",
        "val/input_x_gradient/energy_inside", "val/input_x_gradient/insertion",
        "val/rise/energy_inside", "val/rise/insertion",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"two of the methods are called 'gradient'; give a dict of names"):
        SaliencyMetrics([Gradient(), Gradient()], [EnergyInside()])


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (
            {"Grad-CAM": GradCAM(), "grad cam": Gradient()},
            "'Grad-CAM' and 'grad cam' would both be",
        ),
        ({"Random": Gradient()}, "'Random' and 'random' would both be logged as 'random'"),
        ({"∇": Gradient()}, "need a letter from a to z or a digit"),
        ({"a/b": Gradient()}, "must not hold a slash"),
        ({"": Gradient()}, "need a letter"),
    ],
)
def test_names_that_cannot_be_told_apart_or_typed_are_refused(methods, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SaliencyMetrics(methods, [EnergyInside()])


def of(row, names):
    return [name.removeprefix(f"val/{row}/") for name in names if name.startswith(f"val/{row}/")]


def test_settings_stand_in_a_name_only_where_two_metrics_would_be_called_the_same():
    blur, mean = Blur(sigma=5), DatasetMean()
    metrics = [PerturbationCurve("insertion", baseline=each) for each in (blur, mean)]
    assert of("bright_ness", SaliencyMetrics(METHODS, metrics[:1]).names()) == ["insertion"]
    assert of("bright_ness", SaliencyMetrics(METHODS, metrics[1:]).names()) == ["insertion"]
    both = SaliencyMetrics(METHODS, [*metrics, EnergyInside()]).names()
    assert of("bright_ness", both) == ["insertion", "insertion_dataset_mean", "energy_inside"]
    # One more behind them changes no name.
    more = [*metrics, EnergyInside(), PerturbationCurve("insertion", baseline=mean, steps=8)]
    assert of("bright_ness", SaliencyMetrics(METHODS, more).names()) == [
        "insertion", "insertion_dataset_mean", "energy_inside", "insertion_dataset_mean_steps8",
    ]  # fmt: skip


def test_callbacks_of_one_trainer_name_their_metrics_one_after_another(tmp_path):
    metrics = SaliencyMetrics(METHODS, [PerturbationCurve("deletion", steps=2)], resamples=2)
    curves = PerturbationCurves({"other": Brightness(), **METHODS}, steps=2, kinds=["deletion"], resamples=2)
    logger = Kept()
    run = trainer(metrics, curves, logger=logger, default_root_dir=tmp_path)
    run.validate(Task(), loader(6), verbose=False)
    names = curves.names(after=[metrics])
    assert of("other", names) == [
        "deletion_recommended_steps2", "deletion_recommended_steps2_baseline_range"
    ]  # fmt: skip
    assert of("random", metrics.names()) == ["deletion"]
    assert set(logger.of_callbacks()) == {*metrics.names(), *names}
    assert set(curves.evaluation.logged.values()) == set(names)


def test_controls_of_two_callbacks_are_logged_once(tmp_path):
    callbacks = [SaliencyMetrics({name: Brightness()}, [EnergyInside()], resamples=2) for name in "ab"]
    logger = Kept()
    trainer(*callbacks, logger=logger, default_root_dir=tmp_path).validate(Task(), loader(6), verbose=False)
    assert {name: len(values) for name, values in logger.of_callbacks().items()} == {
        f"val/{row}/energy_inside": 1 for row in ("a", "random", "centre", "b")
    }


def test_one_name_for_two_methods_is_refused_before_anything_runs():
    callbacks = [
        SaliencyMetrics({"Mine": Brightness()}, [EnergyInside()]),
        SaliencyMetrics({"mine": Brightness(grey=0.7)}, [EnergyInside()]),
    ]
    with pytest.raises(ConfigError, match=r"log val/mine/energy_inside, of different methods called 'Mine'"):
        trainer(*callbacks).validate(Task(), loader(6), verbose=False)


def test_what_is_undefined_arrives_as_not_a_number_so_that_no_monitor_misses_its_name(tmp_path):
    callback, logger = DisturbedLocalization(METHODS, held_out()), Kept()
    wrong = (right_labels(8) + 1) % 4
    trainer(callback, logger=logger, default_root_dir=tmp_path).validate(
        Task(), loader(8, labels=wrong), verbose=False
    )
    assert set(logger.of_callbacks()) == set(callback.names())
    assert all(math.isnan(value) for value in chain.from_iterable(logger.of_callbacks().values()))


def rare(*monitoring):
    callback = SaliencyMetrics([GradCAM()], [PerturbationCurve("insertion", steps=2)], every_n_epochs=2)
    run = strangers.trainer(callback, *monitoring, max_epochs=4, enable_checkpointing=True)
    run.fit(strangers.Stranger(), strangers.loader(), strangers.loader())
    return run


def test_what_is_logged_in_some_epochs_is_monitored_in_those_or_refused_before_any_work(tmp_path):
    monitor = "val/grad_cam/insertion"
    best = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", every_n_epochs=2, save_top_k=-1)
    stopping = EarlyStopping(monitor, mode="max", strict=False, patience=9)
    assert rare(best, stopping).current_epoch == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=1-step=6.ckpt", "epoch=3-step=12.ckpt"]
    sentence = (
        r"SaliencyMetrics logs 'val/grad_cam/insertion' with every_n_epochs=2, and {} looks .* give {} {}"
    )
    for other, remedy in [
        (ModelCheckpoint(tmp_path, monitor=monitor), "every_n_epochs=2"),
        (EarlyStopping(monitor), "strict=False"),
    ]:
        name = type(other).__name__
        with pytest.raises(ConfigError, match=sentence.format(name, name, remedy)):
            rare(other)


def test_checkpoints_and_early_stopping_follow_a_listed_name(tmp_path):
    callback = SaliencyMetrics(METHODS, [PerturbationCurve("insertion", steps=2)])
    monitor = callback.names()[0]
    assert monitor == "val/bright_ness/insertion"
    best = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", filename="best")
    stopping = EarlyStopping(monitor, mode="max", patience=1, min_delta=10.0)
    logger = Kept()
    run = trainer(
        callback,
        best,
        stopping,
        logger=logger,
        default_root_dir=tmp_path,
        enable_checkpointing=True,
        max_epochs=5,
    )
    run.fit(Task(), loader(4), loader(6))
    values = logger.values[monitor]
    assert len(values) == run.current_epoch == 2  # the second epoch was not better by 10
    assert float(best.best_model_score) == max(values)
    assert float(stopping.best_score) == values[0]
    assert (tmp_path / "best.ckpt").is_file()
