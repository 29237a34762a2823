"""``verisal data check`` on the command line."""

import io
import os
import sys

import pytest

from helpers.commands import check_data_set
from helpers.make_data_sets import (
    make_broken,
    make_coco,
    make_folder,
    make_imagenet,
    make_voc,
    write_image,
    write_numbers,
    write_xml,
)
from verisal.cli import main as verisal
from verisal.errors import ConfigError


def test_the_command_ends_with_1_when_there_are_problems(tmp_path, capsys):
    root, boxes = make_broken(tmp_path)
    assert check_data_set(["check", str(root), "--annotations", str(boxes), "--format", "csv"]) == 1
    assert capsys.readouterr().out.splitlines()[-7] == "6 problems:"
    assert check_data_set(["check", make_folder(tmp_path / "sound")]) == 0
    assert "6 images, 6 of them usable, 0 objects" in capsys.readouterr().out


def test_names_that_are_no_text_are_written_all_the_same(tmp_path, monkeypatch):
    root = make_folder(tmp_path)
    with open(os.fsencode(root) + b"/cat/\xff.png", "wb"):
        pass
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    assert check_data_set(["check", root]) == 1
    output.flush()
    assert rb"cat/\udcff.png: the file is empty" in output.buffer.getvalue()


def test_the_command_knows_data_sets_by_name(tmp_path, capsys):
    assert check_data_set(["check", make_voc(tmp_path / "voc"), "--format", "pascal-voc"]) == 0
    images, annotations = make_coco(tmp_path / "coco")
    assert check_data_set(["check", images, "--annotations", annotations, "--format", "coco"]) == 0
    assert "2 images, 2 of them usable, 3 objects" in capsys.readouterr().out


def test_imagenet_with_its_boxes(tmp_path, capsys):
    images, boxes = make_imagenet(tmp_path, folders=False)
    assert check_data_set(["check", images, "--format", "imagenet", "--annotations", boxes]) == 0
    assert "2 images, 2 of them usable, 2 objects" in capsys.readouterr().out


def test_it_is_a_command_of_verisal_with_its_exit_codes(tmp_path, capsys):
    assert verisal(["data", "check", make_folder(tmp_path / "sound")]) == 0
    assert verisal(["data", "check", str(make_broken(tmp_path)[0])]) == 1
    assert verisal(["data", "check"]) == 2
    assert verisal(["data", "check", str(tmp_path), "--format", "masks"]) == 2
    assert "verisal: error: ImageFolder: annotations is None" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--format pet knows where its annotations are"):
        check_data_set(["check", str(tmp_path), "--format", "pet", "--annotations", "x"])
    with pytest.raises(ConfigError, match="give both"):
        check_data_set(["check", str(tmp_path), "--annotations", "x"])
    with pytest.raises(ConfigError, match="unknown classifier"):
        check_data_set(["check", str(tmp_path), "--classifier", "nobody"])


def flat_folder(root):
    """Two images in one folder; what is known of them lies in one beside it, or inside it."""
    for name in ("a", "b"):
        write_image(root / f"{name}.jpg")
    return str(root)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("form", ["voc", "csv", "masks"])
def test_a_flat_folder_takes_its_classes_from_the_annotations(tmp_path, capsys, form, inside):
    images = flat_folder(tmp_path / "images")
    beside = tmp_path / "images" / "known" if inside else tmp_path / "known"
    if form == "voc":
        for name, class_name in (("a", "dog"), ("b", "cat")):
            write_xml(beside / f"{name}.xml", [(class_name, (1, 1, 4, 4))])
    elif form == "csv":
        beside.mkdir()
        beside /= "boxes.csv"
        beside.write_text("image,class,xmin,ymin,xmax,ymax\na,dog,0,0,4,4\nb,cat,0,0,4,4\n")
    else:
        for name in ("a", "b"):
            write_numbers(beside / f"{name}.png", {1: (0, 0, 4, 4)})
    assert verisal(["data", "check", images, "--annotations", str(beside), "--format", form]) == 0
    said = capsys.readouterr().out
    labels = "none" if form == "masks" else "annotations"
    assert f"labels: {labels}, for {images} has no class folders\n" in said
    assert "2 images, 2 of them usable, 2 objects" in said
    assert ("1 dog" in said, "1 cat" in said, "without a class" in said) == (
        (False, False, True) if form == "masks" else (True, True, False)
    )


def test_class_folders_stay_the_classes_where_there_are_some(tmp_path, capsys):
    images = make_folder(tmp_path / "images")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,class,xmin,ymin,xmax,ymax\ncat/cat0,wheel,0,0,4,4\n")
    assert verisal(["data", "check", images, "--annotations", str(boxes), "--format", "csv"]) == 0
    said = capsys.readouterr().out
    assert "3 cat" in said
    assert "labels:" not in said


def test_a_choice_of_labels_is_kept_and_what_is_advised_works(tmp_path, capsys):
    images = flat_folder(tmp_path / "images")
    masks = write_numbers(tmp_path / "masks" / "a.png", {1: (0, 0, 4, 4)}).parent
    masked = ["data", "check", images, "--annotations", str(masks), "--format", "masks"]
    assert verisal([*masked, "--labels", "folders"]) == 1
    assert "holds no class folders; set labels to none\n" in capsys.readouterr().out
    assert verisal([*masked, "--labels", "none"]) == 0
    assert verisal(["data", "check", str(tmp_path / "images" / "a.jpg")]) == 1
    assert "a.jpg: is a file, no folder; expected a folder of images" in capsys.readouterr().out
    assert verisal(["data", "check", images, "--format", "coco"]) == 2
    assert "give both" in capsys.readouterr().err
