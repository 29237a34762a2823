"""Draw docs/figures/rooms.png, the house as import-linter holds it: python scripts/draw_rooms.py.

Floors are the layers of the contract "one order" in pyproject.toml; a room's words are the first line of its
docstring. With ``--sizes`` files and lines of every room are printed, too.
"""

from __future__ import annotations

import argparse
import ast
import io
import textwrap
import tomllib
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "figures" / "rooms.png"
_STUDIES = "verisal_studies"
_COLOURS = ("#e8eef7", "#f6f1e4")
# Letters of the small text across the picture.
_LETTERS = 175
_RULE = "A room imports rooms on the floors below it; rooms of one floor do not import each other."


def floors() -> list[list[str]]:
    """Rooms from the top floor down; the studies stand below the command line."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["name"] == "one order")
    rooms = [[name.strip() for name in layer.split("|")] for layer in layers]
    return [rooms[0], [_STUDIES], *rooms[1:]]


def place(room: str) -> Path:
    """The folder of a room, or its one file."""
    folder = ROOT / "src" / (room if room == _STUDIES else f"verisal/{room}")
    return folder if folder.is_dir() else folder.with_suffix(".py")


def words(room: str) -> str:
    """First line of the room's docstring, as far as its first colon or full stop."""
    file = place(room) / "__init__.py" if place(room).is_dir() else place(room)
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def sizes(room: str) -> tuple[int, int]:
    """Number of files and of lines."""
    files = list(place(room).rglob("*.py")) if place(room).is_dir() else [place(room)]
    return len(files), sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def picture() -> Figure:
    """The drawing: a floor a layer, a box a room."""
    rows = floors()
    figure = Figure(figsize=(12, 0.72 * len(rows) + 0.4), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(-0.5, len(rows)))
    axes.axis("off")
    for floor, rooms in enumerate(reversed(rows)):
        wide = 1 / len(rooms)
        for number, room in enumerate(rooms):
            corner = (number * wide + 0.003, floor + 0.05)
            box = FancyBboxPatch(corner, wide - 0.006, 0.9, boxstyle="square,pad=0", edgecolor="#99a")
            box.set_facecolor(_COLOURS[floor % 2])
            axes.add_patch(box)
            axes.text(corner[0] + 0.006, floor + 0.74, room, weight="bold", size=11, va="center")
            told = textwrap.fill(words(room), int(_LETTERS * wide) - 2, max_lines=2, placeholder=" ...")
            axes.text(corner[0] + 0.006, floor + 0.56, told, size=9, va="top")
    axes.text(0.003, -0.3, _RULE, size=11)
    return figure


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", action="store_true", help="print files and lines of every room")
    if parser.parse_args().sizes:
        rooms = [room for floor in floors() for room in floor]
        for room, (files, lines) in [(room, sizes(room)) for room in rooms]:
            print(f"{room:20} {files:4} files {lines:6} lines")
        total = [sum(column) for column in zip(*map(sizes, rooms), strict=True)]
        print(f"{'all':20} {total[0]:4} files {total[1]:6} lines")
    pixels = io.BytesIO()
    picture().savefig(pixels)
    # Few colours: a third of the bytes.
    Image.open(pixels).convert("RGB").quantize(32).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
