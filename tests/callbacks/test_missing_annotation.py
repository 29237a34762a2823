"""Metrics that need boxes or masks, on data without them: one sentence each, with counts."""

import math
from dataclasses import replace

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from helpers import strangers
from helpers.explaining_toys import Brightness, Samples, Task, right_labels, trainer
from verisal.callbacks import SaliencyMetrics
from verisal.callbacks.explaining.run import Run, Told
from verisal.metrics import EnergyInside, MaxBoxAcc, PerturbationCurve, PointingGame
from verisal.reporting.publication import main_table
from verisal.saliency import CallableAdapter, Gradient
from verisal.types import Batch


class Bare(Samples):
    """Samples without an object, but for the first ``annotated``; all classified correctly."""

    def __init__(self, count, *, annotated=0):
        super().__init__(count, labels=right_labels(count))
        self.annotated = annotated

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if index < self.annotated:
            return sample
        nothing = {name: getattr(sample, name)[:0] for name in ("object_labels", "object_masks", "boxes")}
        return replace(sample, **nothing, difficult=torch.zeros(0, dtype=torch.bool))


def evaluated(metrics, *, methods=None, **data):
    callback = SaliencyMetrics(methods or {"b": Brightness()}, metrics, resamples=10)
    loader = DataLoader(Bare(10, **data), batch_size=4, collate_fn=Batch.collate)
    trainer(callback).validate(Task(), loader, verbose=False)
    return callback.evaluation


def test_classification_alone_gives_deletion_and_two_sentences():
    evaluation = evaluated([EnergyInside(), PointingGame(), PerturbationCurve("deletion", steps=3)])
    assert [note for note in evaluation.notes if " of 10 images " in note] == [
        f"{kind}: 0 of 10 images have an object of the predicted class;"
        " without masks or boxes its scores are NaN"
        for kind in ("EnergyInside", "PointingGame")
    ]
    deletion = evaluation.scores["val/b/deletion[dataset_mean]_steps3/auc"]
    assert math.isfinite(deletion.value)
    assert deletion.n == 10
    for metric in (EnergyInside(), PointingGame()):
        score = evaluation.scores[f"val/b/{metric.name}/{metric.main}"]
        assert math.isnan(score.value)
        assert (score.n, score.undefined) == (0, 10)
        assert f"{metric.name}/{metric.main}" in evaluation.headline.values()
    assert "energy_inside" in str(main_table(evaluation))


def test_images_that_lack_annotation_are_counted_and_left_out():
    evaluation = evaluated([EnergyInside(), MaxBoxAcc()], annotated=3)
    assert [note for note in evaluation.notes if " of 10 images " in note] == [
        "EnergyInside: 7 of 10 images have no object of the predicted class and are left out",
        "MaxBoxAcc: 7 of 10 images have no box of the predicted class and are left out",
    ]
    assert evaluation.scores["val/b/energy_inside/energy"].n == 3


def test_maps_that_cannot_be_scored_are_said_by_method():
    def flat(classifier, images, query_class):
        return images.detach() * 0 + 1

    evaluation = evaluated([EnergyInside()], methods={"flat": CallableAdapter(function=flat)}, annotated=10)
    assert [note for note in evaluation.notes if "NaN" in note] == [
        "flat: EnergyInside: none of 10 images can be scored, and its scores are NaN:"
        " their maps are constant or not finite, or the network's answers are not finite"
    ]
    assert evaluation.scores["val/flat/energy_inside/energy"].undefined == 10
    assert evaluation.scores["val/random/energy_inside/energy"].n == 10


def test_a_stranger_is_told_once_and_shown_every_epoch(caplog):
    metrics = [EnergyInside(), PointingGame(), PerturbationCurve("deletion", steps=3)]
    callback = SaliencyMetrics({"gradient": Gradient()}, metrics, max_images=None)
    found = []

    class Keeping(Callback):
        def on_validation_end(self, trainer, pl_module):
            found.append(callback.evaluation)

    module = strangers.Stranger()
    with caplog.at_level("INFO"):
        strangers.trainer(callback, Keeping(), max_epochs=2).fit(
            module, strangers.loader(), strangers.loader()
        )
    sentences = [
        f"{kind}: 0 of 12 images have an object of the predicted class;"
        " without masks or boxes its scores are NaN"
        for kind in ("EnergyInside", "PointingGame")
    ]
    assert [record.message for record in caplog.records if "predicted class" in record.message] == sentences
    shown = [evaluation for evaluation in found if evaluation is not None]
    assert len(shown) == 2
    for evaluation in shown:
        assert [note for note in evaluation.notes if "predicted class" in note] == sentences
        assert evaluation.scores["val/gradient/deletion[dataset_mean]_steps3/auc"].n == 12


def test_a_sentence_goes_when_it_no_longer_holds_and_has_the_numbers_of_the_last_epoch(caplog):
    run = Run(Told())
    with caplog.at_level("INFO"):
        run.notice("energy", "")
        run.notice("energy", "7 of 10 images lack it")
        run.notice("energy", "3 of 10 images lack it")
    assert run.notices == ("3 of 10 images lack it",)
    assert [record.message for record in caplog.records] == ["7 of 10 images lack it"]
    run.notice("energy", "")
    assert run.notices == ()
