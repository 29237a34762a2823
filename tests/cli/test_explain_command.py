"""``verisal explain`` on the shipped classifier and a few pictures."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.cli import main
from verisal.cli._explain_inputs import other_classes, query_classes
from verisal.cli._explain_network import Doubts, classifier_of
from verisal.data import EmojiScenes, decode_image
from verisal.detection.detector_file import DetectorFile
from verisal.errors import ConfigError
from verisal.models import ClassifierSource, load_classifier
from verisal.saliency import HierarchicalMasks

NAMES = ("cat", "dog", "Great Dane", "7")
LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0], [4.0, 0.0, 0.0, 1.0]])
QUICK = [
    "--classifier=emoji_scenes_64",
    "--saliency=HierarchicalMasks",
    "--saliency.steps=3",
    "--saliency.learning_rate=0.4",
]


@pytest.fixture
def photos(tmp_path):
    """Folder with two scenes of the validation split, ``a.png`` and ``below/b.png``."""
    scenes = EmojiScenes("cls_val", 2)
    (tmp_path / "photos/below").mkdir(parents=True)
    for index, name in enumerate(("a.png", "below/b.png")):
        pixels = scenes[index].image.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("top1", [1, 0]),
        ("second", [3, 3]),
        # Of equal logits the first class is the likelier one.
        ("least", [0, 2]),
        ("dog", [1, 1]),
        ("great dane", [2, 2]),
        # A name comes before a number.
        ("7", [3, 3]),
        ("2", [2, 2]),
    ],
)
def test_a_query_is_a_place_a_name_or_a_number(word, found):
    assert query_classes(word, LOGITS, NAMES).tolist() == found


def test_where_the_disturbed_query_is_the_query_the_likeliest_other_class_is_taken():
    taken = torch.tensor([0, 0])
    assert other_classes("least", LOGITS, NAMES, taken=taken).tolist() == [1, 2]
    assert other_classes("cat", LOGITS, NAMES, taken=taken).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("word", "near"), [("dogg", "near it: dog"), ("dane", "near it: Great Dane"), ("9", "the first are cat")]
)
def test_an_unknown_class_is_told_with_names_near_it(word, near):
    with pytest.raises(ConfigError, match=near):
        query_classes(word, LOGITS, NAMES)


def test_a_file_becomes_a_figure_and_raw_maps(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(photos / "a.png"), *QUICK, "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png.explained.png", "a.png.npz"]
    assert "a.png.explained.png" in capsys.readouterr().out
    with Image.open(out / "a.png.explained.png") as figure:
        assert figure.size[0] > 900
    saved = np.load(out / "a.png.npz", allow_pickle=False)
    classifier = load_classifier("emoji_scenes_64")
    image = decode_image(photos / "a.png")[None]
    logits = classifier(image)
    query = torch.tensor([int(logits.argmax()), int(logits.argmin())])
    assert saved["query"].tolist() == query.tolist()
    np.testing.assert_allclose(saved["logits"], logits[0], atol=1e-4)
    np.testing.assert_allclose(saved["probabilities"], logits[0].softmax(dim=0), atol=1e-5)
    method = HierarchicalMasks(steps=3, learning_rate=0.4)
    wanted = method(classifier, torch.cat([image, image]), query)
    np.testing.assert_allclose(saved["saliency"], wanted.saliency, atol=1e-3)
    np.testing.assert_allclose(saved["raw"], wanted.raw, atol=1e-3)
    np.testing.assert_allclose(saved["raw_layers"], torch.cat(wanted.raw_layers, dim=1), atol=1e-3)
    assert "attribution" not in saved
    settings = json.loads(str(saved["settings"]))
    assert settings["query"] == classifier.class_names[int(query[0])]
    assert settings["saliency"]["steps"] == 3
    assert settings["classifier"] == "emoji_scenes_64"
    assert settings["detector_score"] is None


def test_the_default_method_needs_no_setting_of_a_network(photos, tmp_path):
    args = ["explain", str(photos / "a.png"), "--classifier=emoji_scenes_64", "--output", str(tmp_path)]
    assert main(args) == 0
    settings = json.loads(str(np.load(tmp_path / "a.png.npz")["settings"]))
    assert settings["saliency"]["class"] == "EvidenceMasks"
    assert settings["saliency"]["shown"] == "contribution"


def test_a_folder_becomes_figures_and_contact_sheets(photos, tmp_path, capsys):
    out = tmp_path / "out"
    args = ["explain", str(photos), *QUICK, "--output", str(out), "--query=second", "--disturbed_query=dog"]
    assert main([*args, "--sheet_images=1"]) == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "a.png.explained.png",
        "a.png.npz",
        "below/b.png.explained.png",
        "below/b.png.npz",
        "contact_sheet_1.png",
        "contact_sheet_2.png",
    }
    assert main([*args, "--sheet_images=2", "--output", str(tmp_path / "one")]) == 0
    assert [path.name for path in (tmp_path / "one").glob("contact*")] == ["contact_sheet_1.png"]
    # The maps of an image do not depend on what else is explained.
    alone, mates = (np.load(folder / "below/b.png.npz")["saliency"] for folder in (out, tmp_path / "one"))
    np.testing.assert_array_equal(alone, mates)


def test_any_method_with_nested_options(photos, tmp_path):
    args = ["--saliency=SmoothGrad", "--saliency.base=Gradient", "--saliency.samples=2"]
    image = str(photos / "a.png")
    assert main(["explain", image, "--classifier=emoji_scenes_64", *args, "--output", str(tmp_path)]) == 0
    saved = np.load(tmp_path / "a.png.npz")
    assert saved["attribution"].shape == (2, 3, 64, 64)
    assert "raw_layers" not in saved
    settings = json.loads(str(saved["settings"]))["saliency"]
    assert (settings["class"], settings["samples"], settings["base"]["class"]) == (
        "SmoothGrad",
        2,
        "Gradient",
    )


def test_a_classifier_of_several_labels(photos, tmp_path):
    args = ["explain", str(photos / "a.png"), "--classifier=emoji_scenes_64", "--classifier_output=sigmoid"]
    assert main([*args, "--output", str(tmp_path)]) == 0
    maps = np.load(tmp_path / "a.png.npz")
    torch.testing.assert_close(
        torch.from_numpy(maps["probabilities"]), torch.from_numpy(maps["logits"]).sigmoid()
    )
    assert json.loads(str(maps["settings"]))["output"] == "sigmoid"


def test_files_that_cannot_be_read_are_named_and_the_rest_is_explained(photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"not a picture")
    assert main(["explain", str(photos), *QUICK, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "verisal: not read:" in error
    assert "broken.png" in error
    assert (tmp_path / "out/below/b.png.explained.png").is_file()


def test_any_name_that_a_file_system_allows(photos, tmp_path, capsys):
    for name in (b"b\xff.png", b"$\\frac$.png"):
        shutil.copy(photos / "a.png", photos / os.fsdecode(name))
    assert main(["explain", str(photos), *QUICK, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for name in (r"b\xff.png", r"$\frac$.png", "a.png"):
        assert (tmp_path / "out" / f"{name}.explained.png").is_file()
        assert f"{name}: " in said


def test_equal_names_from_several_places_stay_apart(photos, tmp_path):
    copy = tmp_path / "copy"
    (photos / "below").rename(copy)
    (copy / "b.png").rename(copy / "a.png")
    args = ["explain", str(photos / "a.png"), str(copy / "a.png"), *QUICK, "--output", str(tmp_path / "out")]
    assert main(args) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npz")) == ["a-2.png.npz", "a.png.npz"]


BAD = {
    "no image": ([], 2, ("needs images",)),
    "empty folder": (["EMPTY"], 1, ("holds no image",)),
    "missing file": (["EMPTY/none.png", *QUICK], 1, ("none.png",)),
    "class": (["IMAGE", *QUICK, "--query=wolff"], 2, ("'wolff'", "near it: wolf")),
    "same classes": (["IMAGE", *QUICK, "--query=least"], 2, ("both 'least'",)),
    "method": (["IMAGE", "--saliency=HierarchicMasks"], 2, ("'HierarchicMasks'", "HierarchicalMasks")),
    "setting": (["IMAGE", *QUICK, "--saliency.stepz=3"], 2, ("stepz",)),
    "option": (["IMAGE", "--classifyer=x"], 2, ("classifyer", "classifier")),
    "classifier": (["IMAGE", "--classifier=nobody"], 2, ("unknown classifier 'nobody'",)),
    "detector": (["IMAGE", *QUICK, "--detector=EMPTY"], 2, ("no run, checkpoint",)),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_work_ends_with_one_line(bad, photos, tmp_path, capsys):
    args, code, words = BAD[bad]
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "IMAGE": str(photos / "a.png")}
    for mark, place in places.items():
        args = [word.replace(mark, place) for word in args]
    assert main(["explain", *args, "--output", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert not list((tmp_path / "out").glob("*"))


def test_drawings_under_the_default_network_are_doubted(photos, tmp_path, capsys):
    words = ["explain", str(photos / "a.png"), "--saliency=EdgeDetector", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "doubt: no network was named, and imagenet_efficientnet_lite0 may not know" in said
    assert "1 of 1 images have at most half of the 224 x 224 px that it looks at" in said
    assert main([*words, "--classifier=emoji_scenes_64"]) == 0
    assert "doubt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([(0.9, (300, 300)), (0.8, (224, 100))], ()),
        ([(0.4, (300, 300)), (0.8, (224, 100))], ()),
        ([(0.4, (300, 300)), (0.4, (112, 112))], ("1 of 2 images have at most half", "for 2 of 2 images")),
        ([(0.4, (300, 300))], ("for 1 of 1 images its likeliest class has a probability below 0.50",)),
    ],
)
def test_doubts_count_small_images_and_unsure_answers(images, told):
    doubts = Doubts((224, 224))
    for probability, size in images:
        doubts.add(probability, size)
    words = doubts.words()
    assert bool(words) == bool(told)
    assert all(part in words for part in told)


def test_a_function_that_only_a_file_names_is_not_imported(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text("{}")
    (tmp_path / "run/config.yaml").write_text("data: {init_args: {classifier: {name: 'os.path:join'}}}")
    file = DetectorFile(tmp_path / "run/checkpoints/best.ckpt", {}, {}, {})
    with pytest.raises(
        ConfigError, match=r"os\.path:join, a function that is not imported because a file says so"
    ):
        classifier_of(file)
    (tmp_path / "run/config.yaml").write_text(
        "data: {init_args: {classifier: {name: timm:x, image_size: 32}}}"
    )
    assert classifier_of(file) == ClassifierSource(name="timm:x", image_size=32)


@pytest.mark.parametrize("module", ["_explain_command", "_data"])
def test_nothing_slow_but_torch_is_imported_before_the_first_picture(module):
    code = (
        f"import sys; import verisal.cli, verisal.cli.{module};"
        "slow = ('lightning', 'torchmetrics', 'wandb', 'torchvision', 'albumentations', 'cv2', 'scipy');"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_images_that_are_not_square_are_cut_and_that_is_said_or_explained_whole(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name, size in (("square.png", (70, 70)), ("wide.png", (96, 64))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            tmp_path / "photos" / name
        )
    args = ["--saliency=EdgeDetector", "--classifier=emoji_scenes_64", "--output", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "photos"), *args]) == 0
    said = capsys.readouterr().out
    assert (
        "wide.png has other proportions than the network takes\n  its middle is explained, at 64 x 64" in said
    )
    assert np.load(tmp_path / "out/wide.png.npz")["saliency"].shape == (2, 1, 64, 64)
    args[-1] = str(tmp_path / "whole")
    assert main(["explain", str(tmp_path / "photos/wide.png"), *args, "--image_size=[64, 96]"]) == 0
    assert "proportions" not in capsys.readouterr().out
    found = np.load(tmp_path / "whole/wide.png.npz")
    assert found["saliency"].shape == (2, 1, 64, 96)
    assert '"image_size": [64, 96]' in str(found["settings"])
