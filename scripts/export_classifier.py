"""Write a trained classifier's best checkpoint into the package: python scripts/export_classifier.py RUN.

RUN is the folder of a finished ``verisal fit --config configs/classifier.yaml``. Batch normalisation is
folded into the convolutions; the JSON card beside the weights names the config and the accuracy.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import yaml

from verisal.checkpoint import load_checkpoint
from verisal.models import Classifier, SmallResNet, export_classifier

TARGET = Path(__file__).parents[1] / "src" / "verisal" / "weights" / "emoji_scenes_64.safetensors"


def main() -> None:
    """Read RUN/checkpoints/best.ckpt and write the export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.run / "checkpoints" / "best.ckpt")
    card = checkpoint["verisal_card"]
    network = SmallResNet(len(card["class_names"]), widths=card["widths"], blocks=card["blocks"])
    classifier = Classifier(
        network, network.stage_names, class_names=card["class_names"], image_size=card["image_size"]
    )
    prefix = "classifier."
    state = {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    classifier.load_state_dict(state)
    config = yaml.safe_load((arguments.run / "config.yaml").read_text())
    origin = {
        "config": "configs/classifier.yaml",
        "seed": config["seed_everything"],
        "train_scenes": config["data"]["init_args"]["train_count"],
        "epochs": config["trainer"]["max_epochs"],
        "test_accuracy": _last(arguments.run / "metrics.csv", "test/accuracy"),
        "torch": torch.__version__,
    }
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    export_classifier(arguments.target, classifier.eval(), origin=origin)
    print(f"wrote {arguments.target} ({arguments.target.stat().st_size / 1e6:.2f} MB), origin {origin}")


def _last(metrics: Path, name: str) -> float:
    with metrics.open(newline="") as file:
        values = [row[name] for row in csv.DictReader(file) if row.get(name)]
    return float(values[-1])


if __name__ == "__main__":
    main()
