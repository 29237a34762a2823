"""What holds for every callback that explains: training untouched, each map once, subsets, resuming."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from helpers.explaining_toys import Brightness, Samples, Task, loader, right_labels, trainer
from verisal.callbacks import DisturbedLocalization, PerturbationCurves, SaliencyMetrics, SaliencyPanels
from verisal.errors import ConfigError, DataError, VerisalError
from verisal.functional.baselines import DatasetMean
from verisal.metrics import EnergyInside, PerturbationCurve, PointingGame
from verisal.reporting import CsvSink
from verisal.results import Evaluates
from verisal.saliency import CentrePrior, Gradient, RandomMap

METHODS = {"brightness": Brightness()}


@pytest.fixture(autouse=True)
def _nothing_seen():
    Brightness.seen.clear()


def metrics_callback(methods=METHODS, **settings):
    return SaliencyMetrics(
        methods, [PointingGame(), PerturbationCurve("deletion", steps=4)], **{"resamples": 20} | settings
    )


def every_callback():
    held_out = Samples(8, name="held out", labels=right_labels(8))
    return [
        SaliencyMetrics({"gradient": Gradient()}, [EnergyInside()], resamples=10),
        PerturbationCurves({"gradient": Gradient()}, steps=2, baselines=[DatasetMean()]),
        DisturbedLocalization({"gradient": Gradient()}, held_out),
        SaliencyPanels({"gradient": Gradient()}, max_images=2),
    ]


def fitted(callbacks):
    torch.manual_seed(4)
    task = Task()
    run = trainer(*callbacks, max_epochs=2, num_sanity_val_steps=1)
    run.fit(task, loader(8, shuffle=True), loader(8, labels=right_labels(8)))
    return task


def test_training_is_the_same_with_and_without_them():
    alone, watched = fitted([]), None
    draws = torch.rand(3)
    callbacks = every_callback()
    watched = fitted(callbacks)
    assert torch.equal(torch.rand(3), draws)  # as many global random numbers were drawn
    assert all(callback.evaluation is not None for callback in (callbacks[0], callbacks[1], callbacks[3]))
    for (name, one), other in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert all(parameter.requires_grad for parameter in watched.parameters())


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("inference_mode", [True, False])
def test_every_callback_in_every_stage_and_mode(stage, inference_mode):
    callbacks = every_callback()
    task = Task()
    before = copy.deepcopy(task.state_dict())
    run = trainer(*callbacks, inference_mode=inference_mode)
    getattr(run, stage)(task, loader(8, labels=right_labels(8)), verbose=False)
    split = {"validate": "val", "test": "test"}[stage]
    for callback in callbacks:
        assert isinstance(callback, Evaluates)
        assert callback.evaluation.split == split
    scores = callbacks[0].evaluation.scores
    assert scores[f"{split}/gradient/energy_inside/energy"].n == 8
    assert len(callbacks[3].evaluation.panels) == 2
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in task.parameters())


def test_inference_mode_changes_no_score():
    found = []
    for mode in (True, False):
        callback = metrics_callback({"gradient": Gradient()})
        trainer(callback, inference_mode=mode).validate(Task(), loader(), verbose=False)
        found.append({name: score.value for name, score in callback.evaluation.scores.items()})
    assert found[0] == pytest.approx(found[1], nan_ok=True)


def test_sanity_check_is_skipped_and_every_other_epoch_left_out():
    callback = metrics_callback(every_n_epochs=2, max_images=None)
    run = trainer(callback, max_epochs=3, num_sanity_val_steps=2)
    run.fit(Task(), loader(4), loader(6))
    assert len(Brightness.seen) == 6  # epoch 2 of 3 alone
    assert callback.evaluation is None  # the third epoch was not its turn


def test_scores_of_a_fit_are_logged_under_their_names_without_intervals():
    callback = metrics_callback()
    run = trainer(callback)
    run.fit(Task(), loader(4), loader(6))
    score = callback.evaluation.scores["val/brightness/deletion[dataset_mean]_steps4/auc"]
    assert float(run.callback_metrics["val/brightness/deletion"]) == pytest.approx(score.value, abs=1e-6)
    assert math.isnan(score.low)


def test_a_map_is_computed_once_for_all_callbacks_that_have_its_method():
    callbacks = [
        metrics_callback(),
        PerturbationCurves({"the same": Brightness()}, steps=2),
        SaliencyPanels(METHODS, max_images=100),
    ]
    trainer(*callbacks).validate(Task(), loader(10), verbose=False)
    assert len(Brightness.seen) == 10
    assert callbacks[0].epoch is callbacks[2].epoch


def test_controls_are_added_unless_they_are_there():
    assert list(metrics_callback().by_name) == ["brightness", "random", "centre"]
    own = {"mine": RandomMap(seed=7), "brightness": Brightness()}
    assert list(metrics_callback(own).by_name) == ["mine", "brightness", "centre"]
    assert metrics_callback({"a": CentrePrior()}).by_name["random"] == RandomMap(seed=0)


def test_subset_is_fixed_whatever_the_batch_size_and_other_batches_are_left_alone():
    seen = []
    for batch_size in (1, 3, 10):
        Brightness.seen.clear()
        callback = metrics_callback(max_images=4)
        trainer(callback).validate(Task(), loader(10, batch_size=batch_size), verbose=False)
        assert len(Brightness.seen) == 4
        seen.append(sorted(set(callback.evaluation.samples["image_id"])))
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 4
    other = metrics_callback(max_images=4, seed=1)
    trainer(other).validate(Task(), loader(10), verbose=False)
    assert sorted(set(other.evaluation.samples["image_id"])) != seen[0]


def test_batches_that_cannot_be_read_are_refused():
    class Plain(Task):
        def validation_step(self, batch, batch_idx):
            pass

    views = DataLoader(TensorDataset(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)))
    with pytest.raises(VerisalError, match="may both be the images of a batch; pass batch="):
        trainer(metrics_callback()).validate(Plain(), views, verbose=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_n_epochs": 0}, "at least 1"),
        ({"max_images": 0}, "at least 1"),
        ({"resamples": -1}, "at least 0"),
        ({"randomisation_steps": -1}, "at least 0"),
        ({"methods": {"a/b": Brightness()}}, "slash"),
        ({"methods": {"random": Brightness()}}, "name of a control"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        metrics_callback(**settings)


def test_two_metrics_of_one_name_and_equal_curves_are_refused():
    with pytest.raises(ConfigError, match="twice"):
        SaliencyMetrics(METHODS, [PointingGame(), PointingGame()])
    with pytest.raises(ConfigError, match="all different"):
        PerturbationCurves(METHODS, kinds=["deletion", "deletion"])


def test_second_run_in_a_folder_computes_nothing_and_finds_the_same(tmp_path):
    found = []
    for _ in range(2):
        held_out = Samples(8, name="held out", labels=right_labels(8))
        callbacks = [
            metrics_callback(max_images=5),
            DisturbedLocalization(METHODS, held_out, several=Samples(4, name="several")),
        ]
        run = trainer(*callbacks, logger=CsvSink(tmp_path))
        run.validate(Task(), loader(10, labels=right_labels(10)), verbose=False)
        found.append([callback.evaluation for callback in callbacks])
        if len(found) == 1:
            assert len(Brightness.seen) == 40
            Brightness.seen.clear()
    assert Brightness.seen == []
    for one, two in zip(*found, strict=True):
        assert str(one.scores) == str(two.scores)
        assert one.timings == two.timings
        assert str(one.samples) == str(two.samples)


@pytest.mark.fault
def test_a_damaged_file_and_other_weights_are_computed_again(tmp_path):
    def run(task):
        Brightness.seen.clear()
        callback = metrics_callback()
        trainer(callback, logger=CsvSink(tmp_path)).validate(task, loader(8), verbose=False)
        return len(Brightness.seen), str(callback.evaluation.scores)

    first = run(Task())
    assert first[0] == 8
    damaged = sorted((tmp_path / "rows" / "brightness").glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert run(Task()) == (4, first[1])  # one of two batches
    other = Task()
    with torch.no_grad():
        other.classifier[-1].bias += 1.0
    assert run(other)[0] == 8


def test_a_fit_keeps_no_rows(tmp_path):
    trainer(metrics_callback(), logger=CsvSink(tmp_path)).fit(Task(), loader(4), loader(4))
    assert not (tmp_path / "rows").exists()


def test_a_network_that_knows_nothing_yet_does_not_end_a_fit():
    wrong = (right_labels(8) + 1) % 4
    callback = DisturbedLocalization(METHODS, Samples(8, name="held out", labels=wrong))
    trainer(callback).validate(Task(), loader(4, labels=wrong[:4]), verbose=False)
    assert all(math.isnan(score.value) for score in callback.evaluation.scores.values())
    assert callback.evaluation.counts == {"correctly classified images (D-WSOL)": 0}
    assert any("none of 4 images is classified correctly" in note for note in callback.evaluation.notes)


def test_held_out_images_that_are_reported_are_refused():
    callback = DisturbedLocalization(METHODS, Samples(8, labels=right_labels(8)))
    with pytest.raises(DataError, match="both reported and held out"):
        trainer(callback).validate(Task(), loader(8, labels=right_labels(8)), verbose=False)
