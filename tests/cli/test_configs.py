"""Configs by their short names, from the source tree and from an installed wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from verisal.cli import main
from verisal.cli._configs import purpose, shipped_configs, with_shipped_configs

ROOT = Path(__file__).parents[2]
NAMES = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")
}


def test_every_config_of_the_repository_is_shipped():
    assert len(NAMES) > 30
    assert set(shipped_configs()) == NAMES


def test_the_list_has_a_line_for_each_in_a_usual_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, file in shipped_configs().items():
        assert (
            sum(re.fullmatch(rf"{name} +{re.escape(purpose(file))}", line) is not None for line in lines) == 1
        )
    assert max(map(len, lines)) < 100


def test_one_folder_of_the_list(capsys):
    assert main(["configs", "study"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert listed == {name for name in NAMES if name.startswith("study/")}


@pytest.mark.parametrize("name", ["detector", "study/transfer", "configs/study/transfer.yaml"])
def test_a_copy_is_the_file(name, capsys):
    assert main(["configs", name]) == 0
    file = ROOT / "configs" / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    assert capsys.readouterr().out == file.read_text()


def test_a_name_becomes_the_file_and_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(shipped_configs()["detector"])
    assert with_shipped_configs(["--config", "detector", "--x", "detector"]) == [
        "--config",
        file,
        "--x",
        "detector",
    ]
    assert with_shipped_configs(["--config=configs/detector.yaml"]) == [f"--config={file}"]
    assert with_shipped_configs(["-c", "detector.yaml"]) == ["-c", file]
    # A folder of that name is no config.
    Path("detector").mkdir()
    assert with_shipped_configs(["--config", "detector"]) == ["--config", file]
    Path("detector").rmdir()
    for name in ("detector", "detector.yaml"):
        Path(name).write_text("seed_everything: 1\n")
        assert with_shipped_configs(["--config", name]) == ["--config", name]


@pytest.mark.parametrize("value", ["{a: 1}", "a: 1\nb: 2", "seed_everything: 3", "-", ""])
def test_settings_in_the_command_are_left_alone(value):
    assert with_shipped_configs([f"--config={value}"]) == [f"--config={value}"]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("detectr", "did you mean detector"),
        ("transfer", "did you mean study/transfer"),
        ("configs/study/transfr.yaml", "did you mean study/transfer"),
        ("mine.yml", "did you mean mine.yaml"),
        ("qqqqqq", "no such file or config. verisal configs lists the names"),
    ],
)
def test_a_name_that_does_not_exist_gets_near_ones(given, near, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed_everything: 1\n")
    assert main(["fit", "--config", given]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"verisal: error: --config {given}: there is no such file or config")
    assert near in told


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder outside of the clone into which the wheel is installed."""
    home = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "-z", "src", "configs", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S603 - constant
    for name in filter(None, names.decode().split("\0")):
        (home / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, home / "clone" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run(  # noqa: S603
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(home), str(home / "clone")],
        check=True, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    (wheel,) = home.glob("*.whl")
    target = home / "target"
    subprocess.run(  # noqa: S603
        [*pip, "install", *offline, "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def run_installed(installed, folder, *words):
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "verisal", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip


def test_the_wheel_holds_every_config_and_lists_it_in_an_empty_folder(installed, tmp_path):
    assert not (installed / "verisal/configs").is_symlink()
    done = run_installed(installed, tmp_path, "configs")
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines() if line[:1] not in ("", " ")} >= NAMES
    copy = run_installed(installed, tmp_path, "configs", "detector")
    assert copy.stdout == (ROOT / "configs/detector.yaml").read_text()


@pytest.mark.slow
def test_the_wheel_reads_the_config_of_the_main_job_in_an_empty_folder(installed, tmp_path):
    done = run_installed(installed, tmp_path, "fit", "--config", "detector", "--print_config")
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load(done.stdout)
    assert settings["model"]["class_path"].endswith("DetectorTask")
    assert settings["model"]["init_args"]["head"] == "view_vote"


@pytest.mark.slow
def test_the_wheel_trains_by_a_shipped_config_in_an_empty_folder(installed, tmp_path):
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    alone = ["--trainer.callbacks=null", "--trainer.accelerator=cpu", "--wandb.mode=disabled"]
    words = ["fit", "--config", "data/digits", "--test_after_fit=false", "--run_dir=run"]
    done = run_installed(installed, tmp_path, *words, *few, *alone)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()
