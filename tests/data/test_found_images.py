"""Which files below a folder are images, and what other systems leave between them."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, features

from helpers.commands import check_data_set
from helpers.make_data_sets import (
    HEIGHT,
    WIDTH,
    classifier_of,
    make_coco,
    make_folder,
    make_imagenet,
    make_imagenette,
    write_image,
    write_numbers,
    write_xml,
)
from verisal.cli._explain_inputs import named_files
from verisal.data import AnnotatedImages, ImageFolder, Imagenette, ImageNetValidation, ImageSplits, check_data
from verisal.data.files import NameIndex, find_images
from verisal.errors import DataError

LEFT_BEHIND = (
    *(".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", "__MACOSX/a.png"),
    *(".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "lost+found/a.png"),
    *(
        "a.png:Zone.Identifier",
        "$RECYCLE.BIN/a.png",
        "System Volume Information/a.png",
        ".hidden/a.png",
        "~$a.png",
    ),
)


def leave_behind(folder, suffix=".png"):
    """What desktops and servers put into any folder; pictures among it are pictures, and files are valid."""
    picture = write_image(folder / "made" / "a.png")
    for name in LEFT_BEHIND:
        path = folder / name.replace("a.png", f"a{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, path)
    shutil.rmtree(folder / "made")


@pytest.mark.parametrize(
    ("name", "form", "settings"),
    [
        ("a.jfif", "JPEG", {}),
        ("a.jpe", "JPEG", {}),
        ("a.JPG", "JPEG", {}),
        ("a.jp2", "JPEG2000", {}),
        ("a.avif", "AVIF", {}),
        ("a.Tga", "TGA", {}),
        ("a.PNG", "PNG", {}),
        ("a", "PNG", {}),
        ("a", "JPEG", {}),
        ("photo.0001", "WEBP", {"lossless": True}),
    ],
)
def test_whatever_pillow_reads_is_an_image(tmp_path, name, form, settings):
    if form == "AVIF" and not features.check("avif"):
        pytest.fail("the pinned Pillow reads AVIF")
    path = tmp_path / "cat" / name
    path.parent.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 255)).save(path, form, **settings)
    splits = ImageSplits(images=ImageFolder(root=str(tmp_path)), ratios=(1, 0, 0))
    (sample,) = AnnotatedImages(splits, "fit", classifier=classifier_of(("cat", "dog"), HEIGHT))
    assert sample.image_id == f"cat/{name}"
    expected = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, HEIGHT, HEIGHT)
    torch.testing.assert_close(sample.image, expected, atol=0.02, rtol=0)


def test_a_damaged_picture_without_suffix_is_an_image_all_the_same(tmp_path):
    path = write_image(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "a").write_bytes(path.read_bytes()[:40])
    (tmp_path / "cat" / "README").write_text("Python made these pictures, P6 and BM among them.")
    found = find_images(tmp_path)
    assert [path.name for path in found.paths] == ["a", "a.png"]
    assert found.left_out == {"without suffix": 1}


def test_what_is_left_out_is_counted_with_its_kind(tmp_path, caplog, capsys):
    root = Path(make_folder(tmp_path))
    for name in (
        "a.heic",
        "b.HEIC",
        "notes.txt",
        "film.mp4",
        "LICENSE",
        "film.mpg",
        "c.eps",
        "d.pdf",
        "e.h5",
    ):
        (root / "cat" / name).write_bytes(b"something else than a picture")
    words = (
        "9 files left out, as Pillow reads no image in them:"
        " 2 .heic, 1 .eps, 1 .h5, 1 .mp4, 1 .mpg, 1 .pdf, 1 .txt, 1 without suffix"
    )
    report = check_data(ImageFolder(root=str(root)))
    assert (report.images, report.problems) == (6, ())
    assert words in report.text().splitlines()
    splits = ImageSplits(images=ImageFolder(root=str(root)), ratios=(1, 0, 0))
    AnnotatedImages(splits, "fit", classifier=classifier_of(("cat", "dog")))
    assert [record.getMessage() for record in caplog.records] == [f"ImageFolder, split fit: {words}"]
    assert len(named_files([root], output=root / "explanations")) == 6
    assert capsys.readouterr().err == f"verisal: {root}: {words}\n"
    for path in (root / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        DataError, match=r"1 class folders hold no image: dog; 3 files left out, .*: 3 \.heic"
    ):
        ImageFolder(root=str(root)).listing()


def test_annotations_among_the_images_are_not_left_out(tmp_path):
    root = Path(make_folder(tmp_path))
    (root / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\ncat0,cat,1,1,9,9\n")
    listing = ImageFolder(root=str(root), annotations=str(root / "boxes.csv"), format="csv").listing()
    assert (listing.left_out, listing.problems) == ({}, ())
    (root / "boxes.csv").unlink()
    # The usual place of some tools: beside each image.
    write_xml(root / "dog" / "dog1.xml", [("dog", (3, 3, 9, 9))])
    listing = ImageFolder(root=str(root), annotations=str(root), format="voc").listing()
    assert (len(listing.records), listing.left_out, listing.problems) == (6, {}, ())
    assert [record.image_id for record in listing.records if record.objects] == ["dog/dog1.png"]
    with pytest.raises(DataError, match="holds the images; masks need a folder of their own"):
        ImageFolder(root=str(root), annotations=str(root), format="masks").listing()


def test_what_other_systems_leave_is_neither_image_nor_class(tmp_path, capsys):
    root = Path(make_folder(tmp_path))
    for folder in (root, root / "cat"):
        leave_behind(folder)
    listing = ImageFolder(root=str(root)).listing()
    assert listing.class_names == ("cat", "dog")
    assert (len(listing.records), listing.left_out, listing.problems) == (6, {}, ())
    assert len(named_files([root], output=root / "explanations")) == 6
    assert check_data_set(["check", str(root)]) == 0
    assert "6 images, 6 of them usable" in capsys.readouterr().out


def test_what_other_systems_leave_is_no_annotation(tmp_path):
    root = make_folder(tmp_path / "images")
    write_xml(tmp_path / "xml" / "cat0.xml", [("cat", (3, 3, 9, 9))])
    leave_behind(tmp_path / "xml", ".xml")
    (tmp_path / "xml" / "._cat1.xml").write_bytes(b"\x00\x05\x16\x07")
    listing = ImageFolder(root=root, annotations=str(tmp_path / "xml"), format="voc").listing()
    assert listing.problems == ()
    write_numbers(tmp_path / "masks" / "cat0.png", {1: (1, 1, 9, 9)})
    leave_behind(tmp_path / "masks")
    listing = ImageFolder(root=root, annotations=str(tmp_path / "masks"), format="masks").listing()
    (tmp_path / "masks" / "cat1.npy").write_bytes(b"numbers")
    listing = ImageFolder(root=root, annotations=str(tmp_path / "masks"), format="masks").listing()
    assert (listing.problems, listing.left_out) == ((), {".npy": 1})
    assert sum(record.index_mask is not None for record in listing.records) == 1


def test_what_other_systems_leave_in_known_data_sets(tmp_path, capsys):
    leave_behind(Path(make_imagenette(tmp_path / "nette")) / "imagenette2-320" / "val")
    nette = Imagenette(root=str(tmp_path / "nette")).listing()
    assert nette.class_names == ("n01440764", "n03888257")
    assert len(nette.records) == 2
    images, boxes = make_imagenet(tmp_path / "net", folders=True)
    leave_behind(Path(images))
    leave_behind(Path(boxes), ".xml")
    assert len(ImageNetValidation(images=images, boxes=boxes).listing().records) == 2
    # The command takes a folder without folders of classes for COCO's.
    images, annotations = make_coco(tmp_path / "coco")
    leave_behind(Path(images))
    assert check_data_set(["check", images, "--annotations", annotations, "--format", "coco"]) == 0
    assert "2 images, 2 of them usable, 3 objects" in capsys.readouterr().out


def test_pipes_are_no_images_and_dead_links_are_broken_ones(tmp_path):
    root = Path(make_folder(tmp_path, count=1))
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    report = check_data(ImageFolder(root=str(root)))
    assert report.images == 3
    ((place, words),) = [(Path(problem.place).name, problem.words) for problem in report.problems]
    assert (place, words[:14]) == ("gone.png", "cannot be read")


def test_annotations_name_images_whatever_the_case_of_the_suffix():
    names = NameIndex(["a/x.JPG", "b/y.jpg", "c/y.JPG", "d/z.JPG", "d/z.jpg"])
    assert names.find("a/x.jpg") == names.find("x.jpg") == ["a/x.JPG"]
    assert names.find("c/y.jpg") == ["c/y.JPG"]
    assert names.find("y.jpg") == ["b/y.jpg"]
    assert names.find("d/z.jpg") == ["d/z.jpg"]
    assert names.find("X.jpg") == []


# Pictures by content


def test_a_picture_in_two_classes_is_a_problem_whatever_its_names(tmp_path):
    root = Path(make_folder(tmp_path))
    # Other bytes of a file, the same pixels.
    with Image.open(root / "cat" / "cat1.png") as image:
        image.save(root / "dog" / "other.bmp")
    report = check_data(ImageFolder(root=str(root)))
    (problem,) = report.problems
    assert problem.place == str(root / "dog" / "other.bmp")
    assert problem.words == (
        f"is the same picture as {root / 'cat' / 'cat1.png'}, which is cat where this is dog;"
        " keep it in one class"
    )
    assert report.usable == 6


def test_a_picture_twice_in_one_class_may_come_into_two_parts(tmp_path):
    root = Path(make_folder(tmp_path))
    shutil.copy(root / "cat" / "cat1.png", root / "cat" / "copy.png")
    (problem,) = check_data(ImageFolder(root=str(root))).problems
    assert "is the same picture as" in problem.words
    assert "parts of the set are shared out by name" in problem.words


def test_a_picture_in_two_splits_is_a_problem(tmp_path, capsys):
    train = Path(make_folder(tmp_path / "train"))
    val = tmp_path / "val"
    write_image(val / "cat" / "new.png", (1, 2, 3))
    assert check_data_set(["check", str(train), "--against", str(val)]) == 0
    shutil.copy(train / "dog" / "dog2.png", val / "cat" / "renamed.png")
    (val / "cat" / "broken.png").write_bytes(b"")
    capsys.readouterr()
    assert check_data_set(["check", str(train), "--against", str(val)]) == 1
    words = (
        f"{train}/dog/dog2.png: is the same picture as {val}/cat/renamed.png of another split; keep it in one"
    )
    assert capsys.readouterr().out.splitlines()[-2:] == ["1 problem:", f"  {words}"]


def test_files_of_a_few_bytes_and_links_to_themselves_end_nothing(tmp_path):
    images = Path(make_folder(tmp_path / "images", count=1))
    for size in range(5):
        (images / "cat" / f"note{'x' * size}").write_bytes(b"\n" * size)
    for name in ("loop", "loop.png"):
        (images / "cat" / name).symlink_to(name)
    (images / "loop").symlink_to("loop")
    report = check_data(ImageFolder(root=str(images)))
    assert report.left_out["without suffix"] == 5
    assert sum(report.left_out.values()) == 7
    (problem,) = report.problems
    assert str(problem).startswith(f"{images / 'cat' / 'loop.png'}: cannot be read (Too many levels")


def test_paths_of_another_machine_mean_the_image_at_their_end():
    names = NameIndex(["cat/1.png", "dog/1.png", "1.png", "b.png"])
    assert names.find("C:\\data\\dog\\1.png") == ["dog/1.png"]
    assert names.find("/mnt/me/data/cat/1") == ["cat/1.png"]
    assert names.find("./dog/1.PNG") == ["dog/1.png"]
    assert names.find("/mnt/me/b.png") == names.find("./b.png") == ["b.png"]
    assert len(names.find("/mnt/me/1.png")) == 3


def test_an_image_that_its_folder_lacks_is_not_that_of_another_folder():
    names = NameIndex(["cat/1.png", "dog/2.png"])
    assert names.find("cat/2.png") == names.find("/data/cat/2.png") == names.find("dog/1") == []
    assert names.find("photos/2.png") == ["dog/2.png"]


def test_accents_are_one_class_however_they_are_written(tmp_path):
    apart, together = "cafe\u0301", "caf\u00e9"
    root = make_folder(tmp_path / "images", classes=(apart,), count=1)
    (tmp_path / "a.csv").write_text(
        f"image,class,xmin,ymin,xmax,ymax\n{together}/{together}0.png,{together},1,1,9,9\n", encoding="utf-8"
    )
    images = ImageFolder(root=root, annotations=str(tmp_path / "a.csv"), format="csv")
    assert images.listing().class_names == (together,)
    for given, name in (({apart: "tea"}, "tea"), ({}, apart), ({}, together)):
        splits = ImageSplits(images=images, ratios=(1, 0, 0), class_map=given)
        assert AnnotatedImages(splits, "fit", classifier=classifier_of(("dog", name))).labels == (1,)
