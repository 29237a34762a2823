"""Queries of every class of a scene, and of absent ones, in a run."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch.utils.data import DataLoader

from helpers.explaining_toys import CLASSES, SIZE, Brightness, Samples, Task, loader, trainer
from verisal.callbacks import DisturbedLocalization, SaliencyMetrics, SceneQueries
from verisal.data import AnnotatedImages, ImageFolder, ImagesLike, ImageSplits, Mosaics, PastedCuts
from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap
from verisal.metrics import EnergyInside, MaxBoxAcc, PointingGame
from verisal.reporting import CsvSink
from verisal.types import Batch

METHODS = {"brightness": Brightness()}
COUNT = 10


def queries(**settings):
    return SceneQueries(METHODS, **{"metrics": [EnergyInside()], "resamples": 50} | settings)


def validated(callback, **settings):
    trainer(callback, **settings).validate(Task(), loader(COUNT), verbose=False)
    return callback.evaluation


def by_hand(samples=None, *, among_first=None):
    """Energy inside of every class that is there: image, class and value, one after the other."""
    samples = samples or Samples(COUNT)
    batch = Batch.collate([samples[index] for index in range(len(samples))])
    network = Task().classifier.eval()
    found = []
    with torch.no_grad():
        order = network(batch.images).argsort(dim=1, descending=True)
    for row, labels in enumerate(batch.object_labels):
        for label in sorted(set(labels.tolist())):
            if among_first is not None and label not in order[row, :among_first].tolist():
                continue
            query = torch.tensor([label])
            energy = Brightness()(network, batch.images[row : row + 1], query).saliency[0, 0]
            mask = batch.object_masks[row][labels == label].any(dim=0)
            found.append((batch.image_ids[row], label, float(energy[mask].sum() / energy.sum())))
    return found


@pytest.mark.parametrize("among_first", [None, 1, 2])
def test_every_class_that_is_there_is_a_query_of_its_own(among_first):
    found = validated(queries(among_first=among_first))
    expected = by_hand(among_first=among_first)
    score = found.scores["val/brightness/present energy_inside/energy"]
    assert score.n == len(expected)
    assert score.value == pytest.approx(np.mean([value for *_, value in expected]), rel=1e-5)
    lines = zip(*(found.samples[key] for key in ("image_id", "row", "score", "value")), strict=True)
    kept = {line[0]: line[3] for line in lines if line[1:3] == ("brightness", "present energy_inside/energy")}
    assert kept == {
        f"{image_id} class {label}": pytest.approx(value, rel=1e-5) for image_id, label, value in expected
    }
    assert found.counts == {"queries of present classes, present": len(expected)}


def test_intervals_are_over_scenes():
    score = validated(queries(among_first=None)).scores["val/brightness/present energy_inside/energy"]
    expected = sorted(by_hand(), key=lambda query: f"{query[0]} class {query[1]}")
    ids = [image_id for image_id, *_ in expected]
    groups = torch.tensor([sorted(set(ids)).index(image_id) for image_id in ids])
    values = torch.tensor([value for *_, value in expected], dtype=torch.float64)
    literal = Bootstrap(50, groups=groups).jointly(len(values)).mean(values).score()
    assert (score.low, score.high) == pytest.approx((literal.low, literal.high), rel=1e-5)


def test_responses_of_absent_classes_are_those_by_hand():
    found = validated(queries(among_first=None))
    samples, network = Samples(COUNT), Task().classifier.eval()
    ratios = []
    for index in range(COUNT):
        sample = samples[index]
        with torch.no_grad():
            logits = network(sample.image[None])[0]
        there = set(sample.object_labels.tolist())
        first = max(there, key=lambda label: float(logits[label]))
        likely = max(set(range(CLASSES)) - there, key=lambda label: float(logits[label]))
        size = [
            float(Brightness()(network, sample.image[None], torch.tensor([query])).raw.sum())
            for query in (first, likely)
        ]
        ratios.append(size[1] / size[0])
    score = found.scores["val/brightness/present absent classes/response[likely]"]
    assert (score.value, score.n) == (pytest.approx(np.mean(ratios), rel=1e-5), COUNT)
    # Of four classes none is outside the five most likely ones.
    assert found.scores["val/brightness/present absent classes/response[random]"].n == 0
    assert found.scores["val/centre/present absent classes/response[likely]"].value == pytest.approx(1.0)
    without = validated(queries(among_first=None, absent=False))
    assert not [name for name in without.scores if "absent" in name]


def test_scenes_of_their_own_are_explained_in_the_place_of_the_evaluations():
    few = [query for query in by_hand(Samples(6, name="scenes")) if int(query[0][-3:]) < 4]
    Brightness.seen.clear()
    found = validated(
        queries(scenes=Samples(6, name="scenes"), scenes_count=4, among_first=None, absent=False)
    )
    score = found.scores["val/brightness/samples energy_inside/energy"]
    assert (score.n, score.value) == (
        len(few),
        pytest.approx(np.mean([value for *_, value in few]), rel=1e-5),
    )
    assert len(Brightness.seen) == len(few)


def test_names_of_scores_say_the_scenes_and_both_callbacks_are_reported():
    first = queries(among_first=None, called="pairs of things", metrics=[EnergyInside(), MaxBoxAcc()])
    second = SaliencyMetrics(METHODS, [EnergyInside()], resamples=0)
    trainer(second, first).validate(Task(), loader(COUNT), verbose=False)
    names = first.names(after=[second])
    assert "val/brightness/pairs_of_things_energy_inside" in names
    assert "val/brightness/energy_inside" in second.names()
    assert list(first.evaluation.headline) == [
        "pairs of things energy_inside ↑",
        "pairs of things max_box_acc[iou0.5] ↑",
        "pairs of things response, likely absent ↓",
        "pairs of things response, random absent ↓",
    ]
    assert math.isfinite(second.evaluation.scores["val/brightness/energy_inside/energy"].value)


def test_rows_are_found_again(tmp_path):
    settings = {"logger": CsvSink(tmp_path)}
    first = validated(queries(among_first=None), **settings)
    Brightness.seen.clear()
    again = validated(queries(among_first=None), **settings)
    assert not Brightness.seen
    assert str(first.scores) == str(again.scores)
    # Other queries are other rows.
    assert validated(queries(among_first=1), **settings).counts != first.counts


def test_nothing_is_scored_without_an_object_that_is_asked_for():
    class Bare(Samples):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            difficult = torch.ones(len(sample.object_labels), dtype=torch.bool)
            return type(sample)(*list(vars(sample).values())[:6], difficult)

    callback = queries(among_first=None)
    data = DataLoader(Bare(4), batch_size=4, collate_fn=Batch.collate)
    trainer(callback).validate(Task(), data, verbose=False)
    assert callback.evaluation is None
    assert "present: no scene has an object of a class; nothing is scored" in callback.run.notices


class Folded(LightningModule):
    """Around the toy network, for square images."""

    def __init__(self):
        super().__init__()
        self.classifier = Task().classifier

    def validation_step(self, batch, batch_idx):
        return None


@pytest.fixture
def photographs(tmp_path):
    """Six textures of each of four classes, on disk."""
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / f"class{number % CLASSES}"
        folder.mkdir(exist_ok=True)
        texture = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(texture).save(folder / f"{number:02}.png")
    splits = ImageSplits(images=ImageFolder(root=str(tmp_path)), ratios=(0, 1, 1))
    names = tuple(f"class{number}" for number in range(CLASSES))
    return AnnotatedImages(splits, "val", classifier=ImagesLike(class_names=names, image_size=SIZE[0]))


def test_scenes_are_made_of_the_evaluations_own_photographs(photographs):
    mosaics = queries(scenes=Mosaics(), among_first=None, metrics=[EnergyInside(), PointingGame()])
    cuts = queries(scenes=PastedCuts(), among_first=None, absent=False)
    further = DisturbedLocalization(
        METHODS, held_out=Mosaics(split="test"), several=PastedCuts(split="test"), resamples=0
    )
    data = DataLoader(photographs, batch_size=4, collate_fn=Batch.collate)
    apart = DisturbedLocalization(METHODS, held_out="test", resamples=0)
    trainer(mosaics, cuts, further, apart).validate(Folded(), data, verbose=False)
    own = Mosaics().of(photographs)
    expected = by_hand([own[index] for index in range(len(own))])
    score = mosaics.evaluation.scores["val/brightness/mosaics energy_inside/energy"]
    assert score.n == 4 * len(own) == len(expected)
    assert score.value == pytest.approx(np.mean([value for *_, value in expected]), rel=1e-4)
    # A map that says nothing has a quarter of its energy in a cell.
    control = mosaics.evaluation.scores["val/random/mosaics energy_inside/energy"]
    assert control.value == pytest.approx(0.25, abs=0.02)
    pasted = cuts.evaluation.scores["val/brightness/pasted cuts energy_inside/energy"]
    assert pasted.n == len(PastedCuts().of(photographs))
    # Nothing is marked in the photographs themselves, so no threshold can be chosen on them.
    held_out = [callback._held_out.image_ids for callback in (further, apart)]
    other = photographs.of_split("test")
    assert held_out[0] == tuple(map(Mosaics().of(other).image_id, range(len(Mosaics().of(other)))))
    assert held_out[1] == tuple(map(other.image_id, range(len(other))))


def test_scenes_are_made_of_photographs_alone():
    with pytest.raises(
        ConfigError, match="Mosaics is of photographs on disk, and the evaluation reads Samples"
    ):
        validated(queries(scenes=Mosaics()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": []}, "at least one, each once"),
        ({"metrics": EnergyInside()}, "must be a list of metrics"),
        ({"called": " "}, "words without a slash, found ' '"),
        ({"called": "a/b"}, "words without a slash"),
        ({"among_first": 0}, "among_first"),
        ({"scenes_count": 0}, "scenes_count"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        queries(**settings)
