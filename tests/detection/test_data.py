import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from helpers.tiny_detector import COUNTS, SIZE, attacks, data, exported, features, memorised
from verisal.attacks import FGSM
from verisal.cli._trainer import write_predictions
from verisal.data import ImageReader, resize_image
from verisal.data.guard import guard_classifier_data
from verisal.data.image_data import Processes, ShareSampler
from verisal.detectors import Logits
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash

# Some of the weak attacks fail, so that there are rows that must not be fitted.
FIT = {"attacks": attacks() | {"weak": FGSM(1.2 / 255)}, "fits": {"default": ["pgd", "weak"]}}
EVERY = ("det_fit", "det_val", "det_test")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    module = data(tmp_path_factory.mktemp("data"), **FIT)
    module.setup("fit")
    module.measure(EVERY, [features()])
    return module


def test_splits_hold_the_counts_that_were_asked_for(ready):
    for split, count in COUNTS.items():
        counts = ready.groups(split).counts()
        assert counts["clean"] + counts["clean_misclassified"] == count
    val = ready.groups("det_val").counts()
    noisy = [val[name] + val.get(f"{name}_misclassified", 0) for name in ("noise_l2", "noise_linf")]
    assert [val["pgd"] + val["pgd_failed"]] * 2 == noisy
    assert noisy[0] <= 20
    # Noise that fools the classifier makes a group where there is any.
    fit, val = (
        {name for name in ready.groups(split).groups if not name.endswith("_misclassified")}
        for split in ("det_fit", "det_val")
    )
    assert fit == val
    assert "weak" in ready.groups("det_fit").groups
    assert "fgsm" in ready.groups("det_test").groups
    assert "fgsm" not in ready.groups("det_fit").groups


def test_the_stores_that_were_used_are_known_by_their_folders(ready, tmp_path):
    stores = ready.used_stores()
    assert all((Path(place) / "store.json").is_file() for place in stores.values())
    assert {Path(place).name for place in stores.values()} == stores.keys()
    for kind in ("images-det_fit-pgd", "images-det_test-fgsm", "features-det_val-clean"):
        assert any(name.startswith(f"{kind}-") for name in stores)
    assert data(tmp_path, **FIT).used_stores() == {}


def test_card_states_what_a_checkpoint_must_agree_with(ready):
    classifier = memorised()
    assert ready.card() == {
        "class_names": list(classifier.class_names),
        "image_size": SIZE,
        "stages": ["stage1", "stage2", "stage3", "stage4"],
        "classifier": state_hash(ready.classifier),
    }


def test_card_changes_with_the_classifier(ready, tmp_path):
    other = data(tmp_path, classifier=str(exported(tmp_path, seed=1)))
    assert {name for name, value in other.card().items() if value != ready.card()[name]} == {"classifier"}


def test_fit_split_holds_no_failed_attacks_and_the_others_all(ready):
    assert ready.groups("det_fit").counts()["weak_failed"] == 0
    assert 0 < ready.groups("det_fit").counts()["weak"] < ready.groups("det_fit").counts()["pgd"]
    assert ready.groups("det_val").counts()["weak_failed"] > 0


def test_training_reads_every_number_once(ready, tmp_path):
    module = data(tmp_path)
    for count, whole in ((70, 64), (64, 64), (20, 20)):
        module.plan("fit", count)
        # Batch normalisation cannot do with a last batch of one, so the last rows may wait for another epoch.
        assert [row for batch in module.train_dataloader() for row in batch.tolist()] == list(range(whole))


def test_evaluation_reads_every_row_once_in_order(ready):
    for loader, split in ((ready.val_dataloader(), "det_val"), (ready.test_dataloader(), "det_test")):
        seen = [row for batch in loader for row in batch.tolist()]
        assert seen == list(range(len(ready.groups(split))))


def test_what_is_measured_stands_in_the_order_of_the_groups(ready):
    classifier = memorised()
    ready.measure(("det_test",), [Logits()])
    groups = ready.groups("det_test")
    measured = ready.measured("det_test", Logits())
    expected = Logits()(classifier, groups.images.float() / 255)["logits"]
    torch.testing.assert_close(measured["logits"], expected, rtol=1e-4, atol=1e-4)
    features_ = ready.measured("det_test", features())
    torch.testing.assert_close(features_["logits"], expected, rtol=1e-3, atol=1e-3)
    assert {len(tensor) for tensor in features_.values()} == {len(groups)}


@pytest.mark.parametrize(("count", "world"), [(7, 2), (6, 3), (5, 1)])
def test_processes_share_rows_without_repeats(count, world):
    samplers = [ShareSampler(range(count), Processes(rank, world)) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(row for share in shares for row in share) == list(range(count))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_beyond_the_rows_gets_a_copy_and_nobody_waits_for_it():
    samplers = [ShareSampler(range(2), Processes(rank, 5)) for rank in range(5)]
    assert [list(sampler) for sampler in samplers] == [[0], [1], [0], [1], [0]]
    assert [len(sampler) for sampler in samplers] == [1] * 5


def test_an_image_in_two_splits_is_an_error(ready, tmp_path):
    # The plant: validation shows the scenes of the fit split.
    module = data(tmp_path, **FIT)
    module._splits["det_val"] = ready._splits["det_fit"]
    module._splits["det_fit"] = ready._splits["det_fit"]
    with pytest.raises(
        DataError,
        match="40 of the 40 images of det_val stand in det_fit too",
    ):
        module.setup("fit")


class Leaking:
    """A split whose image 2 is the first of another one."""

    def __init__(self, scenes, other):
        self._splits, self._other = scenes, other

    def __getattr__(self, name):
        return getattr(self._splits, name)

    def __len__(self):
        return len(self._splits)

    def __getitem__(self, index):
        return self._other[0] if index == 2 else self._splits[index]


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_one_shared_image_is_enough_whichever_stage_runs_first(tmp_path, stage):
    module = data(tmp_path, **FIT)
    scenes = module._splits
    scenes["det_test"].source = Leaking(scenes["det_test"].source, scenes["det_fit"].source)
    with pytest.raises(DataError, match=r"1 of the 33 images of det_test stand in det_fit too.*det_test-2;"):
        module.setup(stage)
    # Refused before any work.
    assert not list(tmp_path.glob("store/*"))


@pytest.mark.parametrize(("use", "split"), [("fit", "det_val"), ("val", "det_test")])
def test_images_that_the_classifier_has_seen_are_refused(ready, tmp_path, use, split):
    module = data(tmp_path, **FIT)
    seen = module._splits[split].digests().values[:3]
    module.classifier.seen_images = {"fit": seen[:0], "val": seen[:0], use: seen}
    with pytest.raises(DataError, match=rf"3 of the .* images of {split} stand in the images .* classifier"):
        module.setup("test")


def test_images_that_chose_the_classifier_may_be_fitted_on(tmp_path):
    module = data(tmp_path, **FIT)
    splits = {split: scenes.digests for split, scenes in module._splits.items()}
    module.classifier.seen_images = {"val": splits["det_fit"]().values}
    guard_classifier_data(splits, module.classifier)
    module.classifier.seen_images = {"fit": splits["det_fit"]().values}
    with pytest.raises(DataError, match="images of det_fit stand in the images"):
        guard_classifier_data(splits, module.classifier)


def test_images_are_named_after_their_split(ready):
    assert ready.image_id("det_val", 3) == "emoji-0-det_val-3"
    assert ready.image_id("det_test", 0) == "emoji-0-det_test-0"


def picture(path, size, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_photographs_come_from_files_and_folders_at_the_classifiers_size(tmp_path):
    picture(tmp_path / "folder" / "b.png", (70, 31), (255, 0, 0))
    picture(tmp_path / "folder" / "deep" / "a.JPEG", (5, 9), (0, 0, 255))
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    picture(tmp_path / "one.bmp", (32, 32), (0, 255, 0))
    module = data(tmp_path, images=[str(tmp_path / "folder"), str(tmp_path / "one.bmp")])
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    names = ("folder/b.png", "folder/deep/a.JPEG", "one.bmp")
    assert batch.image_ids == tuple(str(tmp_path / name) for name in names)
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    assert batch.labels.tolist() == [-1, -1, -1]
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    torch.testing.assert_close(batch.images.mean(dim=(2, 3)), colours, rtol=0, atol=0.02)


def test_dicom_files_are_cut_by_the_window_that_is_said(tmp_path):
    file = get_testdata_file("CT_small.dcm", download=False)
    module = data(tmp_path, images=[file], window=(40, 400))
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    expected = resize_image(ImageReader(window=(40, 400))(file), SIZE)
    assert batch.images[0].equal(expected)
    assert not batch.images[0].equal(resize_image(ImageReader(window=(40, 800))(file), SIZE))


def test_damaged_photographs_stop_predict_or_are_left_out(tmp_path, caplog):
    picture(tmp_path / "whole.png", (32, 32), (0, 255, 0))
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[:-30])
    module = data(tmp_path, images=[str(tmp_path)])
    module.setup("predict")
    with pytest.raises(DataError, match=r"broken\.png: damaged or truncated"):
        list(module.predict_dataloader())
    module = data(tmp_path, images=[str(tmp_path)], on_error="skip")
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    assert batch.image_ids == (str(tmp_path / "whole.png"),)
    assert f"left out: {tmp_path / 'broken.png'}: damaged or truncated image" in caplog.text
    (tmp_path / "whole.png").unlink()
    with pytest.raises(DataError, match="none of the 1 images can be decoded"):
        module.setup("predict")


def test_a_photograph_of_any_name_gets_into_the_table(tmp_path):
    path = tmp_path / os.fsdecode(b"b\xff.png")
    picture(path, (32, 32), (0, 255, 0))
    module = data(tmp_path, images=[str(path)])
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    write_predictions(tmp_path / "a.csv", [{"image_id": batch.image_ids}], images=1)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == [
        "image_id",
        rf"{tmp_path}/b\xff.png",
    ]


def test_predictions_are_told_in_a_line_for_each_image(tmp_path, capsys):
    judged = {"image_id": ["a", "b"], "prediction": ["cat", "dog"], "probability": [0.9, 0.25]}
    write_predictions(
        tmp_path / "a.csv", [{**judged, "alarm": [True, None], "score/x": [1.0, 2.0]}], images=2
    )
    assert capsys.readouterr().out.splitlines() == [
        "a: cat 0.90, ALARM: looks adversarial",
        "b: dog 0.25, NO VERDICT",
        f"predictions: {tmp_path / 'a.csv'}",
    ]
    many = {"image_id": [f"i{number}" for number in range(102)], "score": torch.arange(102) / 8}
    write_predictions(tmp_path / "a.csv", [many], images=102)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "i1: score 0.125"
    assert lines[100:] == ["and 2 more, all in the file:", f"predictions: {tmp_path / 'a.csv'}"]


def test_photographs_that_are_not_there_are_clear_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    for images, kind, words in (
        ((), ConfigError, r"predict needs images: add --data.images="),
        ((str(tmp_path / "gone.png"),), DataError, "gone.png does not exist"),
        ((str(tmp_path / "empty"),), DataError, r"empty holds no image \(.png, .jpg"),
    ):
        with pytest.raises(kind, match=words):
            data(tmp_path, images=images).setup("predict")
    with pytest.raises(ConfigError, match="setup"):
        data(tmp_path).predict_dataloader()


def test_unknown_classifier_and_names_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ConfigError, match="unknown classifier 'tiny'; known: emoji_scenes_64"):
        data(tmp_path, classifier="tiny")
    with pytest.raises(ConfigError, match=r"det_test: noise_like is 'cw', attacks are"):
        data(tmp_path, test_noise_like="cw")
    with pytest.raises(ConfigError, match=r"fit_count must be at least 1, found 0"):
        data(tmp_path, fit_count=0)
    assert not (tmp_path / "store").exists()
