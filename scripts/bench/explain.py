"""``verisal explain`` of many photographs against bare network passes: python scripts/bench/explain.py.

Printed are images per second from the start of the command to its end, with and without figures, and the
share of this time that the method alone takes for the same images, read beforehand, in batches of the same
size and in a process that does nothing else; then both for the images beyond the first quarter, which is
what a large folder comes to; then the largest memory of the command and its helpers for a quarter of the
images and for all.

With --parts: CPU seconds of one thread that one image takes beside the network, which other work on the
machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from verisal.cli._explain_helpers import packed
from verisal.data import ImageReader, resize_image
from verisal.reporting import Explanation, draw_contact_sheet, draw_explanation

# Method and batches of the command line, nothing else around them.
_BARE = """
import json, sys, time
from pathlib import Path
import torch
from verisal import saliency
from verisal.cli._memory import keep_freed_memory
from verisal.cli._threads import Threads, wait_without_spinning
from verisal.data import ImageReader, resize_image
from verisal.models import load_classifier
folder, name, method, size = sys.argv[1:]
keep_freed_memory()
Threads(own_process=True).use(None)
classifier = load_classifier(name).to(memory_format=torch.channels_last)
reader = ImageReader.of(classifier)
files = sorted(Path(folder).iterdir())
images = torch.stack([resize_image(reader(file), classifier.height_and_width) for file in files])
method, size = getattr(saliency, method)(), int(size)
def explain(batch):
    with torch.no_grad():
        ranked = classifier(batch).argsort(dim=1)
    method(classifier, torch.cat([batch, batch]), torch.cat([ranked[:, -1], ranked[:, 0]]))
explain(images[:1])
began = time.perf_counter()
for batch in images.split(size):
    explain(batch)
print(json.dumps(time.perf_counter() - began))
"""


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1200), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--classifier", default="imagenet_efficientnet_lite0")
    parser.add_argument("--saliency", default="GradCAM")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--parts", action="store_true", help="measure what one image takes instead")
    given = parser.parse_args()
    if given.parts:
        _show_parts()
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, count in (("quarter", given.images // 4), ("all", given.images)):
            (root / name).mkdir()
            for number in range(count):
                photograph(number, given.size).save(root / name / f"{number:05}.jpg", quality=90)
        method = ["--classifier", given.classifier, "--saliency", given.saliency]
        words = [*method, "--batch_size", str(given.batch_size)]
        bare = _bare(root / "all", given.classifier, given.saliency, given.batch_size)
        size = "{} x {}".format(*given.size)
        print(f"{given.images} images of {size} px, {given.saliency} on {given.classifier}\n")
        print("| | images per second | share of bare passes | of further images | share |")
        print("|---|---:|---:|---:|---:|")
        print(f"| bare passes | {given.images / bare:.2f} | | | |")
        for label, more in (("maps only", ["--maps-only"]), ("with figures", [])):
            first, quarter = _explain(root, "quarter", [*words, *more])
            seconds, memory = _explain(root, "all", [*words, *more])
            rate, further = given.images / seconds, (given.images - given.images // 4) / (seconds - first)
            alone = bare / given.images
            print(f"| {label} | {rate:.2f} | {rate * alone:.0%} |", end=" ")
            print(f"{further:.2f} | {further * alone:.0%} |", flush=True)
        print(f"\nmemory with figures: {quarter:.0f} MiB for a quarter, {memory:.0f} for all")


def photograph(seed: int, size: Sequence[int]) -> Image.Image:
    """Blurred noise: about as many bytes and as much to decode as a photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    return Image.fromarray(noise).resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _bare(folder: Path, classifier: str, method: str, size: int) -> float:
    command = [sys.executable, "-c", _BARE, str(folder), classifier, method, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return float(json.loads(done.stdout.splitlines()[-1]))


def _explain(root: Path, folder: str, words: Sequence[str]) -> tuple[float, float]:
    """Seconds of the command, and the largest memory of all its processes together, in MiB."""
    output = tempfile.mkdtemp(dir=root)
    command = [sys.executable, "-m", "verisal", "explain", str(root / folder), *words, "--output", output]
    began, most = time.perf_counter(), 0.0
    with (root / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)  # noqa: S603 - our own command
        while process.poll() is None:
            most = max(most, _memory(process.pid))
            time.sleep(0.1)
    if process.returncode:
        sys.exit((root / "said").read_text())
    return time.perf_counter() - began, most


def _read(file: Path) -> None:
    resize_image(ImageReader()(file), 224)


def _show_parts() -> None:
    torch.set_num_threads(1)
    values = torch.rand(224, 224, generator=torch.Generator().manual_seed(0))
    plain, layered = (
        Explanation(
            name="photo.jpg",
            image=values.expand(3, -1, -1),
            query="cat",
            disturbed="dog",
            saliency=values,
            disturbed_saliency=values / 2,
            layers={f"stage {number}": values for number in range(layers)},
            classes=[(f"class {number}", 0.2) for number in range(6)],
            method="a method",
        )
        for layers in (0, 4)
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parts: dict[str, Callable[[], object]] = {}
        for size in ((1024, 768), (4000, 3000)):
            file = root / f"{size[0]}.jpg"
            photograph(0, size).save(file, quality=90)
            parts["reading a JPEG of {} x {} px".format(*size)] = partial(_read, file)
        parts["a figure"] = partial(draw_explanation, plain, root / "figure.png")
        parts["a figure with four layers"] = partial(draw_explanation, layered, root / "figure.png")
        sheet = partial(draw_contact_sheet, [plain] * 12, root / "sheet.png")
        parts["its part of a contact sheet of 12"] = sheet
        for count in (2, 6):
            maps = np.random.default_rng(0).random((2, count, 224, 224), np.float32)
            parts[f"writing {2 * count} maps"] = partial(packed, {"maps": maps})
        print("| 224 x 224 px | CPU seconds |\n|---|---:|")
        for name, part in parts.items():
            part()
            began, images = time.process_time(), 12 if "sheet" in name else 1
            for _ in range(3):
                part()
            print(f"| {name} | {(time.process_time() - began) / 3 / images:.3f} |", flush=True)


def _memory(process: int) -> float:
    """Memory of a process and of those that it started, each page that several share by its part."""
    total = 0.0
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return total


if __name__ == "__main__":
    main()
