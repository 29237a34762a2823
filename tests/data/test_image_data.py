"""The data module of images on disk, alone and under the tasks that read it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from helpers.make_data_sets import classifier_of, make_folder, write_image
from helpers.tiny_detector import SIZE, attacks, exported, features, memorised
from verisal.attacks import SignNoise
from verisal.cli import main
from verisal.data import EmojiScenes, ImageData, ImageFolder, ImageSplits
from verisal.detection import DetectorData
from verisal.detection.data import image_source
from verisal.errors import ConfigError, DataError

CONFIGS = Path(__file__).parents[2] / "configs"
CAT_DOG = classifier_of(("cat", "dog"), 16)


def splits_of(root, **settings):
    return ImageSplits(images=ImageFolder(root=make_folder(root, count=20)), **settings)


def test_each_stage_reads_its_part(tmp_path):
    data = ImageData(splits_of(tmp_path), classifier=CAT_DOG, batch_size=4, num_workers=0, val_count=5)
    data.setup("fit")
    data.setup("test")
    names = {
        name: [image for batch in loader for image in batch.image_ids]
        for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader()))
    }
    assert len(names["val"]) == 5
    fitted = [image for batch in data.train_dataloader() for image in batch.image_ids]
    assert len(fitted) % 4 == 0
    again = [image for batch in data.train_dataloader() for image in batch.image_ids]
    assert fitted != again
    assert not set(fitted + again) & {*names["val"], *names["test"]}
    assert not set(names["val"]) & set(names["test"])
    assert (data.class_names, data.image_size) == (("cat", "dog"), 16)


def test_validation_can_read_the_test_part(tmp_path):
    data = ImageData(splits_of(tmp_path), classifier=CAT_DOG, num_workers=0, val_split="det_test")
    data.setup("validate")
    data.setup("test")
    (one,), (two,) = list(data.val_dataloader()), list(data.test_dataloader())
    assert one.image_ids == two.image_ids


def test_validation_and_test_have_one_number_for_the_same_images(tmp_path):
    splits = splits_of(tmp_path)
    with pytest.raises(ConfigError, match="found None and 2; leave test_count out"):
        ImageData(splits, classifier=CAT_DOG, val_split="det_test", test_count=2)


def test_a_broken_file_in_a_worker_is_an_error_with_its_name(tmp_path):
    splits = splits_of(tmp_path, ratios=(0, 1, 0))
    (tmp_path / "cat" / "cat3.png").write_bytes(b"")
    data = ImageData(splits, classifier=CAT_DOG, num_workers=1)
    data.setup("validate")
    with pytest.raises(DataError, match=r"cat3.png: the file is empty"):
        list(data.val_dataloader())


def scenes_on_disk(root, split, count):
    """Scenes as a folder of images with boxes and masks, and the scenes themselves."""
    scenes = EmojiScenes(split, count, size=SIZE)
    rows = ["image,class,xmin,ymin,xmax,ymax"]
    for index in range(count):
        sample = scenes[index]
        name = scenes.class_names[sample.label]
        path = Path(root) / name / f"{split}-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (sample.image * 255).round().to(torch.uint8)
        write_image(path, pixels.permute(1, 2, 0).numpy(), (SIZE, SIZE))
        rows.append(
            f"{name}/{path.name},{name}," + ",".join(f"{value:g}" for value in sample.boxes[0].tolist())
        )
    (Path(root) / "boxes.csv").write_text("\n".join(rows))
    return scenes


@pytest.mark.slow
def test_scenes_read_from_disk_are_the_scenes(tmp_path):
    scenes = scenes_on_disk(tmp_path, "det_val", 12)
    images = ImageFolder(root=str(tmp_path), annotations=str(tmp_path / "boxes.csv"), format="csv")
    data = ImageData(ImageSplits(images=images, ratios=(0, 1, 0)), classifier=memorised(), num_workers=0)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    for row, image_id in enumerate(batch.image_ids):
        scene = scenes[int(image_id.rpartition("-")[2][:-4])]
        assert batch.images[row].equal(scene.image)
        assert int(batch.labels[row]) == scene.label
        assert batch.boxes[row].equal(scene.boxes)


def test_a_benchmark_runs_on_images_on_disk(tmp_path, monkeypatch):
    scenes_on_disk(tmp_path / "data" / "photos", "det_val", 24)
    monkeypatch.chdir(tmp_path)
    classifier = str(exported(tmp_path))
    config = yaml.safe_load((CONFIGS / "data" / "folder.yaml").read_text())
    config["wandb"] = {"mode": "disabled"}
    config["trainer"]["accelerator"] = "cpu"
    config["model"]["init_args"]["classifier"] = classifier
    config["data"]["init_args"] |= {"classifier": classifier, "val_count": 6, "num_workers": 0}
    settings = config["trainer"]["callbacks"][0]["init_args"]
    settings["methods"] = {"gradient": {"class_path": "Gradient"}}
    settings["metrics"] = [{"class_path": "EnergyInside"}, {"class_path": "MaxBoxAcc"}]
    del config["trainer"]["callbacks"][1]
    Path("benchmark.yaml").write_text(yaml.safe_dump(config))
    assert main(["validate", "--config", "benchmark.yaml", "--run_dir", "run"]) == 0
    report = json.loads(Path("run/report.val.json").read_text())["metrics"]
    assert report["val/classifier/accuracy"]["n"] == 6
    # Boxes without masks: the boxes stand in for the masks.
    energy = report["val/gradient/energy_inside/energy"]
    assert (energy["n"], energy["undefined"]) == (6, 0)
    boxes = [value for name, value in report.items() if name.startswith("val/gradient/max_box_acc")]
    assert [value["n"] for value in boxes] == [6] * len(boxes) != []


def test_a_detector_can_be_fitted_on_images_on_disk(tmp_path):
    scenes = {split: scenes_on_disk(tmp_path / split, split, 25) for split in ("det_fit", "det_val")}
    folders = {split: ImageFolder(root=str(tmp_path / split)) for split in scenes}
    source = ImageSplits(images=folders["det_fit"], val_images=folders["det_val"], ratios=(0.7, 0, 0.3))
    data = DetectorData(
        attacks={"pgd": attacks()["pgd"]},
        families={"iterated": ["pgd"]},
        fits={"default": ["pgd"]},
        noise={"noise_linf": SignNoise(8 / 255)},
        noise_like="pgd",
        classifier=str(exported(tmp_path)),
        fit_count=10,
        val_count=10,
        val_attacked_count=5,
        test_count=1,
        store=str(tmp_path / "store"),
        source=source,
    )
    data.setup("fit")
    data.measure(("det_fit",), [features()])
    counts = data.groups("det_fit").counts()
    assert counts["clean"] + counts["clean_misclassified"] == 10
    assert counts["pgd"] > 0.5 * counts["clean"]
    assert data.image_id("det_val", 0).rpartition("/")[2].startswith("det_val-")


def test_attacks_need_labels(tmp_path):
    write_image(tmp_path / "photos" / "a.png")
    splits = ImageSplits(images=ImageFolder(root=str(tmp_path / "photos"), labels="none"), ratios=(1, 0, 0))
    with pytest.raises(DataError, match=r"split fit has images without a label, e.g. a.png; attacks need"):
        image_source(splits, "det_fit", 1, classifier=CAT_DOG, seed=0)
    assert image_source(None, "det_fit", 3, classifier=CAT_DOG, seed=5).image_id(1) == "emoji-5-det_fit-1"


@pytest.mark.parametrize(
    ("stage", "configs"),
    [("fit", ("detector", "data/detector_folder")), ("validate", ("data/folder", "data/imagenet"))],
)
def test_shipped_settings_of_data_can_be_combined(stage, configs, capsys):
    arguments = [part for name in configs for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    assert main([stage, *arguments, "--print_config"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    images = content["source"]["images"] if stage == "fit" else content["splits"]["images"]
    assert images["class_path"] == f"verisal.data.{'ImageFolder' if stage == 'fit' else 'ImageNetValidation'}"
