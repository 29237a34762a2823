"""Scores of the callbacks against the metrics called by hand on the same images."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.explaining_toys import CLASSES, Brightness, Samples, Task, loader, right_labels, trainer
from verisal.callbacks import DisturbedLocalization, PerturbationCurves, SaliencyMetrics, SaliencyPanels
from verisal.callbacks.explaining.epoch import Epoch
from verisal.functional.baselines import Blur, Constant, DatasetMean, recommended_baselines
from verisal.functional.regions import choose_threshold, disturbed_queries
from verisal.functional.statistics import Bootstrap, ranking_agreement
from verisal.metrics import (
    CascadingRandomisation,
    DisturbedScores,
    EnergyInside,
    MapSimilarity,
    PerturbationCurve,
    PresentQueries,
    SensitivityMax,
)
from verisal.reporting.publication import main_table
from verisal.saliency import CentrePrior
from verisal.types import Batch, Explained

NAME = "D-WSOL (our protocol)"


@pytest.fixture
def whole():
    """Ten samples, the network, and the predicted classes."""
    samples = Samples(10, labels=right_labels(10))
    network = Task().classifier.eval().requires_grad_(False)
    batch = Batch.collate([samples[index] for index in range(10)])
    return batch, network, network(batch.images).argmax(dim=1)


def explained(whole, method):
    batch, network, query = whole
    return Explained(
        classifier=network,
        images=batch.images,
        query_class=query,
        result=method(network, batch.images, query),
        image_ids=batch.image_ids,
        explain=lambda images, query: method(network, images, query),
        object_masks=batch.object_mask_of(query),
        boxes=tuple(boxes[:1] for boxes in batch.boxes),
    )


def same(found, expected, prefix):
    for key, score in expected.items():
        other = found[f"{prefix}/{key}"]
        assert (other.n, other.undefined) == (score.n, score.undefined), key
        for end in ("value", "low", "high"):
            assert getattr(other, end) == pytest.approx(getattr(score, end), abs=1e-6, nan_ok=True), key


def test_metrics_of_every_method_are_those_of_the_metrics_alone(whole):
    method = Brightness(grey=0.6)
    metrics = [EnergyInside(), PerturbationCurve("insertion", steps=4), SensitivityMax(samples=2)]
    callback = SaliencyMetrics({"b": method}, metrics, randomisation_steps=2, resamples=50)
    trainer(callback).validate(Task(), loader(10, labels=right_labels(10)), verbose=False)
    evaluation = callback.evaluation
    alone = [
        EnergyInside(),
        PerturbationCurve("insertion", steps=4),
        SensitivityMax(samples=2),
        CascadingRandomisation(method, whole[0].images, steps=2),
    ]
    for metric in alone:
        metric.update(explained(whole, method))
        same(evaluation.scores, metric.scores(Bootstrap(50)), f"val/b/{metric.name}")
    assert evaluation.scores["val/b/network passes per map/forward"].value == 1.0
    assert evaluation.scores["val/b/network passes per map/backward"].value == 0.5
    assert evaluation.counts == {"explained images": 10}
    assert set(evaluation.timings) == {f"{name}: seconds per image" for name in ("b", "random", "centre")}
    lines = {curve.label: curve for curve in evaluation.curves}
    assert {name: line.n for name, line in lines.items()} == {"b": 10, "random": 10, "centre": 10}
    torch.testing.assert_close(lines["b"].y, alone[1].curves()["insertion"].mean)
    table = main_table(evaluation)
    assert table.columns[1:] == (
        "energy_inside ↑",
        "insertion[blur5]_steps4 ↑",
        "sensitivity_max[0.02,2] ↓",
        "cascading_randomisation[2] ↓",
    )
    row = next(row for row in table.rows if row[0] == "b")
    assert row[4] == evaluation.scores["val/b/cascading_randomisation[2]/spearman_2"].value


def test_rankings_of_the_methods_are_compared_over_all_settings(whole):
    methods = {f"b{grey}": Brightness(grey=grey) for grey in (0.1, 0.4, 0.6, 0.9)}
    baselines = [DatasetMean(), Blur(sigma=5)]
    callback = PerturbationCurves(
        methods, baselines=baselines, kinds=["insertion", "deletion"], steps=4, resamples=50
    )
    trainer(callback).validate(Task(), loader(10, labels=right_labels(10)), verbose=False)
    scores = callback.evaluation.scores
    areas = []
    for kind, sign in (("deletion", -1), ("insertion", 1)):
        rows = []
        for method in methods.values():
            metric = PerturbationCurve(kind, baseline=DatasetMean(), steps=4)
            rows.append(sign * metric.rows_of(explained(whole, method))[:, metric.columns.index("auc")])
        areas.append(torch.stack(rows))
    expected = ranking_agreement(areas[1], areas[0], Bootstrap(50))["kendall"]
    one, two = "insertion[dataset_mean]_steps4", "deletion[dataset_mean]_steps4"
    assert scores[f"val/{one}/ranking_consistency/{two}"] == expected
    assert sum("ranking_consistency" in name for name in scores) == 6  # pairs of four settings
    assert {curve.figure for curve in callback.evaluation.curves} >= {one, two}


def test_areas_are_averaged_over_the_baselines_image_by_image(whole):
    method, baselines = Brightness(), [DatasetMean(), Blur(sigma=5)]
    callback = PerturbationCurves(
        {"b": method}, baselines=baselines, kinds=["deletion", "insertion"], steps=4, resamples=50
    )
    trainer(callback).validate(Task(), loader(10, labels=right_labels(10)), verbose=False)
    found = callback.evaluation
    for kind in ("deletion", "insertion"):
        areas = []
        for baseline in baselines:
            metric = PerturbationCurve(kind, baseline=baseline, steps=4)
            areas.append(metric.rows_of(explained(whole, method))[:, metric.columns.index("auc")])
        name = f"{kind}[dataset_mean+blur5]_steps4"
        expected = {
            "auc": Bootstrap(50).mean((areas[0] + areas[1]) / 2).score(),
            "baseline_range": Bootstrap(50).mean((areas[0] - areas[1]).abs()).score(),
        }
        same(found.scores, expected, f"val/b/{name}")
        lines = zip(*(found.samples[key] for key in ("row", "score", "value")), strict=True)
        kept = [value for row, score, value in lines if (row, score) == ("b", f"{name}/auc")]
        assert kept == pytest.approx(((areas[0] + areas[1]) / 2).tolist())
        assert f"{name}: mean area per image over dataset_mean, blur5." in found.notes
    # The means stand in the main table, the single baselines do not.
    assert list(found.headline.values()) == [
        f"{kind}[dataset_mean+blur5]_steps4/{key}"
        for kind in ("deletion", "insertion")
        for key in ("auc", "baseline_range")
    ]


def test_the_recommended_baselines_are_the_default_and_have_one_name():
    names = []
    for baselines in (None, recommended_baselines()[::-1], [DatasetMean()]):
        callback = PerturbationCurves(
            {"b": Brightness()}, baselines=baselines, kinds=["deletion"], steps=2, resamples=0
        )
        trainer(callback).validate(Task(), loader(4), verbose=False)
        names.append({name.split("/")[2] for name in callback.evaluation.scores})
    assert names[0] == names[1] >= {"deletion[recommended]_steps2", "deletion[gauss]_steps2"}
    assert names[2] == {"deletion[dataset_mean]_steps2", "network passes per map"}


def test_a_set_of_many_baselines_is_named_by_their_number():
    baselines = [Constant(level=level / 10) for level in range(5)]
    callback = PerturbationCurves({"b": Brightness()}, baselines=baselines, kinds=["deletion"], steps=2)
    trainer(callback).validate(Task(), loader(4), verbose=False)
    assert "val/b/deletion[5 baselines]_steps2/auc" in callback.evaluation.scores
    assert any(
        "over black, level0.1, level0.2, level0.3, level0.4." in one for one in callback.evaluation.notes
    )


def test_fewer_than_four_methods_have_no_ranking():
    callback = PerturbationCurves({"b": Brightness()}, baselines=[DatasetMean()], steps=2, resamples=10)
    trainer(callback).validate(Task(), loader(4), verbose=False)
    ranks = [score for name, score in callback.evaluation.scores.items() if "ranking" in name]
    assert len(ranks) == 3
    assert all(math.isnan(score.value) and score.n == 0 for score in ranks)


def test_disturbed_localisation_is_that_of_its_metrics_at_a_threshold_chosen_elsewhere(whole):
    method, (batch, network, _) = Brightness(), whole
    # Held out: the same pictures under other names, of which the last two are classified wrongly.
    labels = right_labels(8)
    labels[6:] = (labels[6:] + 1) % CLASSES
    held_out = Samples(8, name="held out", labels=labels)
    callback = DisturbedLocalization({"b": method}, held_out, resamples=50)
    trainer(callback).test(Task(), loader(10, labels=right_labels(10)), verbose=False)
    scores = callback.evaluation.scores
    maps = method(network, held_out.images[:6], labels[:6]).saliency
    tau = choose_threshold(maps, [held_out[index].boxes[:1] for index in range(6)])
    assert scores[f"test/b/{NAME}/tau"].value == tau
    queries = disturbed_queries(
        network(batch.images), batch.labels, present=batch.object_labels, image_ids=batch.image_ids
    )
    absent = DisturbedScores(threshold=tau)
    absent.update(
        {
            name: method(network, batch.images, asked)
            for name, asked in zip(("c0", "c1", "c2", "c3"), queries.query_class, strict=True)
        },
        [boxes[:1] for boxes in batch.boxes],
        image_ids=batch.image_ids,
        valid=queries.valid,
    )
    same(scores, absent.scores(Bootstrap(50)), f"test/b/{NAME}")
    # Every other image has a second class; both classes are queries, the own box is the region.
    present = PresentQueries(threshold=tau)
    several = batch.rows([index for index in range(10) if index % 2])
    for place in (0, 1):
        classes = torch.stack([labels[place] for labels in several.object_labels])
        present.update(
            Explained(
                classifier=network,
                images=several.images,
                query_class=classes,
                result=method(network, several.images, classes),
                image_ids=tuple(f"{name} {place}" for name in several.image_ids),
                explain=lambda images, query: method(network, images, query),
                boxes=tuple(boxes[place : place + 1] for boxes in several.boxes),
            )
        )
    # Names, and with them the resamples, come in another order: the values are compared.
    for key, score in present.scores().items():
        assert scores[f"test/b/{NAME}, present classes/{key}"].value == pytest.approx(score.value)
    assert scores[f"test/b/{NAME}, present classes/hit"].n == 10
    assert any("c1 the second most likely" in note for note in callback.evaluation.notes)


def test_queries_that_share_their_passes_are_asked_together():
    calls = []

    class Together(Brightness):
        shares_passes = True

        def explain(self, classifier, images, query_class):
            calls.append(len(images))
            return super().explain(classifier, images, query_class)

    scores = []
    for method in (Together(), Brightness()):
        callback = DisturbedLocalization({"b": method}, Samples(4, name="held out", labels=right_labels(4)))
        trainer(callback).test(Task(), loader(4, labels=right_labels(4)), verbose=False)
        scores.append(callback.evaluation.scores)
    assert scores[0] == scores[1]
    # The threshold's images, then all four queries of four images, among them all that comes later.
    assert calls == [4, 16]


def test_further_scenes_count_for_present_classes_alone():
    held_out = Samples(8, name="held out", labels=right_labels(8))
    several = Samples(6, name="several", labels=right_labels(6))
    callback = DisturbedLocalization({"b": Brightness()}, held_out, several=several, several_images=4)
    trainer(callback).test(Task(), loader(2, labels=right_labels(2)), verbose=False)
    scores = callback.evaluation.scores
    # One of the two own samples and two of the four further ones have two classes each.
    assert scores[f"test/b/{NAME}, present classes/hit"].n == 6
    assert scores[f"test/b/{NAME}/accuracy_c0"].n == 2


def test_an_image_whose_class_has_difficult_objects_alone_counts_for_no_query():
    held_out = Samples(8, name="held out", labels=right_labels(8))
    samples = [Samples(4, labels=right_labels(4))[index] for index in range(4)]
    # Of 1 the object of its own class, of 3 the other one, which then is neither present nor absent.
    for index, marks in ((1, [True, False]), (3, [False, True])):
        samples[index] = replace(samples[index], difficult=torch.tensor(marks))
    callback = DisturbedLocalization({"b": Brightness()}, held_out)
    data = DataLoader(samples, batch_size=2, collate_fn=Batch.collate)
    trainer(callback).test(Task(), data, verbose=False)
    scores = callback.evaluation.scores
    assert scores[f"test/b/{NAME}/accuracy_c0"].n == 3
    # 1 and 3 have two classes, but only one each that a map is asked for.
    assert not any("present classes" in name and score.n for name, score in scores.items())


def test_stored_rows_are_those_of_the_same_objects(tmp_path):
    epoch = Epoch("val", Task().classifier, device=torch.device("cpu"), folder=tmp_path)
    batch = Batch.collate([Samples(2)[1]])
    computed = []

    def rows(batch):
        def compute():
            computed.append(batch)
            return torch.tensor([[float(len(computed))]])

        return float(epoch.rows("b", [Brightness()], batch, {"x": compute}, objects=True)["x"])

    assert [rows(batch), rows(batch)] == [1.0, 1.0]
    assert rows(replace(batch, difficult=(torch.tensor([False, True]),))) == 2.0
    assert rows(replace(batch, boxes=(batch.boxes[0] + 1,))) == 3.0
    assert rows(batch) == 1.0


def test_stored_rows_are_those_of_the_same_other_method(tmp_path):
    batch, network = Batch.collate([Samples(3)[index] for index in range(3)]), Task().classifier.eval()
    shift = 0.0

    def theirs(_, images, query_class):
        return images.mean(dim=1) + shift * torch.rand(images.shape[2:])

    found = []
    for other in (Brightness(), CentrePrior(), Brightness(), theirs, theirs):
        epoch = Epoch("val", network, device=torch.device("cpu"), folder=tmp_path)
        callback = SaliencyMetrics({"b": Brightness()}, [MapSimilarity(other, label="other")])
        callback.begin(epoch)
        epoch.open(batch)
        callback.add(epoch, epoch.seen(batch))
        found.append(callback.measured["b"][0].table().rows)
        shift += 1
    assert found[0].equal(found[2])
    # Of a function nobody can tell whether it still is the same.
    assert len({str(rows.tolist()) for rows in found[1:]}) == 4
    assert len(list(tmp_path.glob("b/*.safetensors"))) == 3


def test_panels_hold_images_and_the_maps_of_every_method(whole):
    callback = SaliencyPanels({"b": Brightness()}, max_images=3)
    trainer(callback).validate(Task(), loader(10), verbose=False)
    panels = callback.evaluation.panels
    assert len(panels) == 3
    batch, network, query = whole
    for panel in panels:
        index = batch.image_ids.index(panel.image_id)
        assert torch.equal(panel.image, batch.images[index])
        assert list(panel.maps) == ["b", "random", "centre"]
        expected = Brightness()(network, batch.images[index : index + 1], query[index : index + 1])
        torch.testing.assert_close(panel.maps["b"], expected.saliency[0, 0])
