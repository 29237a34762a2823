"""The check of a whole data set reports every problem and counts what is there."""

from pathlib import Path

from helpers.make_data_sets import (
    classifier_of,
    make_broken,
    make_folder,
    make_voc,
    write_image,
    write_numbers,
)
from verisal.data import ImageFolder, PascalVOC, check_data


def test_a_sound_data_set_is_counted(tmp_path):
    report = check_data(PascalVOC(root=make_voc(tmp_path)))
    assert (report.images, report.usable, report.objects, report.problems) == (2, 2, 3, ())
    assert {name: count for name, count in report.classes.items() if count} == {"cat": 1, "dog": 1}
    assert report.sizes == (40, 40, 30, 30)


def test_every_problem_is_reported_with_its_file(tmp_path):
    root, boxes = make_broken(tmp_path)
    report = check_data(ImageFolder(root=str(root), annotations=str(boxes), format="csv"), max_pixels=1200)
    found = {(Path(problem.place.split(" row")[0]).name, problem.image_id) for problem in report.problems}
    assert found == {
        ("boxes.csv", "cat/cat0.png"),
        ("boxes.csv", None),
        ("cat1.png", "cat/cat1.png"),
        ("dog2.png", "dog/dog2.png"),
    }
    # Rows 3, 4 and 5 of one image, row 6 of none, two files.
    assert len(report.problems) == 6
    assert (report.images, report.usable, report.objects) == (7, 4, 1)
    assert dict(report.classes) == {"cat": 3, "dog": 4}
    assert report.sizes == (40, 60, 20, 30)
    lines = report.text().splitlines()
    assert lines[:3] == [
        "7 images, 4 of them usable, 1 objects",
        "widths 40 to 60, heights 20 to 30 pixels",
        "       3 cat",
    ]
    assert "6 problems:" in lines
    assert lines[-6:] == [f"  {problem}" for problem in report.problems]


def test_masks_are_read_too(tmp_path):
    root = make_folder(tmp_path / "images")
    write_numbers(tmp_path / "masks" / "cat0.png", {1: (0, 0, 5, 5), 2: (9, 9, 12, 12)})
    write_numbers(tmp_path / "masks" / "cat1.png", {1: (0, 0, 5, 5)}, size=(30, 30))
    report = check_data(ImageFolder(root=root, annotations=str(tmp_path / "masks"), format="masks"))
    assert report.objects == 2
    assert [problem.image_id for problem in report.problems] == ["cat/cat1.png"]


def test_a_set_that_cannot_be_listed_is_one_problem(tmp_path):
    report = check_data(ImageFolder(root=str(tmp_path / "gone")))
    assert report.images == 0
    assert "gone: no such folder" in report.text()


def test_classes_are_compared_with_a_classifier(tmp_path):
    images = ImageFolder(root=make_folder(tmp_path, count=1))
    assert check_data(images, classifier=classifier_of(("dog", "cat"))).problems == ()
    (problem,) = check_data(images, classifier=classifier_of(("cow", "cat"))).problems
    assert "1 classes of the images are none of the classifier's: dog" in str(problem)


def test_images_without_a_class_are_counted(tmp_path):
    write_image(tmp_path / "a.png")
    report = check_data(ImageFolder(root=str(tmp_path), labels="none"))
    assert report.unlabelled == 1
    assert "1 images without a class" in report.text()
