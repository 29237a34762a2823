"""What the data module of the study makes, refuses, and keeps apart."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from helpers.tiny_detector import COUNTS
from helpers.tiny_transfer import FAMILIES, FITS, ROWS, attacks, data, study
from verisal.attacks import FGSM, SignNoise
from verisal.data import EmojiScenes, ImageFolder, ImageSplits
from verisal.detectors import MaxSoftmax
from verisal.errors import ConfigError, DataError

MEASUREMENT = MaxSoftmax().measurement


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transfer-data")


@pytest.fixture(scope="module")
def filled(folder):
    module = data(folder)
    module.measure([*COUNTS], [MEASUREMENT])
    return module


def test_each_split_holds_what_its_use_asks_for(filled):
    fit, val, test = (filled.groups(split) for split in COUNTS)
    benign = ("noise_linf", "noise_small", "noise_l2")
    # Attacks and noise that some fit names; failed attacks are not measured.
    attacked = {name for name, role in fit.roles.items() if role == "attack"}
    assert attacked == {name for names in FITS.values() for name in names}
    assert "noise_linf" in fit.groups
    assert "noise_l2" in fit.groups
    assert not {"noise_small", "weak", "nothing"} & set(fit.groups)
    assert all(count == 0 for name, count in fit.counts().items() if fit.roles[name] == "failed")
    assert set(val.groups) == {"clean", "clean_misclassified"}
    assert len(val) == COUNTS["det_val"]
    assert {name for name, role in test.roles.items() if role == "attack"} == set(attacks())
    assert set(benign) <= set(test.groups)


def test_names_are_those_of_the_scenes(filled):
    assert filled.image_id("det_test", 7) == "emoji-0-det_test-7"


def test_an_image_of_the_fit_split_that_stands_in_another_is_refused(folder, monkeypatch):
    def shared(part, count, **settings):
        return EmojiScenes("det_fit" if part == "det_val" else part, count, **settings)

    monkeypatch.setattr("verisal.detection.data.EmojiScenes", shared)
    with pytest.raises(DataError, match="images of det_val stand in det_fit too"):
        data(folder).setup("test")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_cells_without_a_gap_or_a_double(folder, world):
    seen = []
    for rank in range(world):
        module = data(folder)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        module.plan("test", 7)
        seen.append([int(batch) for batch in module.test_dataloader()])
    assert sorted(cell for share in seen for cell in share) == list(range(7))
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def photographs(folder, part, count):
    """Scenes of a split as files, a folder for each class."""
    root, scenes = Path(folder) / part, EmojiScenes(part, count, size=32)
    for index in range(count):
        sample = scenes[index]
        path = root / scenes.class_names[sample.label] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (sample.image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path)
    return ImageFolder(root=str(root))


def test_the_study_runs_on_image_files(folder):
    fit, val, test = (photographs(folder, part, count) for part, count in COUNTS.items())
    source = ImageSplits(images=fit, val_images=val, test_images=test)
    given = {"source": source, "fit_count": 30, "val_count": 230, "test_count": 12}
    module = data(folder, **given)
    ids = [module.image_id("det_test", index) for index in range(12)]
    assert all((Path(folder) / "det_test" / name).is_file() for name in ids)
    assert module.score_store("row", {}).name != data(folder, **given, seed=1).score_store("row", {}).name
    assert module.score_store("row", {}).name != (
        data(folder, **{name: value for name, value in given.items() if name != "source"})
        .score_store("row", {})
        .name
    )
    evaluation = study(folder, given=given).evaluation
    names, groups = EmojiScenes("det_test", 1, size=32).class_names, module.groups("det_test")
    assert [names[label] for label in groups.label.tolist()] == [
        Path(ids[index]).parent.name for index in groups.image_index.tolist()
    ]
    assert {row for row in ROWS if f"test/{row}/auroc/mean_unseen" in evaluation.scores} == set(ROWS)
    assert evaluation.counts["clean"] + evaluation.counts["clean_misclassified"] == 12


def test_thresholds_hold_for_noise_that_is_named(folder):
    plain = study(folder).evaluation
    given = {"threshold_noise": ["noise_linf"]}
    module, held = data(folder, **given), study(folder, given=given)
    assert any("noise_linf as well" in note for note in held.evaluation.notes)
    for row in ROWS:
        for group in ("clean", "noise_linf", "noise_small"):
            name = f"test/{row}/fpr/{group}"
            assert held.evaluation.scores[name].value <= plain.scores[name].value
    groups = module.groups("det_val")
    assert set(groups.groups) == {"clean", "clean_misclassified", "noise_linf", "noise_linf_misclassified"}
    assert groups.counts()["noise_linf"] > 0.9 * groups.counts()["clean"]


def test_scores_are_computed_once(folder):
    module, calls = data(folder), []

    def compute():
        calls.append(1)
        return {"val": torch.arange(3.0)}

    for _ in range(2):
        store = module.score_store("row", {"detector": 1})
        module.scores(store, compute)
        assert store.load(["val"])["val"].tolist() == [[0.0, 1.0, 2.0]]
    assert len(calls) == 1


CHANGES = {
    "test_count": {"test_count": 20},
    "seed": {"seed": 1},
    "fit noise": {"fit_noise": []},
    "noise like": {"noise_like": "fgsm"},
    "threshold noise": {"threshold_noise": ["noise_linf"]},
    "an attack's eps": {"attacks": attacks() | {"weak": FGSM(2 / 255)}},
    "a noise's eps": {"noise": {"noise_linf": SignNoise(7 / 255), "noise_small": SignNoise(2 / 255)}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_scores_of_other_data_are_kept_elsewhere(folder, change):
    key = {"detector": 1}
    paths = {str(data(folder, **CHANGES[change]).score_store("row", key).path) for _ in range(2)}
    assert len(paths) == 1
    assert str(data(folder).score_store("row", key).path) not in paths
    assert data(folder).score_store("row", {"detector": 2}).path not in paths


BAD = {
    "an attack without a family": (
        {"families": FAMILIES | {"one_step": ["fgsm"]}},
        r"without a family: \['weak'\]",
    ),
    "a family of unknown attacks": (
        {"families": FAMILIES | {"search": ["square"]}},
        r"not defined: \['square'\]",
    ),
    "a fit of unknown attacks": ({"fits": {"default": ["square"]}}, r"fit 'default'.*unknown: \['square'\]"),
    "an attack in two families": (
        {"families": FAMILIES | {"again": ["pgd"]}},
        r"\['pgd'\] stand in two families",
    ),
    "unknown fit noise": ({"fit_noise": ["blur"]}, r"fit_noise and threshold_noise name \['blur'\]"),
    "unknown threshold noise": ({"threshold_noise": ["blur"]}, r"threshold_noise name \['blur'\]"),
    "noise like an attack that is not fitted": ({"noise_like": "weak"}, "must be a fitted attack.*'weak'"),
    "unknown merged family": ({"merged": ["iterated", "search"]}, r"merged names families \['search'\]"),
}


@pytest.mark.parametrize("bad", BAD)
def test_names_that_do_not_fit_are_refused(folder, bad):
    settings, words = BAD[bad]
    with pytest.raises(ConfigError, match=words):
        data(folder, **settings)
