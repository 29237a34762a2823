"""D-WSOL on a stranger's module and data: with boxes or without, from any data set or loader."""

import math

import pytest
import torch
from torch import nn

from helpers.strangers import MEAN, SIDE, STD, Normalize, Pictures, Stranger, loader, trainer
from verisal.callbacks import ClassRanks, DisturbedLocalization
from verisal.callbacks.explaining import queries
from verisal.callbacks.explaining.cost import Clock
from verisal.errors import DataError
from verisal.saliency import CallableAdapter, Gradient

METHODS = {"gradient": Gradient()}
D_WSOL, PRESENT = "val/gradient/D-WSOL (our protocol)", "val/gradient/D-WSOL (our protocol), present classes"
OF_BOXES = ("accuracy_c0", "whole_image_c0", "flr_rel_c1", "flr_abs_c3", "margin_rel_c1", "margin_abs_c3")
NO_C2 = "No image has such a c2, so that its scores are NaN."
NOT_LOGGED = (
    "thresholds for boxes need annotated samples, held_out=; without them box accuracy, false localisation,"
    " margins and present classes are not logged, but responses are"
)
NO_BOXES = "all that is about boxes is NaN, and responses and similarities need none"


class Quarters(nn.Module):
    """Logits are the brightness of the quarters, which is right for every picture."""

    def __init__(self, shift=0):
        super().__init__()
        self.pool, self.shift = nn.AdaptiveAvgPool2d(2), shift
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.pool(x.exp()).mean(dim=1).flatten(1).roll(self.shift, dims=1)


class Detection(Pictures):
    """(image, target) as torchvision's references have it, or as Pascal VOC says it."""

    def __init__(self, count=12, *, voc=False, annotated=None, seed=3):
        super().__init__(count, transform=Normalize(), seed=seed)
        self.voc, self.seed, self.annotated = voc, seed, count if annotated is None else annotated

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        if index >= self.annotated:
            return image, {"label": label}
        row, column = divmod(label, 2)
        half = SIDE // 2
        left, top = column * half, row * half
        if not self.voc:
            return image, {
                "boxes": torch.tensor([[left, top, left + half, top + half]]),
                "labels": torch.tensor([label]),
            }
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + half, "ymax": top + half}
        box = {key: str(value) for key, value in corners.items()}
        size = {"width": str(SIDE), "height": str(SIDE), "depth": "3"}
        found = {"name": "abcd"[label], "difficult": "0", "bndbox": box}
        return image, {
            "annotation": {"filename": f"{self.seed}-{index}.jpg", "size": size, "object": [found]}
        }


class Mislabelled(Detection):
    """Every label is wrong."""

    def __init__(self, count, *, seed):
        super().__init__(count, seed=seed)
        self.labels = [(label + 1) % 4 for label in self.labels]


class Detecting(Stranger):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        images = batch[0] if isinstance(batch[0], torch.Tensor) else torch.stack(batch[0])
        self.log("val/top", self(images).max(), batch_size=len(images))


def zipped(samples):
    return tuple(zip(*samples, strict=True))


def detection(data, **settings):
    return loader(data, collate_fn=zipped, **settings)


def evaluated(callback, data=None, *, shift=0):
    trainer(callback).validate(Detecting(Quarters(shift)), data or loader(), verbose=False)
    return callback.evaluation


def notes(evaluation, start="DisturbedLocalization:"):
    return [note.removeprefix(start).strip() for note in evaluation.notes if note.startswith(start)]


def test_without_boxes_there_are_responses_and_one_sentence():
    callback = DisturbedLocalization(METHODS, resamples=10)
    found = evaluated(callback)
    for query in ("c1", "c3"):
        score = found.scores[f"{D_WSOL}/response_ratio_{query}"]
        # Each quarter answers for its own class, and the true one is the brightest.
        assert (score.n, 0 < score.value < 1) == (12, True)
    assert math.isnan(found.scores[f"{D_WSOL}/accuracy_c0"].value)
    assert notes(found) == [NOT_LOGGED]
    assert any(note.endswith(NO_C2) for note in found.notes)
    rows = ("gradient", "random", "centre")
    assert callback.names() == tuple(f"val/{row}/d_wsol_response_ratio_c1" for row in rows)
    assert list(found.logged.values()) == list(callback.names())
    assert list(found.headline) == ["D-WSOL response ratio c1 ↓"]


def test_boxes_without_held_out_samples_ask_for_them():
    found = evaluated(DisturbedLocalization(METHODS, resamples=10), detection(Detection()))
    assert found.scores[f"{D_WSOL}/whole_image_c0"].value == 0
    assert found.scores[f"{D_WSOL}/response_ratio_c3"].n == 12
    assert math.isnan(found.scores[f"{D_WSOL}/margin_rel_c1"].value)
    assert notes(found) == [NOT_LOGGED]


@pytest.mark.parametrize("kind", ["data set", "loader", "VOC"])
def test_held_out_samples_in_the_user_s_own_format(kind):
    held_out = Detection(8, seed=5, voc=kind == "VOC")
    callback = DisturbedLocalization(
        METHODS,
        detection(held_out) if kind == "loader" else held_out,
        class_names=list("abcd"),
        resamples=10,
    )
    found = evaluated(callback, detection(Detection(voc=kind == "VOC")))
    assert found.scores[f"{D_WSOL}/accuracy_c0"].value == 1
    for name in OF_BOXES:
        assert found.scores[f"{D_WSOL}/{name}"].n == 12
    assert notes(found) == [
        "no image shows objects of several classes of which one is predicted; queries of present classes are"
        " NaN",
    ]


def test_images_without_a_box_are_counted_and_left_out_of_boxes_alone():
    callback = DisturbedLocalization(METHODS, Detection(8, seed=5), resamples=10)
    found = evaluated(callback, detection(Detection(annotated=5)))
    assert notes(found)[0] == (
        "7 of 12 correctly classified images have no box of their class and are left out of all that is about"
        " boxes"
    )
    assert found.scores[f"{D_WSOL}/accuracy_c0"].n == 5
    assert found.scores[f"{D_WSOL}/flr_rel_c1"].n == 5
    assert found.scores[f"{D_WSOL}/response_ratio_c1"].n == 12


@pytest.mark.parametrize(
    ("held_out", "sentence"),
    [
        (
            Detection(8, annotated=0, seed=5),
            "none of 8 correctly classified held-out images has a box of its class",
        ),
        (Mislabelled(8, seed=5), "none of 8 held-out images is classified correctly"),
    ],
)
def test_held_out_samples_that_do_not_serve_are_named(held_out, sentence):
    found = evaluated(DisturbedLocalization(METHODS, held_out, resamples=10), detection(Detection()))
    assert notes(found)[0] == f"{sentence}; {NO_BOXES}"
    assert math.isnan(found.scores[f"{D_WSOL}/tau"].value)
    assert found.scores[f"{D_WSOL}/response_ratio_c1"].n == 12


def test_a_method_whose_maps_serve_for_nothing_is_named_and_the_others_have_their_boxes():
    def flat(classifier, images, query_class):
        return images.detach() * 0 + 1

    methods = {**METHODS, "flat": CallableAdapter(function=flat)}
    found = evaluated(
        DisturbedLocalization(methods, Detection(8, seed=5), resamples=10), detection(Detection())
    )
    assert notes(found)[0] == f"no map of flat of 8 held-out images can be scored; {NO_BOXES}"
    assert found.scores[f"{D_WSOL}/accuracy_c0"].value == 1
    assert math.isnan(found.scores[f"{D_WSOL}/accuracy_c0".replace("gradient", "flat")].value)


@pytest.mark.parametrize("kind", [DisturbedLocalization, ClassRanks])
def test_without_a_correctly_classified_image_it_says_so(kind):
    callback = kind(METHODS, resamples=10)
    found = evaluated(callback, shift=1)
    assert notes(found, f"{kind.__name__}:") == [
        "none of 12 images is classified correctly, and only those count: its scores are NaN"
    ]
    assert found.scores
    assert all(math.isnan(score.value) for score in found.scores.values())


def test_images_without_labels_ask_for_them():
    callback = DisturbedLocalization(
        METHODS, resamples=10, batch=lambda batch: batch[0], normalization=(MEAN, STD)
    )
    assert notes(evaluated(callback)) == [
        "none of 12 images has a known label, and only those count: its scores are NaN"
    ]


@pytest.mark.parametrize(("seconds", "count"), [(1e-9, 8), (1e9, 20)])
def test_a_fit_holds_out_no_more_images_than_it_explains(monkeypatch, seconds, count):
    given = []
    monkeypatch.setattr(queries, "choose_threshold", lambda maps, boxes: given.append(len(maps)) or 0.5)
    monkeypatch.setattr(Clock, "own", seconds)
    callback = DisturbedLocalization(METHODS, Detection(40, seed=5), held_out_images=20)
    trainer(callback, limit_train_batches=1).fit(Detecting(Quarters()), loader(), detection(Detection()))
    assert max(given) == count
    assert callback.affordable >= 8


class Numbered(Detection):
    """Every data set counts its images from 0."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {**target, "id": index}


def test_equal_ids_of_different_images_are_no_overlap_and_equal_images_are():
    held_out = DisturbedLocalization(METHODS, Numbered(8, seed=5), resamples=10)
    assert evaluated(held_out, detection(Numbered())).scores[f"{D_WSOL}/accuracy_c0"].n == 12
    with pytest.raises(
        DataError, match="4 images are both reported and held out for the thresholds, the first is"
    ):
        evaluated(DisturbedLocalization(METHODS, Numbered(8), resamples=10), detection(Numbered()))
