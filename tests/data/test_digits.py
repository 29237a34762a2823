"""The digits of scikit-learn as a data set, and images on disk for a classifier that is yet to be trained."""

import pytest
import torch
from sklearn.datasets import load_digits

from helpers.make_data_sets import classifier_of, make_folder
from verisal.data import AnnotatedImages, Digits, ImageData, ImageFolder, ImagesLike, ImageSplits, check_data
from verisal.errors import DataError

GREY = ImagesLike(class_names=tuple("0123456789"), image_size=8, channels=1)


def test_every_scan_is_there_with_its_label_and_its_sixteen_greys():
    images = AnnotatedImages(ImageSplits(images=Digits(), ratios=(1, 0, 0)), "fit", classifier=GREY)
    known = load_digits()
    assert len(images) == len(known.images) == 1797
    for place in (0, 700, 1796):
        sample = images[place]
        number = int(sample.image_id.removeprefix("digit-"))
        expected = torch.from_numpy(known.images[number]).float()[None] / 16
        assert (sample.image - expected).abs().max() <= 0.5 / 255 + 1e-6
        assert sample.label == known.target[number]


def test_the_splits_share_no_scan_and_no_picture():
    splits = ImageSplits(images=Digits(), ratios=(0.5, 0.1, 0.4))
    data = ImageData(splits, image_size=8, channels=1, num_workers=0)
    seen = {}
    for use in ("fit", "val", "test"):
        data.setup({"val": "validate"}.get(use, use))
        digests = data.digests(use)
        for value in digests.values.tolist():
            assert seen.setdefault(value, use) == use
    assert len(seen) == 1797
    assert (data.class_names, data.image_size, data.channels) == (GREY.class_names, 8, 1)


def test_they_are_checked_as_any_data_set():
    report = check_data(Digits())
    assert (report.images, report.usable, report.problems) == (1797, 1797, ())
    assert sum(report.classes.values()) == 1797
    # None of the names is a class of this one, and it takes three channels.
    words = [
        str(problem) for problem in check_data(Digits(), classifier=classifier_of(("0", "1"), 8)).problems
    ]
    assert "8 classes of the images are none of the classifier's" in words[0]


def test_a_classifier_of_other_channels_is_refused_by_the_name_of_the_scan():
    like = ImagesLike(class_names=GREY.class_names, image_size=8, channels=4)
    with pytest.raises(DataError, match=r"digit-\d+: has 1 channel\(s\), and the classifier takes 4"):
        AnnotatedImages(ImageSplits(images=Digits()), "fit", classifier=like)[0]


def test_a_folder_gives_classes_to_a_classifier_that_is_yet_to_be_trained(tmp_path):
    folder = ImageFolder(root=make_folder(tmp_path, count=20))
    data = ImageData(ImageSplits(images=folder), image_size=12, num_workers=0)
    data.setup("fit")
    assert (data.class_names, data.image_size, data.channels) == (("cat", "dog"), 12, 3)
    assert next(iter(data.train_dataloader())).images.shape[1:] == (3, 12, 12)
    left = ImageData(ImageSplits(images=folder, class_map={"cat": None}), image_size=12)
    assert left.class_names == ("dog",)
