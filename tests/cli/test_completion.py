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


def test_a_shell_that_does_not_split_at_the_sign_gets_whole_words(complete):
    """As zsh, and bash without ``=`` in ``COMP_WORDBREAKS``."""
    assert complete("verisal", "fit", "--config=det") == {"--config=detector"}
    assert complete("verisal", "fit", "--config=mi") == {"--config=mine.yaml"}
    assert complete("verisal", "explain", "--detector=runs/d") == {
        "--detector=runs/detector",
        "--detector=runs/detector/first",
    }
    assert complete("verisal", "fit", "--wandb.mode=o") == {"--wandb.mode=online", "--wandb.mode=offline"}


def test_runs_checkpoints_and_values(complete):
    assert complete("verisal", "export", "ru") == {"runs/detector/first"}
    assert complete("verisal", "export", "--") == {"--help", "--output", "--threads"}
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


# What a person does: type a line, press Tab, and look at the line.
TYPED = r"""
zmodload zsh/zpty
zpty -b person "TERM=dumb COLUMNS=200 ZDOTDIR=$1 zsh -d -i"
zpty -r person seen '*<<ready>>*'
for line in "${@:2}"; do
    zpty -w -n person "$line"$'\x18'
    zpty -r person seen '*<<*>>*'
    print -r -- "${${seen##*<<}%%>>*}"
done
zpty -d person
"""
ZSHRC = r"""
PROMPT=
unsetopt beep
LISTMAX=10000
source $ZDOTDIR/script.zsh
pressed() { zle expand-or-complete; print -r -- "<<$BUFFER>>"; BUFFER= }
zle -N pressed
bindkey '^X' pressed
print '<<ready>>'
"""
LINES = {
    "verisal fi": "verisal fit ",
    "verisal ex": "verisal exp",
    "verisal fit --conf": "verisal fit --config ",
    "verisal fit --config det": "verisal fit --config detector ",
    "verisal fit --config=det": "verisal fit --config=detector ",
    "verisal fit --config=study/tr": "verisal fit --config=study/transfer",
    "verisal fit --config=mi": "verisal fit --config=mine.yaml ",
    "verisal test --config=runs": "verisal test --config=runs/detector/first/config.yaml ",
    "verisal test --ckpt_path n": "verisal test --ckpt_path none ",
    "verisal test --wandb.mode=d": "verisal test --wandb.mode=disabled ",
    "verisal export ru": "verisal export runs/detector/first ",
    "verisal explain --detector=ru": "verisal explain --detector=runs",
    "verisal explain pho": "verisal explain photo.jpg ",
    "verisal data check --format ci": "verisal data check --format cifar10",
    "verisal runs ": "verisal runs detector ",
    "verisal completion z": "verisal completion zsh ",
}


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
@pytest.mark.parametrize("begun", [True, False])
def test_zsh_completes_the_same_words(tmp_path, begun):
    (tmp_path / "script.zsh").write_text(completion("zsh"))
    # Completion may have begun before.
    (tmp_path / ".zshrc").write_text(("autoload -U compinit && compinit\n" if begun else "") + ZSHRC)
    (tmp_path / "typed.zsh").write_text(TYPED)
    work = tmp_path / "work"
    (work / "runs/detector/first/checkpoints").mkdir(parents=True)
    for name in ("runs/detector/first/config.yaml", "mine.yaml", "photo.jpg"):
        (work / name).write_text("")
    words = [str(shutil.which("zsh")), "-f", str(tmp_path / "typed.zsh"), str(tmp_path), *LINES]
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, check=True, timeout=280)  # noqa: S603
    assert dict(zip(LINES, done.stdout.splitlines(), strict=True)) == LINES


def test_zsh_has_the_same_function_behind_its_emulation():
    start, _, rest = completion("zsh").partition("_verisal()")
    assert "bashcompinit" in start
    assert rest == completion("bash").partition("_verisal()")[2]
