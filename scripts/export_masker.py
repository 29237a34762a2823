"""Write a trained mask network into the package: python scripts/export_masker.py RUN.

RUN is the folder of a finished ``verisal fit --config configs/masker.yaml``. The JSON card beside the weights
names the config and what the test found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml

from verisal.checkpoint import CARD_KEY, load_checkpoint
from verisal.saliency import load_mask_network, save_mask_network

WEIGHTS = Path(__file__).parents[1] / "src" / "verisal" / "weights"
_TOLD = ("logit_change", "unchanged", "energy_inside", "deletion")


def main() -> None:
    """Read RUN/checkpoints/best.ckpt and write the export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--target", type=Path, default=WEIGHTS / "emoji_scenes_64_masks.safetensors")
    arguments = parser.parse_args()
    best = arguments.run / "checkpoints" / "best.ckpt"
    network, _ = load_mask_network(str(best))
    card = {key: value for key, value in load_checkpoint(best)[CARD_KEY].items() if key != "task"}
    config = yaml.safe_load((arguments.run / "config.yaml").read_text())
    metrics = json.loads((arguments.run / "report.json").read_text())["metrics"]
    origin = {
        "config": "configs/masker.yaml",
        "seed": config["seed_everything"],
        "train_scenes": config["data"]["init_args"]["train_count"],
        "epochs": config["trainer"]["max_epochs"],
        "test": {name: metrics[f"test/masker/{name}"]["value"] for name in _TOLD},
        "torch": torch.__version__,
    }
    save_mask_network(arguments.target, network, {**card, "origin": origin})
    print(f"wrote {arguments.target} ({arguments.target.stat().st_size / 1e6:.2f} MB), origin {origin}")


if __name__ == "__main__":
    main()
