"""Maps by class rank and noise in gates, in a run."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule

from helpers.explaining_toys import CLASSES, Brightness, Samples, Task, loader, right_labels, trainer
from helpers.saliency_cases import toy_classifier
from verisal.callbacks import ClassRanks, GateNoise
from verisal.errors import ConfigError, DataError
from verisal.reporting import CsvSink
from verisal.saliency import Gradient, HierarchicalMasks
from verisal.types import Batch

METHODS = {"brightness": Brightness()}
MASKS = HierarchicalMasks(reg_weight=0.02, steps=5, learning_rate=0.2)


class Staged(LightningModule):
    """Around a classifier with stages."""

    def __init__(self):
        super().__init__()
        self.classifier = toy_classifier()

    def validation_step(self, batch, batch_idx):
        return None


def ranks(**settings):
    held_out = Samples(8, name="held out", labels=right_labels(8))
    return ClassRanks(METHODS, **{"ranks": [2, 3], "held_out": held_out, "resamples": 20} | settings)


def validated(callback, task=None, **settings):
    run = trainer(callback, **settings)
    run.validate(task or Task(), loader(10, labels=right_labels(10)), verbose=False)
    return callback.evaluation


def test_responses_are_those_of_the_method_by_hand():
    found = validated(ranks())
    samples = Samples(10, labels=right_labels(10))
    batch = Batch.collate([samples[index] for index in range(10)])
    network = Task().classifier.eval()
    with torch.no_grad():
        order = network(batch.images).argsort(dim=1, descending=True)
    size = [Brightness()(network, batch.images, order[:, place]).raw.flatten(1) for place in range(CLASSES)]
    for place, name in ((1, "rank2"), (2, "rank3"), (CLASSES - 1, "last")):
        absent = torch.tensor(
            [int(query) not in own for query, own in zip(order[:, place], batch.object_labels, strict=True)]
        )
        ratio = (size[place].norm(dim=1) / size[0].norm(dim=1))[absent]
        score = found.scores[f"val/brightness/class ranks/norm[{name}]"]
        assert (score.value, score.n) == (pytest.approx(float(ratio.mean()), rel=1e-5), int(absent.sum()))
    control = found.scores["val/centre/class ranks/response[last]"]
    assert control.value == pytest.approx(1.0)
    assert found.counts == {"correctly classified images (class ranks)": 10}
    lines = zip(*(found.samples[key] for key in ("row", "score", "value")), strict=True)
    kept = [line[2] for line in lines if line[:2] == ("brightness", "class ranks/norm[last]")]
    defined = [value for value in kept if value == value]
    assert sum(defined) / len(defined) == pytest.approx(
        found.scores["val/brightness/class ranks/norm[last]"].value
    )


def test_ranks_beyond_the_classes_are_undefined_and_wrong_predictions_do_not_count():
    callback = ranks(ranks=[2, 9])
    wrong = (right_labels(10) + 1) % CLASSES
    mixed = torch.where(torch.arange(10) < 4, right_labels(10), wrong)
    trainer(callback).validate(Task(), loader(10, labels=mixed), verbose=False)
    assert callback.evaluation.counts == {"correctly classified images (class ranks)": 4}
    assert callback.evaluation.scores["val/brightness/class ranks/norm[rank9]"].n == 0


def test_without_held_out_images_nothing_is_said_of_boxes():
    found = validated(ranks(held_out=None))
    titles = {name.rpartition("/")[2].partition("[")[0] for name in found.scores}
    assert titles == {"response", "norm", "spearman", "ssim"}
    assert found.scores["val/brightness/class ranks/spearman[last]"].n > 0


def test_raw_maps_are_drawn_by_query():
    found = validated(ranks(drawn=["brightness"], drawn_images=2))
    assert len(found.panels) == 2
    assert list(found.panels[0].maps) == [
        f"brightness, {name}" for name in ("c0", "rank 2", "rank 3", "last")
    ]


def test_rows_are_found_again_and_pictures_made_again(tmp_path):
    settings = {"logger": CsvSink(tmp_path)}
    first = validated(ranks(drawn=["brightness"]), **settings)
    Brightness.seen.clear()
    again = validated(ranks(drawn=["brightness"]), **settings)
    assert len(Brightness.seen) == 4
    assert str(first.scores) == str(again.scores)
    assert str(first.samples) == str(again.samples)
    for one, two in zip(first.panels[0].maps.values(), again.panels[0].maps.values(), strict=True):
        assert torch.equal(one, two)


def test_held_out_images_are_not_reported():
    with pytest.raises(DataError, match="both reported and held out"):
        validated(ranks(held_out=Samples(10, labels=right_labels(10))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ranks": [1, 2]}, "rise from 2"),
        ({"ranks": [3, 2]}, "rise from 2"),
        ({"drawn": ["else"]}, r"drawn names methods \['else'\]; known"),
        ({"held_out_images": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        ranks(**settings)


def test_noise_is_that_of_the_gates_by_hand():
    callback = GateNoise({"masks": MASKS}, resamples=20)
    trainer(callback).validate(Staged(), loader(6), verbose=False)
    network, batch = toy_classifier(), Batch.collate([Samples(6)[index] for index in range(6)])
    with torch.no_grad():
        logits = network(batch.images)
        first = network.prefix(batch.images)
        query = logits.argsort(dim=1, descending=True)[:, 1]
        gates = MASKS.gates(network, batch.images, query)
        spread = logits.amax(dim=1) - logits.amin(dim=1)

        def of_query(values):
            return values.gather(1, query[:, None])[:, 0]

        kept = of_query(network.gated(first, gates))
        nothing = of_query(network.gated(first, [torch.zeros_like(gate) for gate in gates]))
        mirrored = of_query(network.gated(first, [gate.flip(-1) for gate in gates]))
    plain = of_query(logits)
    expected = {
        "change": kept - plain,
        "excess": kept - torch.maximum(plain, nothing),
        "mirrored_fall": kept - mirrored,
    }
    found = callback.evaluation.scores
    for name, values in expected.items():
        score = found[f"val/masks/gate noise/{name}[rank2]"]
        assert score.value == pytest.approx(float((values / spread).mean()), abs=1e-5)
    assert not [name for name in found if "/random/" in name or "/centre/" in name]


def test_a_wide_blur_leaves_means_and_a_flat_gate_loses_nothing():
    callback = GateNoise({"masks": HierarchicalMasks(reg_weight=0, steps=5, learning_rate=0.2)}, resamples=0)
    trainer(callback).validate(Staged(), loader(4), verbose=False)
    # Without a penalty gates stay at 1 where they start.
    fall = callback.evaluation.scores["val/masks/gate noise/fall[c0]"].value
    assert fall == pytest.approx(0.0, abs=1e-5)
    assert math.isclose(callback.evaluation.scores["val/masks/gate noise/change[c0]"].value, 0, abs_tol=1e-5)


def test_noise_needs_gates_and_stages():
    with pytest.raises(ConfigError, match=r"without gates \['gradient'\]"):
        GateNoise({"gradient": Gradient()})
    with pytest.raises(ConfigError, match="sigma -1"):
        GateNoise({"masks": MASKS}, sigma=-1)
    with pytest.raises(ConfigError, match="gates stages, and Network has none"):
        trainer(GateNoise({"masks": MASKS})).validate(Task(), loader(4), verbose=False)
