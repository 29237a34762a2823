"""Parts, class maps, framing and broken files of images on disk."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.make_data_sets import HEIGHT, classifier_of, make_folder, write_image
from verisal.data import AnnotatedImages, ImageFolder, ImageSplits
from verisal.data.readers.class_map import SYNSETS, class_indices
from verisal.detection.groups import ImageSource
from verisal.errors import ConfigError, DataError
from verisal.types import Batch

CAT_DOG = classifier_of(("cat", "dog"), HEIGHT)


def many(root, count=60):
    """Small pictures of two classes under names that the hash spreads."""
    for index in range(count):
        write_image(Path(root) / ("cat", "dog")[index % 2] / f"{index:03d}.png", (index, 0, 0), (8, 6))
    return ImageFolder(root=str(root))


def ids(splits, part, **settings):
    data = AnnotatedImages(splits, part, classifier=CAT_DOG, **settings)
    return [data.image_id(index) for index in range(len(data))]


def test_parts_share_no_image_and_hold_all_of_them(tmp_path):
    splits = ImageSplits(images=many(tmp_path), ratios=(0.5, 0.25, 0.25))
    parts = [ids(splits, part) for part in ("fit", "val", "test")]
    assert sorted(name for part in parts for name in part) == sorted(
        f"{('cat', 'dog')[index % 2]}/{index:03d}.png" for index in range(60)
    )
    # Binomial: 30, 15 and 15 expected, four deviations at most.
    assert abs(len(parts[0]) - 30) <= 16
    assert abs(len(parts[1]) - 15) <= 14
    other = ids(ImageSplits(images=many(tmp_path), ratios=(0.5, 0.25, 0.25), seed=1), "fit")
    assert set(other) != set(parts[0])


def test_an_image_stays_in_its_part_when_others_come(tmp_path):
    images = many(tmp_path, 20)
    before = {part: ids(ImageSplits(images=images), part) for part in ("fit", "val", "test")}
    many(tmp_path, 60)
    for part, names in before.items():
        after = ids(ImageSplits(images=images), part)
        assert [name for name in after if name in names] == names


def test_the_first_images_of_a_part_are_of_all_classes(tmp_path):
    splits = ImageSplits(images=many(tmp_path), ratios=(1, 0, 0))
    first = AnnotatedImages(splits, "fit", classifier=CAT_DOG, count=20)
    assert len(first) == 20
    assert 4 <= sum(first.labels) <= 16
    assert [first.image_id(index) for index in range(20)] == ids(splits, "fit")[:20]


def test_a_part_can_have_a_set_of_its_own(tmp_path):
    shared, own = many(tmp_path / "a", 20), many(tmp_path / "b", 6)
    splits = ImageSplits(images=shared, val_images=own, ratios=(0.5, 0.3, 0.5))
    assert len(ids(splits, "val")) == 6
    assert len(ids(splits, "fit")) + len(ids(splits, "test")) == 20


def test_a_part_without_enough_images_says_what_there_is(tmp_path):
    splits = ImageSplits(images=many(tmp_path, 6), ratios=(1, 0, 0))
    with pytest.raises(
        DataError, match=r"split fit holds 6 images, 7 asked for; add images, or change counts"
    ):
        ids(splits, "fit", count=7)
    with pytest.raises(DataError, match=r"split val holds 0 images, at least 1 asked for"):
        ids(splits, "val")


def test_it_is_a_source_that_can_be_attacked_and_named(tmp_path):
    splits = ImageSplits(images=many(tmp_path / "a", 6), ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    assert isinstance(data, ImageSource)
    known = data.identity()
    assert {key: known[key] for key in ("name", "split", "size", "crop_share")} == {
        "name": "ImageFolder",
        "split": "fit",
        "size": HEIGHT,
        "crop_share": 1.0,
    }
    # Another place is the same data; another label or another file is not.
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = ImageSplits(images=ImageFolder(root=str(tmp_path / "b")), ratios=(1, 0, 0))
    assert AnnotatedImages(again, "fit", classifier=CAT_DOG).identity() == known
    swapped = ImageSplits(images=again.images, ratios=(1, 0, 0), class_map={"cat": "dog", "dog": "cat"})
    assert AnnotatedImages(swapped, "fit", classifier=CAT_DOG).identity() != known
    write_image(tmp_path / "b" / "cat" / "000.png", (9, 9, 9), (16, 6))
    assert AnnotatedImages(again, "fit", classifier=CAT_DOG).identity() != known


def test_loaders_with_workers_give_the_same_batches(tmp_path):
    splits = ImageSplits(images=many(tmp_path, 10), ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    one, two = (
        list(DataLoader(data, batch_size=4, num_workers=workers, collate_fn=Batch.collate))
        for workers in (0, 2)
    )
    assert [batch.image_ids for batch in one] == [batch.image_ids for batch in two]
    assert [len(batch) for batch in one] == [4, 4, 2]
    assert all(a.images.equal(b.images) and a.labels.equal(b.labels) for a, b in zip(one, two, strict=True))
    # The red of a picture is its number.
    number = int(one[0].image_ids[0][-7:-4])
    torch.testing.assert_close(one[0].images[0, 0], torch.full((HEIGHT, HEIGHT), number / 255))


def damaged(root, count, broken):
    images = many(root, count)
    for index in range(broken):
        path = Path(root) / ("cat", "dog")[index % 2] / f"{index:03d}.png"
        path.write_bytes((path.read_bytes()[:40], b"", b"text")[index % 3])
    return images


def test_a_broken_file_is_named_with_its_index(tmp_path):
    splits = ImageSplits(images=damaged(tmp_path, 4, 1), ratios=(1, 0, 0))
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    index = [data.image_id(row) for row in range(4)].index("cat/000.png")
    with pytest.raises(DataError, match=rf"image {index} of split fit: .*cat/000.png: "):
        data[index]
    assert len([data[row] for row in range(4) if row != index]) == 3


def test_one_percent_of_the_images_may_be_skipped_and_no_more(tmp_path):
    splits = ImageSplits(images=damaged(tmp_path, 200, 2), ratios=(1, 0, 0), on_error="skip")
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    assert len(data) == 198
    assert sorted(problem.image_id for problem in data.skipped) == ["cat/000.png", "dog/001.png"]
    assert "cat/000.png" not in [data.image_id(index) for index in range(198)]
    # With a count, the next good ones take the places.
    assert len(AnnotatedImages(splits, "fit", classifier=CAT_DOG, count=198)) == 198
    damaged(tmp_path, 200, 3)
    with pytest.raises(
        DataError, match=r"3 of 200 images cannot be used, more than 1 %: .*(000|001|002).png"
    ):
        AnnotatedImages(splits, "fit", classifier=CAT_DOG)


def test_annotations_can_be_skipped_but_a_broken_file_of_them_cannot(tmp_path):
    many(tmp_path / "images", 120)
    boxes = tmp_path / "boxes.csv"
    images = ImageFolder(root=str(tmp_path / "images"), annotations=str(boxes), format="csv")
    splits = ImageSplits(images=images, ratios=(1, 0, 0), on_error="skip")
    boxes.write_text("image,class,xmin,ymin,xmax,ymax\n004,cat,3,3,1,1\n006,cat,1,1,3,3\n")
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    assert len(data) == 119
    assert [problem.image_id for problem in data.skipped] == ["cat/004.png"]
    boxes.write_text("file\n")
    with pytest.raises(DataError, match=r"boxes.csv: lacks the columns"):
        AnnotatedImages(splits, "fit", classifier=CAT_DOG)


def test_images_larger_than_the_limit_of_the_settings_are_refused(tmp_path):
    splits = ImageSplits(images=many(tmp_path, 2), ratios=(1, 0, 0), max_pixels=47)
    with pytest.raises(DataError, match=r"8 x 6 pixels, but at most 47 are decoded"):
        AnnotatedImages(splits, "fit", classifier=CAT_DOG)[0]


def test_a_smaller_share_of_the_short_side_is_a_closer_look(tmp_path):
    # 40 x 30 with the object in the middle 20 x 15: at half the short side it fills a square of 15.
    write_image(tmp_path / "images" / "cat" / "a.png", (0, 0, 0), box=(10, 7, 30, 22))
    (tmp_path / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\na,cat,10,7,30,22\n")
    images = ImageFolder(root=str(tmp_path / "images"), annotations=str(tmp_path / "boxes.csv"), format="csv")
    splits = ImageSplits(images=images, ratios=(1, 0, 0), crop_share=0.5)
    sample = AnnotatedImages(splits, "fit", classifier=classifier_of(("cat", "dog"), 30))[0]
    # Twice as large: x 20..60 and y 14..44 of 80 x 60, less the 25 and 15 that are cut off.
    assert sample.boxes.tolist() == [[0, 0, 30, 29]]
    assert sample.image[:, 2:26, 2:28].min() == 1.0


def test_names_are_matched_without_case_and_by_synonyms():
    names = ("Sea lion", "great white shark, white shark", "cat", "Cat")
    found = ("sea_lion", "white-shark", "cat", "Cat")
    assert class_indices(found, names, given={}) == {"sea_lion": 0, "white-shark": 1, "cat": 2, "Cat": 3}
    # Ambiguous without the case.
    with pytest.raises(DataError, match=r"1 classes of the images are none of the classifier's: CAT\."):
        class_indices(("CAT",), names, given={})
    # As crane and maillot are in ImageNet.
    with pytest.raises(
        DataError, match=r"more than one class of the name crane \(0, 2\); say in class_map the"
    ):
        class_indices(("crane", "owl"), ("crane", "owl", "crane"), given={})
    assert class_indices(("crane", "owl"), ("crane", "owl", "crane"), given={"crane": 2}) == {
        "crane": 2,
        "owl": 1,
    }


def test_wordnet_ids_need_the_classes_of_imagenet():
    names = ("tench", *(f"thing {index}" for index in range(998)), "toilet tissue")
    assert class_indices(("n02123045",), names, given={}) == {"n02123045": SYNSETS.index("n02123045")}
    for other in (names[:500], ("carp", *names[1:])):
        with pytest.raises(
            DataError, match="1 classes of the images are none of the classifier's: n02123045"
        ):
            class_indices(("n02123045",), other, given={})


def test_a_mismatch_of_classes_lists_both(tmp_path):
    images = ImageFolder(root=make_folder(tmp_path, classes=("cat", "cow", "hen"), count=1))
    with pytest.raises(DataError) as error:
        ids(ImageSplits(images=images), "fit")
    assert "2 classes of the images are none of the classifier's: cow, hen." in str(error.value)
    assert "The classifier knows cat, dog." in str(error.value)
    assert "class_map" in str(error.value)


def test_a_class_map_names_indexes_and_leaves_out(tmp_path):
    images = ImageFolder(root=make_folder(tmp_path, classes=("cat", "cow", "hen", "hound"), count=2))
    splits = ImageSplits(images=images, ratios=(1, 0, 0), class_map={"cow": None, "hen": 0, "hound": "dog"})
    data = AnnotatedImages(splits, "fit", classifier=CAT_DOG)
    labels = {data.image_id(index): label for index, label in enumerate(data.labels)}
    assert labels == {
        **{f"cat/cat{index}.png": 0 for index in range(2)},
        **{f"hen/hen{index}.png": 0 for index in range(2)},
        **{f"hound/hound{index}.png": 1 for index in range(2)},
    }
    for class_map, words in (
        ({"pig": "cat"}, "class_map names pig; the images have cat, cow, hen, hound"),
        ({"cow": "ox"}, "class_map: cow is 'ox', but the classifier has 2 classes: cat, dog"),
        ({"cow": 2}, "class_map: cow is 2, but the classifier has 2 classes"),
        ({"cow": True}, "class_map: cow is True, but the classifier has 2 classes"),
    ):
        with pytest.raises(ConfigError, match=words):
            ids(ImageSplits(images=images, class_map=class_map), "fit")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratios": (1, 1)}, "ratios must be three proportions"),
        ({"ratios": (1, -1, 1)}, "ratios must be three proportions"),
        ({"ratios": (0, 0, 0)}, "ratios must be three proportions"),
        ({"crop_share": 0.0}, r"crop_share must be from 0.1 to 1, found 0.0"),
        ({"max_pixels": 0}, "max_pixels must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ImageSplits(images=ImageFolder(root="x"), **settings)
