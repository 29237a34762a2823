"""Names of files and classes that would steer a terminal show as text in everything that commands print."""

import logging
import warnings

import pytest
from PIL import Image

from helpers.commands import check_data_set
from verisal.cli import main
from verisal.cli._process import quiet
from verisal.cli._trainer import write_predictions

EVIL = "a\x1b[31m[red]"
SHOWN = r"a\x1b[31m[red]"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64), (90, 120, 40)).save(folder / f"{EVIL}.png")
    (folder / f"{EVIL} broken.png").write_bytes(b"no image")
    return folder


def said(capsys):
    found = "".join(capsys.readouterr())
    assert "\x1b" not in found
    return found


def test_explain(images, tmp_path, capsys):
    quick = ["--saliency=Gradient", "--classifier=emoji_scenes_64", "--output", str(tmp_path / "out")]
    assert main(["explain", str(images), *quick]) == 1
    found = said(capsys)
    assert f"{SHOWN}.png: " in found
    assert f"not read: {images}/{SHOWN} broken.png" in found


def test_data_check(images, capsys):
    for name in (EVIL, "b"):
        (images / name).mkdir()
        Image.new("RGB", (8, 8), (len(name), 9, 9)).save(images / name / f"{EVIL}\n.png")
    assert check_data_set(["check", str(images), "--labels", "none"]) == 1
    assert f"{SHOWN} broken.png" in said(capsys)
    for broken in images.glob("*.png"):
        broken.unlink()
    assert check_data_set(["check", str(images)]) == 0
    assert f"     1 {SHOWN}\n" in said(capsys)


def test_predict(tmp_path, capsys):
    rows = {"image_id": [EVIL, "b\nc"], "prediction": [EVIL, "dog"], "probability": [0.5, 0.5]}
    write_predictions(tmp_path / f"{EVIL}.csv", [rows], images=2)
    assert said(capsys).splitlines() == [
        f"{SHOWN}: {SHOWN} 0.50",
        r"b\x0ac: dog 0.50",
        f"predictions: {tmp_path}/{SHOWN}.csv",
    ]


def test_errors(tmp_path, capsys):
    assert main(["explain", str(tmp_path / EVIL)]) != 0
    assert SHOWN in said(capsys)


def test_warnings_and_log_lines(capsys):
    with quiet():
        print(warnings.formatwarning(f"left out: {EVIL}", UserWarning, "a.py", 1))
        record = logging.LogRecord("verisal.data", logging.WARNING, "", 0, "left out: %s", (EVIL,), None)
        logging.lastResort.handle(record)
    assert said(capsys).count(f"left out: {SHOWN}") == 2
    assert logging.lastResort.formatter is None
