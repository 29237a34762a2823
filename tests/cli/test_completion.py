"""The completion script in a real shell."""

import shutil
import subprocess

import pytest

from verisal.cli import main
from verisal.cli._completion import completion
from verisal.cli._help import COMMANDS, STAGES, options_of

PRESSED = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={place}; COMPREPLY=()
_verisal
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(tmp_path):
    """Words that bash offers for the last of some words; ``=`` is a word of its own, as in bash."""
    (tmp_path / "script.sh").write_text(completion("bash"))
    (tmp_path / "runs/detector/first/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/detector/first/config.yaml").write_text("")
    (tmp_path / "runs/detector/first/checkpoints/best.ckpt").write_text("")
    (tmp_path / "mine.yaml").write_text("")

    def press(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        text = PRESSED.format(script=tmp_path / "script.sh", words=quoted, place=len(words) - 1)
        bash = [str(shutil.which("bash")), "--norc", "-c", text]
        done = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S603
        assert done.stderr == ""
        return set(done.stdout.split())

    return press


def test_commands(complete):
    assert complete("verisal", "") == {*COMMANDS, "--help", "--version"}
    assert complete("verisal", "ex") == {"explain", "export"}


@pytest.mark.parametrize("command", [*STAGES, "explain"])
def test_options_of_a_command(complete, command):
    assert complete("verisal", command, "--") == set(options_of(command))


def test_configs_by_name_by_file_and_of_runs(complete):
    assert complete("verisal", "fit", "--config", "det") == {"detector"}
    assert complete("verisal", "fit", "--config", "=", "study/transfer") == {
        "study/transfer",
        "study/transfer_quick",
    }
    assert complete("verisal", "fit", "--config", "mi") == {"mine.yaml"}
    assert complete("verisal", "test", "--config", "=", "runs") == {"runs/detector/first/config.yaml"}
    assert {"detector", "mine.yaml"} <= complete("verisal", "fit", "--config", "=")


def test_runs_checkpoints_and_values(complete):
    assert complete("verisal", "export", "ru") == {"runs/detector/first"}
    assert complete("verisal", "export", "--") == {"--help", "--output"}
    assert complete("verisal", "explain", "--detector", "runs/d") == {"runs/detector/first", "runs/detector"}
    assert complete("verisal", "test", "--ckpt_path", "") == {
        "none",
        "runs/detector/first/checkpoints/best.ckpt",
    }
    assert complete("verisal", "runs", "") == {"detector"}
    assert complete("verisal", "fit", "--wandb.mode", "=", "o") == {"online", "offline"}
    assert complete("verisal", "data", "c") == {"check"}
    assert complete("verisal", "data", "check", "--format", "ci") == {"cifar10", "cifar100"}
    assert complete("verisal", "completion", "") == {"bash", "zsh"}


def test_files_are_left_to_the_shell(complete):
    assert complete("verisal", "explain", "pho") == set()
    assert complete("verisal", "data", "check", "pho") == set()


def test_the_command_prints_the_script(capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == completion("bash")
    assert main(["completion", "fish"]) == 2
    assert "shell: there is no 'fish'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_reads_its_script(tmp_path):
    (tmp_path / "script.zsh").write_text(completion("zsh"))
    zsh = [str(shutil.which("zsh")), "-f", "-c", f"source {tmp_path}/script.zsh && whence -w _verisal"]
    done = subprocess.run(zsh, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "_verisal: function"


def test_zsh_has_the_same_function_behind_its_emulation():
    start, _, rest = completion("zsh").partition("_verisal()")
    assert "bashcompinit" in start
    assert rest == completion("bash").partition("_verisal()")[2]
