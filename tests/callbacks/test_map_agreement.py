"""Agreement of maps within groups of methods: the arithmetic of functional, rows per image kept."""

import math

import pytest
import torch

from helpers.explaining_toys import Brightness, Samples, Task, loader, trainer
from verisal.callbacks import MapAgreement
from verisal.errors import ConfigError
from verisal.functional.comparison import map_agreement, spearman
from verisal.functional.comparison.similarity import diverges
from verisal.functional.statistics import Bootstrap
from verisal.reporting import CsvSink
from verisal.reporting.publication import main_table
from verisal.saliency import RISE, Occlusion
from verisal.types import Batch

METHODS = {
    "coarse": RISE(cells=2, masks=20),
    "coarse again": RISE(cells=2, masks=20, seed=1),
    "fine": RISE(cells=5, masks=20),
    "small": Occlusion(window=4, stride=2),
    "large": Occlusion(window=8, stride=4),
    "long": Occlusion(window=8, stride=8),
}
GROUPS = {"grid": ["coarse", "fine"], "window": ["small", "large", "long"]}
REPEATS = {"grid": [("coarse", "coarse again")]}


@pytest.fixture
def whole():
    samples = Samples(7)
    network = Task().classifier.eval().requires_grad_(False)
    batch = Batch.collate([samples[index] for index in range(7)])
    query = network(batch.images).argmax(dim=1)
    maps = {name: one(network, batch.images, query).saliency for name, one in METHODS.items()}
    return batch.image_ids, maps


def run(callback, **settings):
    trainer(callback, **settings).validate(Task(), loader(7, batch_size=3), verbose=False)
    return callback.evaluation


def same(found, expected):
    assert (found.n, found.undefined) == (expected.n, expected.undefined)
    for end in ("value", "low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(expected, end), abs=1e-6)


def test_scores_are_those_of_the_maps_of_all_images_at_once(whole):
    ids, maps = whole
    found = run(MapAgreement(METHODS, GROUPS, repeats=REPEATS, resamples=50))
    for group, members in GROUPS.items():
        repeats = [(maps[one], maps[other]) for one, other in REPEATS.get(group, [])]
        alike = map_agreement([maps[name] for name in members], image_ids=ids, repeats=repeats)
        scores = {
            name: Bootstrap(50).mean(getattr(alike, name), kind="measure").score()
            for name in ("similarity", "floor", "control")
        }
        prefix = f"val/{group}/map_agreement"
        for name in ("similarity", "floor", "control"):
            same(found.scores[f"{prefix}/{name}"], scores[name])
        apart = diverges(scores["similarity"], scores["floor"])
        assert found.scores[f"{prefix}/diverges"].value == float(apart)
        assert found.scores[f"{prefix}/repeats"].value == len(repeats)
    assert found.scores["val/window/map_agreement/floor"].low == 1.0
    pair = found.scores["val/window/map_agreement/small ~ long"]
    assert pair.value == pytest.approx(spearman(maps["small"], maps["long"]).mean().item())
    assert found.counts == {"images of the map agreement": 7}
    assert {row[0] for row in main_table(found).rows} == {"grid", "window"}


def test_rows_per_image_and_a_heat_map_per_group(whole):
    ids, maps = whole
    found = run(MapAgreement(METHODS, GROUPS, repeats=REPEATS, resamples=0))
    lines = zip(*found.samples.values(), strict=True)
    rows = {(image, row, score): value for image, row, score, value in lines}
    assert len(rows) == 7 * (4 + 6)  # of the groups' columns: 3 and a pair, 3 and 3 pairs
    expected = spearman(maps["coarse"], maps["fine"]).tolist()
    assert [rows[name, "grid", "map_agreement/coarse ~ fine"] for name in ids] == pytest.approx(expected)
    window = found.heatmaps[1]
    assert (window.figure, window.rows) == ("map_agreement_window", ("small", "large", "long"))
    assert window.values.diagonal().isnan().all()
    assert torch.equal(window.values.nan_to_num(), window.values.T.nan_to_num())
    expected = spearman(maps["small"], maps["large"]).mean().item()
    assert window.values[1, 0].item() == pytest.approx(expected)


def test_without_intervals_there_is_no_verdict():
    found = run(MapAgreement(METHODS, GROUPS, resamples=0))
    assert math.isnan(found.scores["val/grid/map_agreement/diverges"].value)


def test_methods_in_no_group_are_not_run_and_rows_of_a_stopped_run_are_found(tmp_path):
    Brightness.seen.clear()
    methods = {"a": Brightness(grey=0.2), "b": Brightness(grey=0.7), "idle": Brightness(grey=0.5)}
    found = []
    for _ in range(2):
        callback = MapAgreement(methods, {"greys": ["a", "b"]}, resamples=20)
        found.append(run(callback, logger=CsvSink(tmp_path)))
        assert sorted({grey for grey, _ in Brightness.seen}) == [0.2, 0.7]
        assert len(Brightness.seen) == 14
    assert found[0].scores == pytest.approx(found[1].scores, nan_ok=True)
    # Another setting of one method of the group is another row.
    run(
        MapAgreement({**methods, "b": Brightness(grey=0.6)}, {"greys": ["a", "b"]}, resamples=20),
        logger=CsvSink(tmp_path),
    )
    assert len(Brightness.seen) == 28


@pytest.mark.parametrize(
    ("groups", "repeats", "message"),
    [
        ({}, {}, "at least one"),
        ({"one": ["small"]}, {}, "at least two different"),
        ({"one": ["small", "small"]}, {}, "at least two different"),
        ({"one": ["small", "huge"]}, {}, r"must name methods, found \['huge'\]"),
        ({"small": ["small", "large"]}, {}, "not that of a method"),
        ({"a/b": ["small", "large"]}, {}, "without a slash"),
        ({"one": ["small", "large"]}, {"two": [("coarse", "fine")]}, r"repeats of \['two'\]"),
        ({"one": ["small", "large"]}, {"one": [("small", "gone")]}, r"found \['gone'\]"),
        ({"one": ["small", "large"]}, {"one": [("small", "small")]}, "another seed"),
    ],
)
def test_groups_that_make_no_sense_are_refused(groups, repeats, message):
    with pytest.raises(ConfigError, match=message):
        MapAgreement(METHODS, groups, repeats=repeats)
