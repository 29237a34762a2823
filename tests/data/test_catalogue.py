"""Known data sets, each on a tiny folder in its own on-disk format."""

import json
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.make_data_sets import (
    HEIGHT,
    classifier_of,
    make_coco,
    make_cub,
    make_imagenet,
    make_imagenette,
    make_pets,
    make_voc,
    write_image,
)
from verisal.data import (
    COCO,
    CUB200,
    AnnotatedImages,
    Imagenette,
    ImageNetValidation,
    ImageSplits,
    OxfordPet,
    PascalVOC,
)
from verisal.data.readers.class_map import SYNSETS
from verisal.data.readers.masks import counts_of_text
from verisal.errors import ConfigError, DataError

IMAGENET = tuple(
    {0: "tench, Tinca tinca", 999: "toilet tissue"}.get(index, f"thing {index}") for index in range(1000)
)


def samples(images, names=None, **settings):
    """All images by name, as a classifier of 30 pixels sees them: five columns are cut off at either side."""
    names = names or images.listing().class_names
    splits = ImageSplits(images=images, ratios=(1, 0, 0), **settings)
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(names, HEIGHT))
    return {sample.image_id: sample for sample in data}


def filled(left, top, right, bottom):
    mask = torch.zeros(HEIGHT, HEIGHT, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_voc_boxes_count_from_1_and_masks_have_the_numbers_of_the_objects(tmp_path):
    found = samples(PascalVOC(root=make_voc(tmp_path)))
    assert set(found) == {"2007_000027.jpg", "2007_000032.jpg"}
    dog, cat = found["2007_000027.jpg"], found["2007_000032.jpg"]
    # The largest box is the dog's, the second one in the file; the person is outside the square.
    assert dog.label == 11
    assert dog.object_labels.tolist() == [11]
    # 11 11 30 20 as written is 10..30 and 10..20; the mask lacks the last column.
    assert dog.boxes.tolist() == [[6.0, 10.0, 24.0, 20.0]]
    assert dog.object_masks[0].equal(filled(6, 10, 24, 20))
    assert cat.label == 7
    assert cat.boxes.tolist() == [[0.0, 5.0, 30.0, 30.0]]
    assert not cat.object_masks.any()


def test_voc_without_its_folder_is_an_error_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(DataError, match="set download to fetch it"):
        PascalVOC(root=str(tmp_path)).listing()
    with pytest.raises(ConfigError, match="only 2007 has a test part, found year 2012"):
        PascalVOC(root=str(tmp_path), part="test")


def test_coco_polygons_and_both_kinds_of_run_lengths(tmp_path):
    images, annotations = make_coco(tmp_path)
    found = samples(COCO(images=images, annotations=annotations), ("person", "dog"))
    # The third image has no annotation, so no label.
    assert set(found) == {"000000000009.jpg", "000000000025.jpg"}
    first, second = found["000000000009.jpg"], found["000000000025.jpg"]
    assert first.label == 1
    assert first.object_labels.tolist() == [1, 0]
    assert first.object_masks[0].equal(filled(5, 5, 25, 15))
    assert first.object_masks[1].equal(filled(5, 0, 7, 30))
    assert first.boxes.tolist() == [[5.0, 5.0, 25.0, 15.0], [5.0, 0.0, 7.0, 30.0]]
    # The crowd is no object.
    assert second.object_labels.tolist() == [0]
    assert second.object_masks[0].equal(filled(5, 0, 7, 30))


def test_compressed_run_lengths_by_hand():
    # 6, 2, 7 as they are; then 3 - 2 = 1 and 1 - 7 = -6, which is 26 of 32.
    assert counts_of_text("6271J") == (6, 2, 7, 3, 1)
    # 60 = 28 + 32 * 1: low five bits first, with the flag that more follow.
    assert counts_of_text("l1") == (60,)
    for wrong in ("l", "6 2", "J"):
        with pytest.raises(ValueError, match="run lengths"):
            counts_of_text(wrong)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [10, 5, 0, 10]}, r"annotation 0: box \(10, 5, 10, 15\) is empty"),
        ({"bbox": [10, 5, -3, 10]}, r"annotation 0: box \(10, 5, 7, 15\) is inverted"),
        ({"bbox": [10, 5]}, "annotation 0: cannot be read"),
        ({"image_id": 4}, "annotation 0: image 4 or category 18 is not in the file"),
        ({"category_id": 4}, "annotation 0: image 9 or category 4 is not in the file"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon needs three corners"),
        ({"segmentation": {"size": [30, 40], "counts": "~"}}, "annotation 0: cannot be read"),
        ({"segmentation": {"size": [30, 40], "counts": [5, 5]}}, "run lengths fill 10 pixels of 40 x 30"),
    ],
)
def test_coco_rows_that_cannot_be_used_are_named(tmp_path, change, words):
    images, annotations = make_coco(tmp_path)
    content = json.loads(Path(annotations).read_text())
    content["annotations"][0] |= change
    Path(annotations).write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        samples(COCO(images=images, annotations=annotations), ("person", "dog"))


def test_pets_are_what_the_trimap_calls_foreground(tmp_path):
    found = samples(OxfordPet(root=make_pets(tmp_path)))
    assert {name: sample.label for name, sample in found.items()} == {
        "Abyssinian_201.jpg": 0,
        "american_bulldog_100.jpg": 1,
    }
    assert OxfordPet(root=str(tmp_path)).listing().class_names == ("Abyssinian", "American Bulldog")
    for sample in found.values():
        assert sample.object_masks[0].equal(filled(5, 10, 25, 20))
        assert sample.boxes.tolist() == [[5.0, 10.0, 25.0, 20.0]]


def test_imagenette_is_mapped_to_imagenet_by_wordnet_id(tmp_path):
    found = samples(Imagenette(root=make_imagenette(tmp_path)), IMAGENET)
    labels = {name: sample.label for name, sample in found.items()}
    assert labels == {"n01440764/n01440764_1.JPEG": 0, "n03888257/n03888257_1.JPEG": 701}
    with pytest.raises(DataError, match="set download to fetch it"):
        Imagenette(root=str(tmp_path), size="160px").listing()


def test_wordnet_ids_are_those_of_imagenet_in_order():
    assert len(SYNSETS) == len(set(SYNSETS)) == 1000
    assert list(SYNSETS) == sorted(SYNSETS)
    # tench, tabby, banana, parachute, toilet tissue
    known = {0: "n01440764", 281: "n02123045", 954: "n07753592", 701: "n03888257", 999: "n15075141"}
    assert {index: SYNSETS[index] for index in known} == known


@pytest.mark.parametrize("folders", [True, False])
def test_imagenet_in_folders_or_in_one_with_boxes_from_xml(tmp_path, folders):
    images, boxes = make_imagenet(tmp_path, folders=folders)
    found = samples(ImageNetValidation(images=images, boxes=boxes), IMAGENET)
    assert {name.rpartition("/")[2]: sample.label for name, sample in found.items()} == {
        "ILSVRC2012_val_00000001.JPEG": SYNSETS.index("n01751748"),
        "ILSVRC2012_val_00000293.JPEG": 0,
    }
    # Coordinates count from 0: 10 0 40 15 less the five columns, and 0 0 20 30.
    assert {tuple(sample.boxes[0].tolist()) for sample in found.values()} == {(5, 0, 30, 15), (0, 0, 15, 30)}


@pytest.mark.parametrize(
    "lines",
    [
        "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000293.JPEG 0\nILSVRC2012_val_00000999.JPEG 3\n",
        "ILSVRC2012_val_00000001 n01751748\nILSVRC2012_val_00000293 n01440764\n",
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 1 2 3 4 n01751748 5 6 7 8 \n"
        "ILSVRC2012_val_00000293,n01440764 1 2 3 4 \n",
    ],
)
def test_imagenet_in_one_folder_with_a_list(tmp_path, lines):
    images, _ = make_imagenet(tmp_path, folders=False)
    (tmp_path / "labels").write_text(lines)
    found = samples(ImageNetValidation(images=images, labels=str(tmp_path / "labels")), IMAGENET)
    assert {name: sample.label for name, sample in found.items()} == {
        "ILSVRC2012_val_00000001.JPEG": 65,
        "ILSVRC2012_val_00000293.JPEG": 0,
    }


def test_imagenet_lists_that_say_something_else_are_named(tmp_path):
    images, _ = make_imagenet(tmp_path, folders=False)
    # The development kit's own file: numbers of another order, without names.
    (tmp_path / "labels").write_text("490\n361\n")
    with pytest.raises(DataError, match=r"labels row 1: expected an image's name and a WordNet id or index"):
        samples(ImageNetValidation(images=images, labels=str(tmp_path / "labels")), IMAGENET)
    with pytest.raises(DataError, match="has no label; give a list of labels or the boxes"):
        samples(ImageNetValidation(images=images), IMAGENET)


@pytest.mark.parametrize("segmentations", [True, False])
def test_cub_by_its_own_tables(tmp_path, segmentations):
    root = make_cub(tmp_path, segmentations)
    assert CUB200(root=root).listing().class_names == ("Black footed Albatross", "Laysan Albatross")
    found = samples(CUB200(root=root, part="all"))
    assert [found[name].label for name in sorted(found)] == [0, 0, 1]
    assert len(samples(CUB200(root=root))) == 2
    (train,) = samples(CUB200(root=root, part="train"))
    assert train.endswith("0009_34.jpg")
    bird = found["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"]
    # left, top, width, height = 8 6 12 18, less five columns; four of five annotators agree on the same.
    assert bird.boxes.tolist() == [[3.0, 6.0, 15.0, 24.0]]
    assert bird.object_masks[0].equal(filled(3, 6, 15, 24) if segmentations else filled(0, 0, 0, 0))


def test_cub_tables_that_do_not_fit_are_named(tmp_path):
    root = Path(make_cub(tmp_path))
    (root / "image_class_labels.txt").write_text("1 1\n3 2\n")
    with pytest.raises(DataError, match=r"images.txt image 2: is not in all of the tables"):
        samples(CUB200(root=str(root)))
    (root / "train_test_split.txt").write_text("1 0\n2 x\n3 0\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n")
    with pytest.raises(
        DataError, match=r"images.txt image 2: has 'x' in train_test_split.txt, expected 0 or 1"
    ):
        samples(CUB200(root=str(root)))
    (root / "classes.txt").write_text("1 001.Black_footed_Albatross\n1 002.Laysan_Albatross\n")
    with pytest.raises(DataError, match=r"classes.txt line 2: expected a new number and 1 values"):
        CUB200(root=str(root)).listing()
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt: cannot be read"):
        CUB200(root=str(root)).listing()


def test_nothing_is_downloaded_that_was_not_asked_for(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.imagenette.download_and_extract_archive", refuse)
    for images in (PascalVOC, OxfordPet, Imagenette):
        with pytest.raises(DataError, match="download"):
            images(root=str(tmp_path)).listing()
        with pytest.raises(AssertionError, match="connection"):
            images(root=str(tmp_path), download=True).listing()


def test_a_missing_image_of_a_known_set_is_named_with_its_file(tmp_path):
    root = make_voc(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000032.jpg").unlink()
    with pytest.raises(DataError, match=r"image \d of split fit: .*2007_000032.jpg: cannot be read"):
        samples(PascalVOC(root=root))


def test_annotations_that_leave_out_the_rotation_are_refused(tmp_path):
    root = make_voc(tmp_path)
    image = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000032.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(image, exif=exif)
    with pytest.raises(
        DataError, match="is 30 x 40 pixels as displayed, its annotations say 40 x 30; they seem"
    ):
        samples(PascalVOC(root=root))


def test_an_image_beside_the_classes_of_imagenette_is_a_problem_not_a_class(tmp_path):
    root = make_imagenette(tmp_path)
    write_image(tmp_path / "imagenette2-320" / "val" / "loose.JPEG")
    (problem,) = Imagenette(root=root).listing().problems
    assert (problem.image_id, problem.words) == ("loose.JPEG", "lies in no class folder")
    splits = ImageSplits(images=Imagenette(root=root), ratios=(1, 0, 0))
    with pytest.raises(DataError, match=r"loose\.JPEG: lies in no class folder"):
        AnnotatedImages(splits, "fit", classifier=classifier_of(("n01440764", "n03888257")))
