import ast
import subprocess
import sys
from pathlib import Path

import pytest

import verisal
from verisal import __main__ as entry_module
from verisal.cli import _main, main
from verisal.cli._refusals import explain


@pytest.mark.parametrize(
    ("version", "words"), [((3, 10, 9), "this is 3.10.9"), ((2, 7, 18), "this is 2.7.18")]
)
def test_old_python_is_one_line(version, words):
    problem = entry_module._python_problem(version)
    assert words in problem
    assert "\n" not in problem
    assert entry_module._python_problem((3, 11, 0)) is None


@pytest.mark.parametrize("version", ["2.5.1+cpu", "2.5.0", "1.9"])
def test_old_torch_is_one_line(version):
    problem = entry_module._torch_problem(version)
    assert problem == (
        f"torch {version} is installed, 2.6 or newer is needed;"
        " install it with: pip install --upgrade torch torchvision"
    )


def test_fitting_and_missing_torch():
    assert entry_module._torch_problem("2.6.0+cpu") is None
    assert entry_module._torch_problem("2.15.0+cu132") is None
    assert entry_module._torch_problem("3.0.0a1") is None
    assert "not installed" in entry_module._torch_problem(None)


def test_old_torch_stops_the_command_before_torch_is_imported(tmp_path):
    (tmp_path / "torch-2.5.1+cpu.dist-info").mkdir()
    (tmp_path / "torch-2.5.1+cpu.dist-info/METADATA").write_text("Name: torch\nVersion: 2.5.1+cpu\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import verisal.__main__ as m\n"
        "try: m.entry()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("verisal: error: torch 2.5.1+cpu is installed")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.strip() == "False"


def test_a_torchvision_for_another_torch_is_one_line(monkeypatch, capsys):
    def importing(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(_main, "_run", importing)
    assert main(["fit", "--config", "detector.yaml"]) == 1
    assert capsys.readouterr().err == (
        "verisal: error: the installed torchvision is built for another torch (operator torchvision::nms does"
        " not exist); install the two together: pip install --upgrade torch torchvision\n"
    )


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_runs_first_parses_on_an_old_python(name):
    source = Path(verisal.__file__).with_name(name).read_text()
    assert ast.parse(source, feature_version=(3, 7)).body


def test_unknown_top_level_key_lists_the_top_level_only():
    text = explain(
        "Subcommand 'fit' does not accept option 'trainr.max_epochs'", ["trainer.x", "model", "data"]
    )
    assert text == "there is no setting 'trainr'; did you mean 'trainer'? Known: data, model, trainer"


def test_wrong_type_keeps_key_found_and_expected():
    message = (
        'Parser key "trainer.max_epochs":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [<class 'int'>, <class 'NoneType'>]\n  Errors:\n    - Expected a <class 'int'>\n"
        "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: abc"
    )
    assert explain(message, []) == "trainer.max_epochs: Expected a int found abc"


@pytest.mark.slow
def test_the_first_command_of_a_process_is_as_quiet_as_later_ones(tmp_path):
    """Lightning is imported by the command, and is talkative from then on."""
    config = Path(__file__).parents[2] / "configs/study/transfer.yaml"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "verisal", "fit", "--config", str(config)],
        cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "verisal: error: TransferTask has nothing to fit (no training_step); use verisal test\n"
    )
