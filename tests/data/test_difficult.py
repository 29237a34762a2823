"""Objects that annotators marked as difficult: present, yet no map is asked to find them."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.make_data_sets import HEIGHT, classifier_of, make_coco, make_folder, make_voc, write_xml
from verisal.data import COCO, AnnotatedImages, ImageFolder, ImageSplits, PascalVOC, check_data
from verisal.data.transforms import Augmentation
from verisal.errors import DataError
from verisal.metrics import MaxBoxAcc, PointingGame
from verisal.types import Batch, Explained, SaliencyResult

CLASSES = ("cat", "dog")
EASY, HARD = (8, 3, 15, 10), (16, 11, 35, 28)


def set_of(tmp_path, form):
    """An image of an easy cat and a larger difficult dog, in each format."""
    root = make_folder(tmp_path / "images", count=1)
    if form == "csv":
        path = tmp_path / "a.csv"
        lines = ["image,class,xmin,ymin,xmax,ymax,Difficult"]
        for name, (left, top, right, bottom), mark in (("cat", EASY, ""), ("dog", HARD, "1")):
            lines.append(f"cat0,{name},{left - 1},{top - 1},{right},{bottom},{mark}")
        path.write_text("\n".join(lines))
    elif form == "voc":
        path = tmp_path / "xml"
        file = write_xml(path / "cat0.xml", [("cat", EASY), ("dog", HARD)])
        start, end = file.read_text().split("<name>dog")
        file.write_text(start + "<name>dog" + end.replace("<difficult>0", "<difficult>1"))
    else:
        path = tmp_path / "a.json"
        content = {
            "images": [{"id": 1, "file_name": "cat0.png", "width": 40, "height": 30}],
            "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
            "annotations": [
                {
                    "image_id": 1,
                    "category_id": index,
                    "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
                    form: index,
                }
                for index, (left, top, right, bottom) in enumerate((EASY, HARD))
            ],
        }
        path.write_text(json.dumps(content))
    kind = form if form in ("csv", "voc") else "coco"
    return ImageFolder(root=root, labels="annotations", annotations=str(path), format=kind)


def batch_of(images, **settings):
    records = [record for record in images.listing().records if record.objects]
    assert [record.class_name for record in records] == ["cat"]
    splits = ImageSplits(images=replace(images, labels="folders"), ratios=(1, 0, 0), **settings)
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(CLASSES, HEIGHT))
    return Batch.collate([sample for sample in data if sample.image_id == "cat/cat0.png"])


@pytest.mark.parametrize("form", ["csv", "voc", "difficult", "ignore"])
def test_they_are_present_but_not_asked_for(tmp_path, form):
    images = set_of(tmp_path, form)
    assert "1 objects marked as difficult" in check_data(images).text().splitlines()
    batch = batch_of(images)
    assert batch.labels.tolist() == [0]
    # Present, so that nobody takes the class for an absent one.
    assert batch.object_labels[0].tolist() == [0, 1]
    assert batch.difficult[0].tolist() == [False, True]
    assert batch.asked_labels()[0].tolist() == [0]
    assert batch.boxes_of(torch.tensor([0]))[0].tolist() == [[2, 2, 10, 10]]
    assert batch.boxes_of(torch.tensor([1]))[0].shape == (0, 4)


def test_the_main_object_is_of_the_class_of_the_image_even_so(tmp_path):
    images = set_of(tmp_path, "voc")
    file = tmp_path / "xml" / "cat0.xml"
    marks = file.read_text().replace("<difficult>0", "<difficult>?").replace("<difficult>1", "<difficult>0")
    file.write_text(marks.replace("<difficult>?", "<difficult>1"))
    splits = ImageSplits(images=replace(images, labels="folders"), ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(CLASSES, HEIGHT))
    (sample,) = [sample for sample in data if sample.image_id == "cat/cat0.png"]
    assert (sample.label, sample.object_labels.tolist(), sample.difficult.tolist()) == (
        0,
        [0, 1],
        [True, False],
    )
    assert [record.class_name for record in images.listing().records if record.objects] == ["dog"]


def test_they_can_be_kept(tmp_path):
    batch = batch_of(set_of(tmp_path, "voc"), difficult="keep")
    assert batch.asked_labels()[0].tolist() == [0, 1]
    assert batch.boxes_of(torch.tensor([1]))[0].tolist() == [[10, 10, 30, 28]]


def test_a_mark_that_is_neither_yes_nor_no_is_a_problem(tmp_path):
    images = set_of(tmp_path, "voc")
    file = tmp_path / "xml" / "cat0.xml"
    file.write_text(file.read_text().replace("<difficult>1", "<difficult>very"))
    (problem, *_) = images.listing().problems
    assert problem.words == "object 2 <difficult> is the text 'very', expected 0 or 1"


def test_an_image_of_nothing_else_has_their_class(tmp_path):
    root = make_voc(tmp_path)
    file = tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "2007_000032.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    images = PascalVOC(root=root)
    assert [record.class_name for record in images.listing().records] == ["dog", "cat"]
    names = images.listing().class_names
    splits = ImageSplits(images=images, ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(names, HEIGHT))
    found = {sample.image_id: sample for sample in data}["2007_000032.jpg"]
    assert (found.label, found.difficult.tolist()) == (7, [True])
    # Its mask is not asked for either, where there is one.
    images, annotations = make_coco(tmp_path)
    with open(annotations) as file:
        content = json.load(file)
    for entry in content["annotations"]:
        entry["ignore"] = 1
    with open(annotations, "w") as file:
        json.dump(content, file)
    splits = ImageSplits(images=COCO(images=images, annotations=annotations), ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(("person", "dog"), HEIGHT))
    batch = Batch.collate(list(data))
    assert all(masks.any() for masks in batch.object_masks)
    assert not batch.object_mask_of(batch.labels).any()


def test_metrics_count_an_image_of_difficult_boxes_alone_as_undefined(tmp_path):
    # Three images, the last of which has nothing but a difficult dog where its map is brightest.
    one = batch_of(set_of(tmp_path, "voc"))
    names = ("object_labels", "object_masks", "boxes", "difficult")
    batch = replace(
        one,
        images=one.images.repeat(3, 1, 1, 1),
        labels=torch.tensor([0, 0, 1]),
        image_ids=("a", "b", "c"),
        **{name: getattr(one, name) * 3 for name in names},
    )
    maps = torch.zeros(3, 1, HEIGHT, HEIGHT)
    maps[:2, :, 2:10, 2:10] = 1.0
    maps[2, :, 10:28, 10:30] = 1.0
    query = batch.labels
    explained = Explained(
        classifier=lambda images: images,
        images=batch.images,
        query_class=query,
        result=SaliencyResult(maps, maps),
        image_ids=batch.image_ids,
        explain=lambda images, query: SaliencyResult(maps, maps),
        object_masks=batch.object_mask_of(query),
        boxes=batch.boxes_of(query),
    )
    for metric in (PointingGame(), MaxBoxAcc()):
        metric.update(explained)
        for score in metric.scores().values():
            assert (score.value, score.n, score.undefined) == (1.0, 2, 1), metric.name


def test_an_augmented_sample_keeps_the_mark(tmp_path):
    batch = batch_of(set_of(tmp_path, "voc"))
    data = AnnotatedImages(
        ImageSplits(images=replace(set_of(tmp_path, "voc"), labels="folders"), ratios=(1, 0, 0)),
        "fit",
        classifier=classifier_of(CLASSES, HEIGHT),
    )
    (sample,) = [sample for sample in data if sample.image_id == batch.image_ids[0]]
    moved = Augmentation()(sample, torch.Generator().manual_seed(0))
    assert moved.object_labels[moved.difficult].tolist() == [1]


def test_marks_must_fit_the_objects(tmp_path):
    batch = batch_of(set_of(tmp_path, "voc"))
    assert batch.rows([0, 0]).difficult[1].tolist() == [False, True]
    assert batch.to("cpu").difficult[0].tolist() == [False, True]
    data = AnnotatedImages(
        ImageSplits(images=replace(set_of(tmp_path, "voc"), labels="folders"), ratios=(1, 0, 0)),
        "fit",
        classifier=classifier_of(CLASSES, HEIGHT),
    )
    with pytest.raises(DataError, match=r"difficult must be \(\d,\) bool, found \(3,\) torch.bool"):
        replace(data[0], difficult=torch.zeros(3, dtype=torch.bool))
