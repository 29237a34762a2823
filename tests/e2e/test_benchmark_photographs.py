"""The benchmarks on photographs and on marked images, from their shipped files, on folders of the test."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torchvision.utils import save_image

from helpers.make_data_sets import make_coco, make_cub, make_folder, make_imagenet, make_voc
from verisal.cli import main
from verisal.data import COCO, CUB200, EmojiScenes, PascalVOC
from verisal.data.readers.class_map import SYNSETS

# Commands are run for their numbers here.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_figures")]

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--wandb.mode=disabled", "--trainer.accelerator=cpu"]
METHODS = {"gradient": {"class_path": "Gradient"}, "grad_cam": {"class_path": "GradCAM"}}
QUICK = {"scenes_count": 3, "steps": 4, "max_images": 3, "held_out_images": 4}


def config(name, classifier, *, without=()):
    """The shipped file with quick methods and few images, for another classifier."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    content["model"]["init_args"]["classifier"] = classifier
    data = content["data"]["init_args"]
    data |= {"classifier": classifier, "val_count": 16}
    callbacks = [
        callback for callback in content["trainer"]["callbacks"] if callback["class_path"] not in without
    ]
    for callback in callbacks:
        settings = callback["init_args"]
        many = "rise" in settings["methods"]
        window = {"class_path": "Occlusion", "init_args": {"window": 16, "stride": 16}}
        settings["methods"] = {"occlusion": window} if many else METHODS
        settings |= {key: value for key, value in QUICK.items() if key in settings}
    content["trainer"]["callbacks"] = callbacks
    path = Path(name)
    path.write_text(yaml.safe_dump(content))
    return ["validate", "--config", str(path), "--run_dir", "run", *QUIET]


def metrics_of(run="run"):
    return json.loads(Path(run, "report.val.json").read_text())["metrics"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(home):
    """Two scenes of each class in class folders, larger than the classifier takes them."""
    found = {}
    scenes = EmojiScenes("det_val", 200, size=72)
    for index in range(len(scenes)):
        sample = scenes[index]
        own = found.setdefault(scenes.class_names[sample.label], [])
        if len(own) < 2:
            own.append(sample)
    for name, own in found.items():
        (home / "pictures" / name).mkdir(parents=True)
        for sample in own:
            save_image(sample.image, home / "pictures" / name / f"{sample.image_id}.png")
    return home / "pictures"


@pytest.mark.parametrize("known", [True, False], ids=["class folders", "a plain folder"])
def test_photographs_need_a_folder_alone(pictures, known):
    words = config("benchmark_photographs.yaml", "emoji_scenes_64")
    words.append(f"--data.splits.images.root={pictures}")
    if not known:
        words += ["--data.splits.images.labels=none", "--data.splits.unlabelled=predict"]
    assert main(words) == 0
    metrics = metrics_of()
    rows = {}
    for name in metrics:
        _, row, rest = name.split("/", 2)
        rows.setdefault(row, set()).add(rest)
    assert rows["gradient"] == rows["grad_cam"] == rows["random"] == rows["centre"]
    assert {name for name in rows["occlusion"] if name.startswith("mosaics")} == {
        name for name in rows["gradient"] if name.startswith("mosaics")
    }
    energy = metrics["val/grad_cam/mosaics energy_inside/energy"]
    assert 3 <= energy["n"] <= 12
    assert energy["low"] <= energy["value"] <= energy["high"]
    assert metrics["val/random/mosaics energy_inside/energy"]["value"] == pytest.approx(0.25, abs=0.02)
    assert metrics["val/grad_cam/mosaics absent classes/response[random]"]["n"] > 0
    assert metrics["val/grad_cam/pasted cuts energy_inside/energy"]["n"] > 0
    for name in ("insertion[blur10]_steps4/auc", "deletion[image_mean]_steps4/auc"):
        assert metrics[f"val/grad_cam/{name}"]["n"] == 3
    # By its own predictions a classifier is always right.
    right = metrics["val/grad_cam/D-WSOL (our protocol)/response_ratio_c2"]["n"]
    assert right == 3 if not known else right <= 3


def weights_for(names, folder):
    """Settings of a small network with as many classes, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=len(names))
    torch.save(network.state_dict(), folder / "network.pt")
    return {
        "name": "timm:test_resnet",
        "weights": str(folder / "network.pt"),
        "class_names": list(names),
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


def data_sets(folder):
    """Options of every data set that docs/benchmark.md names, with its classes."""
    images, boxes = make_imagenet(folder / "imagenet", folders=True)
    yield "imagenet", [f"images={images}", f"boxes={boxes}"], SYNSETS
    voc = PascalVOC(root=make_voc(folder / "voc"))
    yield "PascalVOC", [f"root={voc.root}"], voc.listing().class_names
    coco = COCO(images=(made := make_coco(folder / "coco"))[0], annotations=made[1])
    yield "COCO", [f"images={coco.images}", f"annotations={coco.annotations}"], coco.listing().class_names
    cub = CUB200(root=make_cub(folder / "cub"))
    yield "CUB200", [f"root={cub.root}"], cub.listing().class_names
    root = make_folder(folder / "own")
    (folder / "boxes.csv").write_text(
        "image,class,xmin,ymin,xmax,ymax\ncat0,cat,1,1,25,25\ndog1,dog,2,2,30,20\n"
    )
    settings = [f"root={root}", f"annotations={folder / 'boxes.csv'}", "format=csv"]
    yield "ImageFolder", settings, ("cat", "dog")


@pytest.mark.parametrize("name", ["imagenet", "PascalVOC", "COCO", "CUB200", "ImageFolder"])
def test_marked_images_need_one_command(home, name):
    settings, names = next((words, names) for kind, words, names in data_sets(home) if kind == name)
    classifier = weights_for(names, home)
    words = config("benchmark_boxes.yaml", classifier, without=["DisturbedLocalization"])
    words += [] if name == "imagenet" else [f"--data.splits.images={name}"]
    words += [f"--data.splits.images.{setting}" for setting in settings]
    # So few images have no second split, and an untrained network no opinion.
    words += ["--data.splits.ratios=[0,1,0]", "--data.val_count=2", "--data.splits.class_map={}"]
    content = yaml.safe_load(Path("benchmark_boxes.yaml").read_text())
    content["trainer"]["callbacks"][0]["init_args"]["among_first"] = None
    Path("benchmark_boxes.yaml").write_text(yaml.safe_dump(content))
    assert main(words) == 0
    energy = metrics_of()["val/grad_cam/marked energy_inside/energy"]
    assert energy["n"] + energy["undefined"] >= 1


def test_thresholds_are_chosen_on_the_other_split(pictures):
    named = [(path.parent.name, path.name) for path in sorted(pictures.rglob("*.png"))]
    boxes = ["image,class,xmin,ymin,xmax,ymax"]
    boxes += [f"{folder}/{name},{folder},10,10,60,60" for folder, name in named]
    Path("boxes.csv").write_text("\n".join(boxes) + "\n")
    words = config("benchmark_boxes.yaml", "emoji_scenes_64")
    words += ["--data.splits.images=ImageFolder", f"--data.splits.images.root={pictures}"]
    words += ["--data.splits.images.annotations=boxes.csv", "--data.splits.images.format=csv"]
    assert main(words) == 0
    metrics = metrics_of()
    assert metrics["val/grad_cam/D-WSOL (our protocol)/accuracy_c0"]["n"] > 0
    assert metrics["val/grad_cam/marked max_box_acc_v2/accuracy"]["n"] > 0
