"""How many EmojiScenes one core draws per second.

Usage: python scripts/bench/scenes.py [--size 64] [--objects one] [--count 2000]
"""

from __future__ import annotations

import argparse
import time

import torch

from verisal.data.scenes.emoji import EmojiScenes


def main() -> None:
    """Print scenes per second, by the processor's time (other programs do not count) and by the clock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--objects", choices=("one", "several", "mixed"), default="one")
    parser.add_argument("--count", type=int, default=2000, help="scenes to draw")
    options = parser.parse_args()
    torch.set_num_threads(1)

    start = time.perf_counter()
    scenes = EmojiScenes("cls_train", options.count, size=options.size, objects=options.objects)
    print(f"preparing drawings and photographs: {time.perf_counter() - start:.2f} s, once per process")
    clock, processor = time.perf_counter(), time.process_time()
    for index in range(options.count):
        scenes[index]
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(
        f"{options.count} scenes of {options.size} px, objects={options.objects}:"
        f" {options.count / processor:.0f} per second of one core"
        f" ({options.count / clock:.0f} per second by the clock)"
    )


if __name__ == "__main__":
    main()
