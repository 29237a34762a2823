"""Folders of images with classes, boxes and masks in every format, and what can be wrong with them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.make_data_sets import (
    HEIGHT,
    WIDTH,
    classifier_of,
    make_folder,
    write_image,
    write_numbers,
    write_xml,
)
from verisal.data import AnnotatedImages, ImageFolder, ImageSplits, check_data
from verisal.errors import ConfigError, DataError

CLASSES = ("cat", "dog")


def samples(images, names=CLASSES, **settings):
    splits = ImageSplits(images=images, ratios=(1, 0, 0), **settings)
    data = AnnotatedImages(splits, "fit", classifier=classifier_of(names, HEIGHT))
    return {sample.image_id: sample for sample in data}


def with_csv(tmp_path, rows, **settings):
    root = make_folder(tmp_path / "images")
    (tmp_path / "boxes.csv").write_text(rows, encoding="utf-8")
    return ImageFolder(root=root, annotations=str(tmp_path / "boxes.csv"), format="csv", **settings)


def test_folders_are_classes(tmp_path):
    found = samples(ImageFolder(root=make_folder(tmp_path)))
    assert {name: sample.label for name, sample in found.items()} == {
        **{f"cat/cat{index}.png": 0 for index in range(3)},
        **{f"dog/dog{index}.png": 1 for index in range(3)},
    }
    # Five columns are cut off on either side; the colour is the file's.
    expected = torch.tensor([25, 90, 40]).view(3, 1, 1).expand(3, HEIGHT, HEIGHT) / 255
    torch.testing.assert_close(found["dog/dog2.png"].image, expected)
    assert found["dog/dog2.png"].boxes.shape == (0, 4)


def test_a_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "deep" / "b.PNG")
    found = samples(ImageFolder(root=str(tmp_path), labels="none"))
    assert {name: sample.label for name, sample in found.items()} == {"a.png": -1, "deep/b.PNG": -1}
    (tmp_path / "deep" / "b.PNG").unlink()
    (tmp_path / "deep").rmdir()
    with pytest.raises(DataError, match="holds no class folders; set labels to none, or give annotations"):
        ImageFolder(root=str(tmp_path)).listing()


def test_csv_boxes_by_path_and_by_name(tmp_path):
    rows = (
        "image,class,xmin,ymin,xmax,ymax\n"
        "cat/cat0.png,cat,10,5,20,15\ncat0.png,dog,0,0,40,30\ndog1,,5,5,35,25\n"
    )
    found = samples(with_csv(tmp_path, rows))
    cat = found["cat/cat0.png"]
    # The object of the image's class comes first, although another is larger.
    assert cat.object_labels.tolist() == [0, 1]
    assert cat.boxes.tolist() == [[5, 5, 15, 15], [0, 0, 30, 30]]
    assert not cat.object_masks.any()
    assert found["dog/dog1.png"].object_labels.tolist() == [1]
    assert found["dog/dog1.png"].boxes.tolist() == [[0, 5, 30, 25]]


def test_labels_can_come_from_a_csv_with_and_without_boxes(tmp_path):
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels.csv").write_text(
        "image,class,xmin,ymin,xmax,ymax\na,cat,0,0,9,9\na,dog,0,0,10,10\nb,cat,,,,\nc,dog,,,,\nc,cat,1,1,9,9\n"
    )
    images = ImageFolder(
        root=str(tmp_path / "images"),
        labels="annotations",
        annotations=str(tmp_path / "labels.csv"),
        format="csv",
    )
    found = samples(images)
    # a: the largest box; b and c: what a row without a box says.
    assert {name: sample.label for name, sample in found.items()} == {"a.png": 1, "b.png": 0, "c.png": 1}
    write_image(tmp_path / "images" / "d.png")
    with pytest.raises(DataError, match=r"d.png: has no class in .*labels.csv"):
        samples(images)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("cat/cat0.png,cat,5,5,5,9", r"boxes.csv row 3: box \(5, 5, 5, 9\) is empty"),
        ("cat/cat0.png,cat,9,5,5,9", r"boxes.csv row 3: box \(9, 5, 5, 9\) is inverted"),
        ("cat/cat0.png,cat,nan,5,5,9", r"boxes.csv row 3: box \(nan, 5, 5, 9\) is not finite"),
        (
            "cat/cat0.png,cat,1,5,5,1e300",
            r"boxes.csv row 3: box \(1, 5, 5, 1e\+300\) reaches beyond any picture",
        ),
        ("cat/cat0.png,cat,1_0,5,15,9", r"boxes.csv row 3: box \(1_0, 5, 15, 9\) is not four numbers"),
        ("cat/cat0.png,cat,a,5,5,9", r"boxes.csv row 3: box \(a, 5, 5, 9\) is not four numbers"),
        ("cat/cat0.png,cat,1,5,5,", r"boxes.csv row 3: box \(1, 5, 5, \) is not four numbers"),
        ("cat/cat0.png,,,,,", "boxes.csv row 3: has neither a class nor a box"),
        ("cat/cat9.png,cat,1,2,5,9", "boxes.csv row 3: names image 'cat/cat9.png', which is not among"),
        (
            "cat/cat0.png,cat,40,5,50,9",
            r"row 3: box \(40, 5, 50, 9\) lies outside its image of 40 x 30",
        ),
    ],
)
def test_boxes_that_cannot_be_used_are_rejected_with_their_row(tmp_path, row, words):
    rows = f"image,class,xmin,ymin,xmax,ymax\ndog/dog0.png,dog,1,1,5,5\n{row}\n"
    with pytest.raises(DataError, match=words):
        samples(with_csv(tmp_path, rows))


def test_boxes_that_reach_outside_the_image_are_clipped(tmp_path):
    rows = "image,class,xmin,ymin,xmax,ymax\ncat0,cat,-7,20,12,99\n"
    assert samples(with_csv(tmp_path, rows))["cat/cat0.png"].boxes.tolist() == [[0, 20, 7, 30]]


def test_a_csv_of_other_columns_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"boxes.csv: lacks the columns image, xmax; its first row is file, "):
        samples(with_csv(tmp_path, "file,xmin,ymin,ymax\na,1,2,3\n"))
    with pytest.raises(DataError, match="its first row is empty"):
        samples(with_csv(tmp_path / "2", ""))


def test_voc_xml_files_are_named_after_their_images(tmp_path):
    root = make_folder(tmp_path / "images")
    write_xml(tmp_path / "xml" / "dog" / "dog0.xml", [("dog", (11, 6, 20, 15)), ("cat", (1, 1, 40, 30))])
    images = ImageFolder(root=root, annotations=str(tmp_path / "xml"), format="voc")
    dog = samples(images)["dog/dog0.png"]
    assert dog.object_labels.tolist() == [1, 0]
    assert dog.boxes.tolist() == [[5, 5, 15, 15], [0, 0, 30, 30]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "is no whole XML"),
        ("", "is no whole XML"),
        ("<a/>", "its root is <a>, expected <annotation>"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1 has the box"),
        (
            "<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>"
            "</annotation>",
            "object 1 has no <name>",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a document type"),
    ],
)
def test_xml_files_that_cannot_be_used_are_named(tmp_path, text, words):
    root = make_folder(tmp_path / "images")
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "cat0.xml").write_text(text)
    with pytest.raises(DataError, match=rf"cat0.xml: {words}"):
        samples(ImageFolder(root=root, annotations=str(tmp_path / "xml"), format="voc"))


def masked(tmp_path, **settings):
    return ImageFolder(
        root=str(tmp_path / "images"), annotations=str(tmp_path / "masks"), format="masks", **settings
    )


def filled(left, top, right, bottom):
    mask = torch.zeros(HEIGHT, HEIGHT, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("palette", [False, True])
def test_masks_that_number_objects(tmp_path, palette):
    make_folder(tmp_path / "images")
    boxes = {1: (6, 1, 10, 5), 7: (10, 10, 30, 20), 255: (0, 25, 40, 30)}
    write_numbers(tmp_path / "masks" / "cat" / "cat0.png", boxes, palette=palette)
    cat = samples(masked(tmp_path))["cat/cat0.png"]
    # The larger one first; 255 is not known.
    assert cat.object_labels.tolist() == [0, 0]
    assert cat.boxes.tolist() == [[5, 10, 25, 20], [1, 1, 5, 5]]
    assert cat.object_masks[0].equal(filled(5, 10, 25, 20))
    assert cat.object_masks[1].equal(filled(1, 1, 5, 5))


def test_masks_that_number_classes(tmp_path):
    make_folder(tmp_path / "images")
    write_numbers(tmp_path / "masks" / "cat0.png", {1: (6, 1, 10, 5), 2: (10, 10, 30, 20)})
    cat = samples(masked(tmp_path, mask_classes={1: "cat", 2: "dog"}))["cat/cat0.png"]
    assert cat.object_labels.tolist() == [0, 1]
    assert cat.boxes.tolist() == [[1, 1, 5, 5], [5, 10, 25, 20]]
    with pytest.raises(DataError, match=r"cat0.png: holds the number 2; mask_classes has 1"):
        samples(masked(tmp_path, mask_classes={1: "cat"}))


@pytest.mark.parametrize("names", [("cat0_1.png", "cat0_2.png"), ("cat/cat0/x.png", "cat/cat0/y.png")])
def test_masks_of_one_object_each(tmp_path, names):
    make_folder(tmp_path / "images")
    # A file of one object may hold any value, and an image may have the name of a mask.
    write_image(tmp_path / "images" / "dog" / "x.png")
    for name, box in zip(names, ((6, 1, 10, 5), (10, 10, 30, 20)), strict=True):
        write_numbers(tmp_path / "masks" / name, {255: box})
    found = samples(masked(tmp_path))
    assert found["cat/cat0.png"].boxes.tolist() == [[5, 10, 25, 20], [1, 1, 5, 5]]
    assert len(found["dog/x.png"].boxes) == 0


def test_masks_that_fit_no_image_are_refused(tmp_path):
    make_folder(tmp_path / "images")
    write_numbers(tmp_path / "masks" / "cow.png", {1: (0, 0, 5, 5)})
    with pytest.raises(DataError, match=r"cow.png: names image 'cow', which is not among the images"):
        samples(masked(tmp_path))
    (tmp_path / "masks" / "cow.png").unlink()
    write_numbers(tmp_path / "masks" / "cat0.png", {1: (0, 0, 5, 5)}, size=(30, 40))
    with pytest.raises(DataError, match=r"cat0.png: mask is 30 x 40 pixels, its image 40 x 30 as displayed"):
        samples(masked(tmp_path))
    write_image(tmp_path / "masks" / "cat0.png")
    with pytest.raises(DataError, match=r"cat0.png: a mask must have one channel or a palette, found"):
        samples(masked(tmp_path))
    (tmp_path / "masks" / "cat0.png").unlink()
    write_numbers(tmp_path / "masks" / "cat0_1.png", {})
    with pytest.raises(DataError, match=r"cat0_1.png: the mask is empty"):
        samples(masked(tmp_path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_are_in_the_coordinates_of_the_upright_image(tmp_path, orientation):
    # The object is white on black: where it is seen, mask and box must be.
    upright = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    upright[4:12, 10:30] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "images" / "cat" / "a.png", exif=exif)
    write_numbers(tmp_path / "masks" / "a.png", {1: (10, 4, 30, 12)})
    (sample,) = samples(masked(tmp_path)).values()
    assert sample.object_masks[0].equal(sample.image[0] > 0.5)
    assert sample.boxes.tolist() == [[5, 4, 25, 12]]


def test_all_empty_class_folders_are_listed(tmp_path):
    root = make_folder(tmp_path)
    for name in ("bird", "cow"):
        (tmp_path / name).mkdir()
    (tmp_path / "cow" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="2 class folders hold no image: bird, cow"):
        ImageFolder(root=root).listing()


def test_images_beside_the_class_folders_are_refused(tmp_path):
    root = make_folder(tmp_path)
    write_image(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray.png: lies in no class folder"):
        samples(ImageFolder(root=root))


def test_odd_names_of_files_and_folders(tmp_path):
    odd = tmp_path / "мои снимки" / "100 % [x] #1"
    name = "naïve café.png"
    write_image(odd / "cat" / name)
    bad_bytes = os.fsencode(odd / "cat") + b"/\xff\xfe.png"
    with open(bad_bytes, "wb") as file:
        file.write((odd / "cat" / name).read_bytes())
    # Accents apart from their letters, as some systems write them.
    (tmp_path / "boxes.csv").write_text(
        "image,class,xmin,ymin,xmax,ymax\ncat/nai\u0308ve cafe\u0301.png,cat,10,5,20,15\n", encoding="utf-8"
    )
    # So for the file that describes an image of such a name.
    xml = write_xml(tmp_path / "xml" / "cat" / "a.xml", [("cat", (11, 6, 20, 15))])
    os.rename(xml, os.fsencode(xml.parent) + b"/\xff\xfe.xml")
    found = samples(ImageFolder(root=str(odd), annotations=str(tmp_path / "xml"), format="voc"))
    assert found[r"cat/\xff\xfe.png"].boxes.tolist() == [[5, 5, 15, 15]]
    found = samples(ImageFolder(root=str(odd), annotations=str(tmp_path / "boxes.csv"), format="csv"))
    assert set(found) == {f"cat/{name}", r"cat/\xff\xfe.png"}
    assert found[f"cat/{name}"].boxes.tolist() == [[5, 5, 15, 15]]


def test_a_symbolic_link_to_another_folder_is_followed_and_a_loop_is_named(tmp_path):
    root = make_folder(tmp_path / "images", classes=("cat",))
    elsewhere = tmp_path / "elsewhere"
    write_image(elsewhere / "d.png")
    (tmp_path / "images" / "dog").symlink_to(elsewhere)
    assert samples(ImageFolder(root=root))["dog/d.png"].label == 1
    (elsewhere / "again").symlink_to(tmp_path / "images")
    with pytest.raises(DataError, match=r"again: symbolic link back to .*images, a folder it lies in"):
        ImageFolder(root=root).listing()


def test_annotations_must_say_which_of_two_images_of_one_name(tmp_path):
    root = make_folder(tmp_path / "images")
    for name in ("cat", "dog"):
        write_image(tmp_path / "images" / name / "same.png")
    (tmp_path / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\nsame.png,cat,1,1,5,5\n")
    images = ImageFolder(root=root, annotations=str(tmp_path / "boxes.csv"), format="csv")
    with pytest.raises(DataError, match=r"image 'same.png' may be any of cat/same.png, dog/same.png"):
        samples(images)
    (tmp_path / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\ndog/same.png,dog,6,1,9,5\n")
    assert samples(images)["dog/same.png"].boxes.tolist() == [[1, 1, 4, 5]]


def test_hidden_files_and_annotations_inside_the_folder_are_no_images(tmp_path):
    root = make_folder(tmp_path)
    write_image(tmp_path / "cat" / "._cat0.png")
    write_image(tmp_path / ".thumbnails" / "x.png")
    write_numbers(tmp_path / "masks" / "cat0.png", {1: (10, 10, 30, 20)})
    images = ImageFolder(root=root, annotations=str(tmp_path / "masks"), format="masks")
    found = samples(images)
    assert len(found) == 6
    assert found["cat/cat0.png"].boxes.tolist() == [[5, 10, 25, 20]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"annotations": "a.csv"}, "annotations is 'a.csv' and format None; give both"),
        ({"format": "csv"}, "annotations is None and format 'csv'; give both"),
        ({"labels": "annotations"}, "labels cannot come from annotations of format None"),
        ({"mask_classes": {1: "cat"}}, "mask_classes needs format masks, found None"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ImageFolder(root="x", **settings)


def test_folders_and_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match="gone: no such folder; expected a folder of images"):
        ImageFolder(root=str(tmp_path / "gone")).listing()
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(root=str(tmp_path)).listing()
    root = make_folder(tmp_path / "images")
    for kind in ("csv", "coco", "voc", "masks"):
        with pytest.raises(DataError, match=r"nothing: (cannot be read|no such folder)"):
            ImageFolder(root=root, annotations=str(tmp_path / "nothing"), format=kind).listing()


def test_a_black_and_white_mask_that_numbers_nothing_is_not_passed_over(tmp_path):
    root = make_folder(tmp_path / "images", classes=("cat",), count=2)
    write_numbers(tmp_path / "masks" / "cat0.png", {255: (10, 10, 30, 20)})
    write_numbers(tmp_path / "masks" / "cat1.png", {})
    settings = {"root": root, "annotations": str(tmp_path / "masks"), "format": "masks"}
    (problem,) = check_data(ImageFolder(**settings)).problems
    assert (problem.image_id, problem.place) == ("cat/cat0.png", str(tmp_path / "masks" / "cat0.png"))
    assert "holds no numbers but 0 and 255 (not known); number the objects from 1" in problem.words
    # A class may have this number, if that is said.
    found = samples(ImageFolder(**settings, mask_classes={255: "cat"}))
    assert found["cat/cat0.png"].boxes.tolist() == [[5, 10, 25, 20]]
    assert found["cat/cat1.png"].boxes.shape == (0, 4)
