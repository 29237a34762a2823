"""Images that serve two purposes in commands that follow one another, each with a memory of its own."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from helpers.normalizations import CENTRED
from verisal.checkpoint import IMAGES_KEY, load_checkpoint, load_export, save_checkpoint
from verisal.cli import main
from verisal.models import Classifier, SmallResNet, export_classifier

SIZE, CLASSES = 32, ("a", "b")


def made(name, **settings):
    return {"class_path": name, "init_args": settings}


def draw(folder, seeds):
    """One noisy picture per seed, in two class folders."""
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        path = folder / CLASSES[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write(home, name, *, fit="fit", val="val", test="test", task=None, **settings):
    """A configuration over three folders."""
    splits = {
        "images": made("ImageFolder", root=fit),
        "val_images": made("ImageFolder", root=val),
        "test_images": made("ImageFolder", root=test),
    }
    data = made("ImageData", splits=splits, classifier="names.safetensors", batch_size=8, num_workers=0)
    content = {
        "seed_everything": 0,
        "model": task or made("ClassifierTask", widths=[4, 8, 8, 8]),
        "data": data,
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "wandb": {"mode": "disabled"},
        **settings,
    }
    (home / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return f"--config={name}.yaml"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folders of images without a common one, ``copies`` of those fitted on, and a fitted classifier."""
    folder = tmp_path_factory.mktemp("guarded")
    for start, name in enumerate(("fit", "val", "test", "other")):
        draw(folder / name, range(16 * start, 16 * start + 10))
    draw(folder / "copies", range(10))
    # Other names, another format: the same pixels.
    for path in sorted((folder / "copies").rglob("*.png")):
        Image.open(path).save(path.with_name(f"renamed-{path.stem}.bmp"))
        path.unlink()
    network = SmallResNet(2, widths=(4, 8, 8, 8)).eval()
    names = Classifier(
        network, network.stage_names, class_names=CLASSES, image_size=SIZE, normalization=CENTRED
    )
    export_classifier(folder / "names.safetensors", names, origin={})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", write(folder, "good"), "--run_dir", "run"]) == 0
        assert main(["export", "run", "--output", "out"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(home, monkeypatch):
    monkeypatch.chdir(home)


def refused(capsys, args):
    capsys.readouterr()
    assert main(args) == 1
    return capsys.readouterr().err


def test_a_fit_refuses_copies_among_its_test_images_before_any_work(home, capsys):
    config = write(home, "copied", test="copies")
    said = refused(capsys, ["fit", config, "--run_dir", "refused"])
    assert "10 of the 10 images of test stand in fit too, by their pixels: a/renamed-" in said
    assert not (home / "refused" / "checkpoints").exists()
    # Nothing claims anything of them where no test follows.
    assert main(["fit", config, "--run_dir", "untested", "--test_after_fit=false"]) == 0
    said = refused(capsys, ["test", "--config=untested/config.yaml", "--run_dir=untested-test"])
    assert "10 of the 10 images of test stand in the images that the checkpoint was fitted on too" in said


@pytest.mark.parametrize(
    ("stage", "folders", "told"),
    [
        ("test", {"test": "copies"}, "images of test stand in the images that the checkpoint was fitted on"),
        ("test", {"test": "val"}, "images of test stand in the images by which the checkpoint was chosen"),
        (
            "validate",
            {"val": "copies"},
            "images of val stand in the images that the checkpoint was fitted on",
        ),
    ],
)
@pytest.mark.parametrize("weights", ["run/checkpoints/best.ckpt", "out/model.safetensors"])
def test_commands_after_it_compare_with_checkpoint_and_export(home, capsys, stage, folders, told, weights):
    # The configuration of the command names other images to fit on: only the weights know of the real ones.
    apart = {"fit": "other", "val": "other"} | folders
    if weights.endswith(".ckpt"):
        command = [stage, write(home, "after", **apart), f"--ckpt_path={weights}"]
    else:
        frozen = made("FrozenClassifierTask", classifier=weights)
        command = [stage, write(home, "after", **apart, task=frozen), "--ckpt_path=none"]
        told = told.replace("checkpoint was fitted on", "classifier was trained on")
        told = told.replace("the checkpoint was chosen", "the classifier's weights were chosen")
    assert told in refused(capsys, [*command, "--run_dir", "after"])


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_images_pass(home, stage):
    config = write(home, "apart", fit="copies", val="val", test="test")
    assert main([stage, config, "--ckpt_path=run/checkpoints/best.ckpt", "--run_dir=apart"]) == 0


def test_checkpoint_and_export_keep_eight_bytes_per_image(home):
    kept = load_checkpoint(home / "run/checkpoints/best.ckpt")[IMAGES_KEY]
    assert {use: (values.dtype, len(values)) for use, values in kept.items()} == {
        "fit": (torch.int64, 10),
        "val": (torch.int64, 10),
    }
    tensors, card = load_export(home / "out/model.safetensors")
    assert not any(name.startswith(IMAGES_KEY) for name in tensors)
    assert all(values.equal(kept[use]) for use, values in card[IMAGES_KEY].items())
    assert card[IMAGES_KEY].keys() == kept.keys()


def test_a_resumed_fit_keeps_both_records_and_refuses_what_it_fitted_on_as_validation(home, capsys):
    shutil.copytree("run", "again", dirs_exist_ok=True)
    swapped = write(home, "swapped", fit="other", val="fit")
    said = refused(capsys, ["fit", swapped, "--run_dir=again", "--resume=auto", "--trainer.max_epochs=2"])
    assert "images of val stand in the images that the checkpoint was fitted on too" in said


def test_a_checkpoint_without_a_record_is_used_and_a_line_says_so(home, capsys):
    old = load_checkpoint("run/checkpoints/best.ckpt")
    del old[IMAGES_KEY]
    save_checkpoint(old, home / "old.ckpt")
    config = write(home, "old", test="copies")
    assert main(["test", config, "--ckpt_path=old.ckpt", "--run_dir=old"]) == 0
    assert "images: the checkpoint does not tell which ones it was fitted on" in capsys.readouterr().out
