"""What users of torchmetrics and Lightning expect of any metric, of ours."""

import copy
import math
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper

from helpers.forked import CONTEXT
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Blur
from verisal.functional.statistics import Bootstrap
from verisal.metrics import (
    CascadingRandomisation,
    EnergyInside,
    ImageRows,
    MapSimilarity,
    PerturbationCurve,
    PointingGame,
    Smoothness,
)

COUNT, SIZE = 10, (6, 8)


def generated(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = generated(0, COUNT, 3, *SIZE)
MAPS = generated(1, COUNT, 1, *SIZE)
MASKS = generated(2, COUNT, *SIZE) > 0.6
LABELS = torch.arange(COUNT) % 3
IDS = [f"image {number}" for number in range(COUNT)]


class Net(nn.Module):
    """A stranger's network."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


def energy(rows):
    metric = EnergyInside()
    metric.update(MAPS[rows], MASKS[rows])
    return float(metric.compute())


def test_a_collection_is_updated_by_one_call():
    network = Net()
    collection = MetricCollection(
        [PointingGame(), EnergyInside(), Smoothness(), PerturbationCurve("insertion", steps=3)], prefix="val/"
    )
    given = {"images": IMAGES, "classifier": network}
    for rows in (slice(0, 4), slice(4, COUNT)):
        part = {"images": IMAGES[rows], "classifier": network}
        collection.update(MAPS[rows], MASKS[rows], **part)
    found = collection.compute()
    alone = [PointingGame(), EnergyInside(), Smoothness(), PerturbationCurve("insertion", steps=3)]
    assert set(found) == {f"val/{type(metric).__name__}" for metric in alone}
    for metric in alone:
        metric.update(MAPS, MASKS, **given)
        assert found[f"val/{type(metric).__name__}"].equal(metric.compute())
    collection.reset()
    with pytest.warns(UserWarning, match="no image was added"):
        assert all(value.isnan() for value in collection.compute().values())


def test_collections_of_stages_are_clones_with_other_names():
    validation = MetricCollection([EnergyInside(), PointingGame(tolerance=0)], prefix="val/")
    validation.update(MAPS[:4], MASKS[:4])
    test = validation.clone(prefix="test/")
    test.reset()
    test.update(MAPS, MASKS)
    found = test.compute()
    assert set(found) == {"test/EnergyInside", "test/PointingGame"}
    assert float(found["test/EnergyInside"]) == pytest.approx(energy(slice(0, COUNT)))
    assert float(validation.compute()["val/EnergyInside"]) == pytest.approx(energy(slice(0, 4)))


def test_equal_rows_of_several_metrics_of_a_kind_are_not_taken_for_one_metric():
    # Both hit on the first batch, which is what a collection decides its groups by.
    collection = MetricCollection({"near": PointingGame(tolerance=0), "far": PointingGame(tolerance=400)})
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[:, 2, 3] = True
    at = masks.float()
    collection.update(at, masks)
    collection.update(at.roll(2, dims=2), masks)
    found = collection.compute()
    assert float(found["near"]) == 0.5
    assert float(found["far"]) == 1.0


def test_the_value_of_a_batch_is_that_of_the_batch_and_all_are_kept():
    metric = EnergyInside()
    first, second = metric(MAPS[:3], MASKS[:3]), metric(MAPS[3:], masks=MASKS[3:])
    assert float(first) == pytest.approx(energy(slice(0, 3)))
    assert float(second) == pytest.approx(energy(slice(3, COUNT)))
    assert float(metric.compute()) == pytest.approx(energy(slice(0, COUNT)))
    assert metric.scores()["energy"].n == COUNT
    assert MetricCollection([EnergyInside()])(MAPS, MASKS)["EnergyInside"].shape == ()


def test_reset_clone_copy_and_pickle():
    metric = EnergyInside()
    metric.update(MAPS[:4], MASKS[:4])
    others = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]  # noqa: S301 - our own
    for other in others:
        other.update(MAPS[4:], MASKS[4:])
        assert float(other.compute()) == pytest.approx(energy(slice(0, COUNT)))
    assert float(metric.compute()) == pytest.approx(energy(slice(0, 4)))
    metric.reset()
    metric.update(MAPS[4:], MASKS[4:])
    assert float(metric.compute()) == pytest.approx(energy(slice(4, COUNT)))


def test_what_was_added_is_saved_where_that_is_asked_for():
    metric, other = EnergyInside(), EnergyInside()
    metric.update(MAPS[:4], MASKS[:4])
    assert not metric.state_dict()
    for each in (metric, other):
        each.persistent(True)
    other.load_state_dict(metric.state_dict())
    # Numbers go on where they were.
    other.update(MAPS[4:], MASKS[4:])
    assert float(other.compute()) == pytest.approx(energy(slice(0, COUNT)))
    assert other.scores()["energy"].n == COUNT


def test_metrics_of_several_machines_are_merged_by_the_names_of_images():
    first, second = EnergyInside(), EnergyInside()
    for metric, rows in ((first, slice(0, 4)), (second, slice(4, COUNT))):
        metric.update(MAPS[rows], MASKS[rows], image_ids=IDS[rows])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(energy(slice(0, COUNT)))
    assert float(second.compute()) == pytest.approx(energy(slice(4, COUNT)))
    with pytest.raises(DataError, match=r"6 images have one name in both metrics, such as 'image 4'"):
        first.merge_state(second)
    with pytest.raises(
        ConfigError, match=r"merge_state\(\) of EnergyInside\(\) needs the same metric, found Po"
    ):
        first.merge_state(PointingGame(tolerance=3))


def test_a_metric_shows_its_settings_that_are_not_the_default():
    curve = PerturbationCurve("insertion", baseline=Blur(sigma=2), steps=8)
    assert repr(curve) == "PerturbationCurve(kind='insertion', baseline=Blur(sigma=2), steps=8)"
    assert repr(PointingGame()) == "PointingGame()"
    assert repr(PointingGame(tolerance=3)) == "PointingGame(tolerance=3)"
    assert repr(MapSimilarity(lambda *_: MAPS, label="mine")).endswith("label='mine')")
    shown = repr(CascadingRandomisation(lambda *_: MAPS, IMAGES))
    assert "images=(10, 3, 6, 8) float32" in shown
    assert repr(MetricCollection([EnergyInside()], prefix="val/")).count("EnergyInside()") == 1


def test_the_value_is_on_the_device_of_the_metric(monkeypatch):
    metric = EnergyInside().to("meta")
    monkeypatch.setattr(metric, "table", lambda: ImageRows(("a",), torch.tensor([[0.5, 0.1, 1.0]])))
    assert metric.compute().device == metric.device == torch.device("meta")
    moved = EnergyInside()
    moved.update(MAPS, MASKS)
    module = nn.ModuleList([moved]).to(torch.float16)
    assert module[0].compute().dtype == torch.float32


def test_which_end_is_good_is_known_to_trackers():
    assert (EnergyInside().higher_is_better, PerturbationCurve().higher_is_better) == (True, False)
    assert Smoothness().higher_is_better is None
    tracker = MetricTracker(PerturbationCurve("insertion", steps=3), maximize=None)
    for classes in (0, 1, 2):
        tracker.increment()
        tracker.update(MAPS, images=IMAGES, classifier=Net(), query_class=classes)
    values = tracker.compute_all()
    assert values.shape == (3,)
    assert tracker.best_metric() == pytest.approx(float(values.max()))


def test_the_bootstrap_of_torchmetrics_takes_them():
    wrapped = BootStrapper(EnergyInside(), num_bootstraps=4, raw=True)
    wrapped.update(MAPS, MASKS)
    found = wrapped.compute()
    assert found["raw"].shape == (4,)
    assert float(found["mean"]) == pytest.approx(float(found["raw"].mean()))
    # 4 resamples of 10 images that all agree are no resamples.
    assert float(found["std"]) > 0


def test_plot_shows_the_value():
    metric = EnergyInside()
    metric.update(MAPS, MASKS)
    figure, axes = metric.plot()
    assert figure.axes == [axes]
    assert float(axes.lines[0].get_ydata()[0]) == pytest.approx(float(metric.compute()))


class Theirs(LightningModule):
    """A module of a stranger, who logs metrics as torchmetrics' documentation says."""

    def __init__(self, *, empty=False):
        super().__init__()
        self.net, self.empty = Net(), empty
        self.pointing, self.energy = PointingGame(), EnergyInside()
        self.collection = MetricCollection(
            {"insertion": PerturbationCurve("insertion", steps=2), "smoothness": Smoothness()}, prefix="val/"
        )
        self.expected = {}

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        images, labels, maps, masks = batch
        if not self.empty:
            self.pointing.update(maps, masks, query_class=labels)
            self.energy(maps, masks)
            self.collection.update(maps, images=images, classifier=self.net)
        self.log("val/pointing", self.pointing, on_step=False, on_epoch=True)
        self.log("val/energy", self.energy, on_step=not self.empty, on_epoch=True)
        self.log_dict(self.collection, on_epoch=True)

    def on_validation_epoch_end(self):
        if not self.empty:
            metrics = {
                "pointing": self.pointing,
                "energy": self.energy,
                **dict(self.collection.items(keep_base=True)),
            }
            self.expected = {name: metric.scores(Bootstrap(0)) for name, metric in metrics.items()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(module, *, epochs=2):
    data = DataLoader(TensorDataset(IMAGES, LABELS, MAPS, MASKS), batch_size=4)
    trainer = Trainer(
        logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=epochs,
    )  # fmt: skip
    trainer.fit(module, data, data)
    return trainer.callback_metrics


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_module_of_a_stranger_logs_them():
    module = Theirs()
    logged = fitted(module)
    mains = {
        "pointing": "accuracy",
        "energy_epoch": "energy",
        "insertion": "auc",
        "smoothness": "total_variation",
    }
    for name, main in mains.items():
        score = module.expected[name.removesuffix("_epoch")][main]
        # The sanity check and the first epoch are forgotten.
        assert score.n == COUNT
        assert float(logged[f"val/{name}"]) == pytest.approx(score.value, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_an_epoch_without_an_image_is_a_warning():
    with pytest.warns(UserWarning, match="no image was added before compute"):
        logged = fitted(Theirs(empty=True), epochs=1)
    assert math.isnan(logged["val/pointing"])


def _work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    # Uneven shares with a copy, as a padding sampler makes them.
    share = [[0, 2, 4, 6, 8], [1, 3, 5, 0]][rank]
    named, numbered = EnergyInside(), EnergyInside()
    collection = MetricCollection([PointingGame(), PerturbationCurve("insertion", steps=2)])
    ids = [IDS[row] for row in share]
    named.update(MAPS[share], MASKS[share], image_ids=ids)
    numbered.update(MAPS[share], MASKS[share])
    collection.update(
        MAPS[share],
        MASKS[share],
        images=IMAGES[share],
        classifier=Net(),
        image_ids=ids,
        query_class=LABELS[share],
    )
    alone = named.clone()
    batch = alone(MAPS[share], MASKS[share], image_ids=ids)
    found = {
        "energy": named.compute(),
        "scores": vars(named.scores(Bootstrap(50))["energy"]),
        "n": numbered.scores()["energy"].n,
        "batch": batch,
        **collection.compute(),
    }
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_where_images_have_names(tmp_path):
    processes = [CONTEXT.Process(target=_work, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
        assert process.exitcode == 0
    rows = [0, 1, 2, 3, 4, 5, 6, 8]
    one = EnergyInside()
    one.update(MAPS[rows], MASKS[rows], image_ids=[IDS[row] for row in rows])
    collection = MetricCollection([PointingGame(), PerturbationCurve("insertion", steps=2)])
    collection.update(
        MAPS[rows], MASKS[rows], images=IMAGES[rows], classifier=Net(), query_class=LABELS[rows],
        image_ids=[IDS[row] for row in rows],
    )  # fmt: skip
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert float(found["energy"]) == pytest.approx(float(one.compute()))
        assert found["scores"] == pytest.approx(vars(one.scores(Bootstrap(50))["energy"]))
        for name, value in collection.compute().items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-5)
        # Numbers know of no copies: all nine count.
        assert found["n"] == 9
        assert float(found["batch"]) == pytest.approx(energy([[0, 2, 4, 6, 8], [1, 3, 5, 0]][rank]))


def test_half_precision_maps_score_as_their_own_values():
    one, other = MapSimilarity(lambda *_: MAPS, label="same"), EnergyInside()
    other.update(MAPS.half(), MASKS)
    assert float(other.compute()) == pytest.approx(energy(slice(0, COUNT)), rel=1e-3)
    assert one.main == "spearman"
