"""``verisal data check`` on the command line."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))
from make_data_sets import make_broken, make_coco, make_folder, make_imagenet, make_voc

from verisal.cli import main as verisal
from verisal.cli._data import main
from verisal.errors import ConfigError


def test_the_command_ends_with_1_when_there_are_problems(tmp_path, capsys):
    root, boxes = make_broken(tmp_path)
    assert main(["check", str(root), "--annotations", str(boxes), "--format", "csv"]) == 1
    assert capsys.readouterr().out.splitlines()[-7] == "6 problems:"
    assert main(["check", make_folder(tmp_path / "sound")]) == 0
    assert "6 images, 6 of them usable, 0 objects" in capsys.readouterr().out


def test_the_command_knows_data_sets_by_name(tmp_path, capsys):
    assert main(["check", make_voc(tmp_path / "voc"), "--format", "pascal-voc"]) == 0
    images, annotations = make_coco(tmp_path / "coco")
    assert main(["check", images, "--annotations", annotations, "--format", "coco"]) == 0
    assert "2 images, 2 of them usable, 3 objects" in capsys.readouterr().out


def test_imagenet_with_its_boxes(tmp_path, capsys):
    images, boxes = make_imagenet(tmp_path, folders=False)
    assert main(["check", images, "--format", "imagenet", "--annotations", boxes]) == 0
    assert "2 images, 2 of them usable, 2 objects" in capsys.readouterr().out


def test_it_is_a_command_of_verisal_with_its_exit_codes(tmp_path, capsys):
    assert verisal(["data", "check", make_folder(tmp_path / "sound")]) == 0
    assert verisal(["data", "check", str(make_broken(tmp_path)[0])]) == 1
    assert verisal(["data", "check"]) == 2
    assert verisal(["data", "check", str(tmp_path), "--format", "masks"]) == 2
    assert "verisal: error: ImageFolder: annotations is None" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--format pet knows where its annotations are"):
        main(["check", str(tmp_path), "--format", "pet", "--annotations", "x"])
    with pytest.raises(ConfigError, match="give both"):
        main(["check", str(tmp_path), "--annotations", "x"])
    with pytest.raises(ConfigError, match="unknown classifier"):
        main(["check", str(tmp_path), "--classifier", "nobody"])
