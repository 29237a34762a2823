import os
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from helpers.tiny_detector import COUNTS, SIZE, data, exported, features, masks, memorised
from verisal.attacks import FGSM, PGD
from verisal.cli._trainer import write_predictions
from verisal.data.guard import guard_classifier_data
from verisal.data.image_data import Processes, ShareSampler
from verisal.detection.detector_data import TableDataset
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash

# Some of these attacks fail, so that there are rows that must not be fitted.
FIT = {"pgd": PGD(8 / 255, steps=4), "weak": FGSM(1.2 / 255)}


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    module = data(tmp_path_factory.mktemp("data"), fit_attacks=FIT)
    module.setup("fit")
    module.setup("test")
    return module


def rows(table):
    return list(zip(table.group.tolist(), table.image_index.tolist(), strict=True))


def test_splits_hold_the_counts_that_were_asked_for(ready):
    for split, count in COUNTS.items():
        counts = ready.table(split).counts()
        assert counts["clean"] + counts["clean_misclassified"] == count
    val = ready.table("det_val").counts()
    noisy = [val[name] + val.get(f"{name}_misclassified", 0) for name in ("noise_l2", "noise_linf")]
    assert [val["pgd"] + val["pgd_failed"]] * 2 == noisy
    assert noisy[0] <= 20
    # Noise that fools the classifier makes a group where there is any.
    fit, val = (
        {name for name in ready.table(split).groups if not name.endswith("_misclassified")}
        for split in ("det_fit", "det_val")
    )
    assert fit == val
    assert "weak" in ready.table("det_fit").groups
    assert "fgsm" in ready.table("det_test").groups
    assert "fgsm" not in ready.table("det_fit").groups


def test_card_states_what_a_checkpoint_must_agree_with(ready):
    classifier = memorised()
    assert ready.card() == {
        "class_names": list(classifier.class_names),
        "image_size": SIZE,
        "stages": ["stage1", "stage2", "stage3", "stage4"],
        "classifier": state_hash(ready.classifier),
        "features": features().settings(),
    }


def test_card_changes_with_the_classifier_and_the_features(ready, tmp_path):
    other = data(tmp_path, classifier=str(exported(tmp_path, seed=1)))
    assert {name for name, value in other.card().items() if value != ready.card()[name]} == {"classifier"}
    more = data(tmp_path, features=features(saliency=masks(reg_weight=0.7)))
    assert {name for name, value in more.card().items() if value != ready.card()[name]} == {"features"}


def with_failures(table):
    """The table with its second group of negatives declared failed attacks."""
    return replace(table, roles=table.roles | {"noise_linf": "failed"})


def test_fit_split_holds_no_failed_attacks_and_the_others_all(ready):
    assert ready.table("det_fit").counts()["weak_failed"] == 0
    assert 0 < ready.table("det_fit").counts()["weak"] < ready.table("det_fit").counts()["pgd"]
    assert ready.table("det_val").counts()["weak_failed"] > 0


def test_training_reads_every_row_but_failed_attacks_once(ready, tmp_path):
    module = data(tmp_path, fit_attacks=FIT)
    module._tables = {"det_fit": with_failures(ready.table("det_fit"))}
    table = module.table("det_fit")
    failed = table.groups.index("noise_linf")
    loader = module.train_dataloader()
    seen = Counter(row for batch in loader for row in rows(batch))
    wanted = {row for row in rows(table) if row[0] != failed}
    # Batch normalisation cannot do with a last batch of one, so the last rows may wait for another epoch.
    assert set(seen) <= wanted
    assert set(seen.values()) == {1}
    assert len(seen) == len(wanted) // 32 * 32
    again = Counter(row for batch in loader for row in rows(batch))
    assert list(again) != list(seen)
    # Both classes of what is fitted count the same.
    fitted = table.group != failed
    positives = float(table.target[fitted].sum())
    assert positives * module.positive_weight == pytest.approx(float((1 - table.target[fitted]).sum()))


def test_evaluation_reads_every_row_once_in_order(ready):
    for loader, split in ((ready.val_dataloader(), "det_val"), (ready.test_dataloader(), "det_test")):
        seen = [row for batch in loader for row in rows(batch)]
        assert seen == rows(ready.table(split))


def test_inputs_are_standardised_by_clean_fit_images_alone(ready):
    batch = ready.clean_fit_batch()
    table = ready.table("det_fit")
    clean = table.group == table.groups.index("clean")
    assert batch.image_index.equal(table.image_index[clean])
    assert batch.target.eq(0).all()
    for name, values in table.features.items():
        assert batch.features[name].equal(values[clean])


def test_a_batch_is_the_rows_that_were_asked_for(ready):
    table = ready.table("det_fit")
    dataset = TableDataset(table)
    batch = dataset.__getitems__([7, 2])
    assert len(dataset) == len(table)
    assert rows(batch) == [rows(table)[7], rows(table)[2]]
    assert batch.features["gradient"].equal(table.features["gradient"][[7, 2]])
    assert rows(dataset[3]) == [rows(table)[3]]


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
    module = data(tmp_path, fit_attacks=FIT)
    module._scenes["det_val"] = ready._scenes["det_fit"]
    module._scenes["det_fit"] = ready._scenes["det_fit"]
    with pytest.raises(
        DataError,
        match="40 of the 40 images of det_val stand in det_fit too",
    ):
        module.setup("fit")


class Leaking:
    """A split whose image 2 is the first of another one."""

    def __init__(self, scenes, other):
        self._scenes, self._other = scenes, other

    def __getattr__(self, name):
        return getattr(self._scenes, name)

    def __len__(self):
        return len(self._scenes)

    def __getitem__(self, index):
        return self._other[0] if index == 2 else self._scenes[index]


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_one_shared_image_is_enough_whichever_stage_runs_first(tmp_path, stage):
    module = data(tmp_path, fit_attacks=FIT)
    scenes = module._scenes
    scenes["det_test"].source = Leaking(scenes["det_test"].source, scenes["det_fit"].source)
    with pytest.raises(DataError, match=r"1 of the 33 images of det_test stand in det_fit too.*det_test-2;"):
        module.setup(stage)
    # Refused before any work.
    assert not list(tmp_path.glob("store/*"))


@pytest.mark.parametrize(("use", "split"), [("fit", "det_val"), ("val", "det_test")])
def test_images_that_the_classifier_has_seen_are_refused(ready, tmp_path, use, split):
    module = data(tmp_path, fit_attacks=FIT)
    seen = module._scenes[split].digests().values[:3]
    module.classifier.seen_images = {"fit": seen[:0], "val": seen[:0], use: seen}
    with pytest.raises(DataError, match=rf"3 of the .* images of {split} stand in the images .* classifier"):
        module.setup("test")


def test_images_that_chose_the_classifier_may_be_fitted_on(tmp_path):
    module = data(tmp_path, fit_attacks=FIT)
    splits = {split: scenes.digests for split, scenes in module._scenes.items()}
    module.classifier.seen_images = {"val": splits["det_fit"]().values}
    guard_classifier_data(splits, module.classifier)


def test_images_are_named_after_their_split(ready):
    assert ready.image_id("val", 3) == "emoji-0-det_val-3"
    assert ready.image_id("test", 0) == "emoji-0-det_test-0"


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
