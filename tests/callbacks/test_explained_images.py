"""Number and choice of the images of a stranger that are explained: by cost, by position, by content."""

import time

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import IterableDataset

from helpers.strangers import Stranger, loader, normalised, trainer
from verisal.callbacks import SaliencyMetrics, SaliencyPanels
from verisal.callbacks.explaining import beginning
from verisal.callbacks.explaining.cost import Clock
from verisal.errors import ConfigError
from verisal.metrics import PerturbationCurve
from verisal.saliency import CallableAdapter, Gradient


def metrics_callback(**settings):
    return SaliencyMetrics(
        {"gradient": Gradient()}, [PerturbationCurve("deletion", steps=1)], **{"resamples": 0} | settings
    )


def panels():
    return SaliencyPanels({"gradient": Gradient()}, max_images=2)


def explained(callback):
    return sorted(set(callback.evaluation.samples["image_id"]))


def test_the_clock_tells_explaining_from_the_rest(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    now[0] += 9.0
    with clock.explaining(torch.device("cpu")):
        now[0] += 1.0
        assert (clock.spent, clock.own) == (1.0, 9.0)
    assert clock.share == 0.1
    clock.restart()
    assert (clock.spent, clock.own) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "own", "count"), [(0.01, 10.0, 64), (0.01, 10.3, 64), (10.0, 10.0, 8), (0.001, 10.0, 100)]
)
def test_a_fit_explains_what_a_tenth_of_an_epoch_lasts_for(monkeypatch, seconds, own, count):
    monkeypatch.setattr(beginning, "_seconds_per_image", lambda *settings: seconds)
    monkeypatch.setattr(Clock, "own", own)
    monkeypatch.setattr(Clock, "spent", 0.0)
    callback = metrics_callback()
    trainer(callback, limit_train_batches=1).fit(Stranger(), loader(), loader(normalised(100), batch_size=50))
    assert callback.evaluation.counts["explained images"] == count
    (notice,) = [note for note in callback.evaluation.notes if "of an epoch" in note]
    share = 100 * min(count, 100) * seconds / own
    images = f"{count} of 100" if count < 100 else "all 100"
    part = f"{share:.2g}" if share < 10 else f"{share:.0f}"
    advice = (
        "max_images=... sets it"
        if seconds < 1
        else "at least 8 unless max_images=... says fewer; every_n_epochs=... does it less often, and"
        " fewer steps of methods, curves or attacks make an image cheaper"
    )
    assert notice == f"SaliencyMetrics explains {images} images: about {part} % of an epoch; {advice}"


def test_two_callbacks_share_the_tenth_and_the_number_is_kept_for_all_epochs(monkeypatch, tmp_path):
    monkeypatch.setattr(beginning, "_seconds_per_image", lambda *settings: 0.01)
    monkeypatch.setattr(Clock, "own", 10.0)
    monkeypatch.setattr(Clock, "spent", 0.0)
    callbacks = [
        metrics_callback(),
        metrics_callback(),
        SaliencyPanels({"gradient": Gradient()}, max_images=2),
    ]
    run = trainer(*callbacks, max_epochs=2, limit_train_batches=1)
    run.fit(Stranger(), loader(), loader(normalised(100), batch_size=50))
    assert [callback.affordable for callback in callbacks] == [32, 32, None]
    assert len(callbacks[2].evaluation.panels) == 2
    run.save_checkpoint(tmp_path / "last.ckpt")
    # What a resumed fit measures no longer matters.
    monkeypatch.setattr(Clock, "own", 1000.0)
    again = [metrics_callback(), metrics_callback(), panels()]
    resumed = trainer(*again, max_epochs=3, limit_train_batches=1)
    resumed.fit(
        Stranger(), loader(), loader(normalised(100), batch_size=50), ckpt_path=tmp_path / "last.ckpt"
    )
    assert again[0].evaluation.counts["explained images"] == 32
    assert explained(again[0]) == explained(callbacks[0])


def test_numbers_that_are_given_and_evaluations_outside_of_a_fit_are_taken_as_they_are():
    for most, count in [(3, 3), (None, 12)]:
        callback = metrics_callback(max_images=most)
        trainer(callback).fit(Stranger(), loader(), loader())
        assert callback.evaluation.counts["explained images"] == count
        assert callback.affordable is None
    callback = metrics_callback()
    trainer(callback).validate(Stranger(), loader(), verbose=False)
    assert callback.evaluation.counts["explained images"] == 12


class Passing(Stranger):
    """A step of training takes a second of a clock that nothing else moves."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def training_step(self, batch, batch_idx):
        self.now[0] += 1.0
        return super().training_step(batch, batch_idx)


def test_explaining_takes_less_than_a_tenth_by_default_and_its_seconds_are_logged(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow(classifier, images, query_class):
        now[0] += 0.05 * len(images)
        return images.detach()

    methods = {"slow": CallableAdapter(function=slow)}
    callbacks = [
        SaliencyMetrics(methods, [PerturbationCurve("deletion", steps=1)]),
        SaliencyPanels(methods, max_images=2),
    ]
    logged = []

    class Keeping(Callback):
        def on_validation_end(self, trainer, pl_module):
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    run = trainer(*callbacks, Keeping(), max_epochs=3)
    run.fit(Passing(now), loader(normalised(80)), loader(normalised(100)))
    # 20 seconds of training, of which 2 are 32 images of 0.05 seconds, and 40 would be as many.
    assert callbacks[0].affordable == 32
    for epoch in logged[1:]:
        assert epoch["val/explaining/seconds"] == pytest.approx(32 * 0.05)
        assert epoch["val/explaining/other_seconds"] == pytest.approx(20)
        assert epoch["val/explaining/share"] == pytest.approx(1.6 / 21.6)
    # The first one has measured on two images, twice.
    assert logged[0]["val/explaining/seconds"] == pytest.approx(36 * 0.05)
    for name in ("seconds", "other_seconds", "share"):
        key = f"val/explaining/{name}"
        assert callbacks[1].evaluation.timings[key] == pytest.approx(logged[-1][key])


@pytest.mark.filterwarnings("ignore:.*shuffling enabled")
def test_a_loader_that_shuffles_gives_the_same_images_each_time_and_says_so():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        callback = metrics_callback(max_images=8)
        data = loader(normalised(40), shuffle=True)
        trainer(callback).validate(Stranger(), data, verbose=False)
        found.append(explained(callback))
        assert "SaliencyMetrics explains about 8 of 40 images, by their content, as the loader shuffles" in (
            callback.evaluation.notes
        )
    assert found[0] == found[1]
    assert 2 <= len(found[0]) <= 16


class Stream(IterableDataset):
    def __init__(self):
        self.pictures = normalised(10)
        self.transform = self.pictures.transform

    def __iter__(self):
        return (self.pictures[index] for index in range(10))


def test_data_without_a_size_gives_the_first_images_and_says_so():
    callback = metrics_callback(max_images=6)
    trainer(callback).validate(Stranger(), loader(Stream()), verbose=False)
    assert callback.evaluation.counts["explained images"] == 6
    assert "SaliencyMetrics explains the first 6 images, as the data says no size" in (
        callback.evaluation.notes
    )
    whole = metrics_callback(max_images=None)
    trainer(whole).validate(Stranger(), loader(Stream()), verbose=False)
    assert whole.evaluation.counts["explained images"] == 10


def test_images_are_drawn_among_those_that_are_read():
    callback = metrics_callback(max_images=5)
    trainer(callback, limit_val_batches=2).validate(Stranger(), loader(normalised(80)), verbose=False)
    assert callback.evaluation.counts["explained images"] == 5
    first = metrics_callback(max_images=None)
    trainer(first, limit_val_batches=2).validate(Stranger(), loader(normalised(80)), verbose=False)
    assert set(explained(callback)) < set(explained(first))


@pytest.mark.filterwarnings("ignore:.*shuffling enabled")
def test_an_evaluation_in_which_nothing_is_explained_says_so():
    # Of 40 images none is among the lowest fortieth by this seed.
    callback = metrics_callback(max_images=1, seed=2)
    trainer(callback).validate(Stranger(), loader(normalised(40), shuffle=True), verbose=False)
    assert callback.evaluation is None
    assert "SaliencyMetrics explained no image: none that it takes was read (val)" in callback.run.notices
    with pytest.raises(ConfigError, match="nothing to explain: the evaluation's loaders gave no batch"):
        trainer(metrics_callback()).validate(Stranger(), loader(Empty()), verbose=False)


class Empty(IterableDataset):
    """Nothing comes of it."""

    def __iter__(self):
        return iter(())
