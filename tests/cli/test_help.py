"""What the commands say of themselves, and that it takes no time."""

import re
import shlex
import subprocess
import sys

import pytest

import verisal
from verisal.cli import _explain_command, main
from verisal.cli._app import VerisalCLI
from verisal.cli._help import COMMANDS, STAGES, help_of

HELPS = [*STAGES, "explain"]
EXAMPLE = re.compile(r"^ +(verisal .*?)(?:  .*)?$", re.MULTILINE)


def run_alone(*words):
    """Output of a command, and which slow packages its process has imported."""
    code = (
        "import sys; from verisal.cli import main\n"
        f"code = main({list(words)!r})\n"
        "slow = ('torch', 'lightning', 'jsonargparse', 'numpy', 'yaml', 'rich')\n"
        "print('IMPORTED', code, *[name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    text, _, imported = done.stdout.rpartition("IMPORTED ")
    return text, done.stderr, imported.split()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "0"),
        (("--help",), "0"),
        (("--version",), "0"),
        (("fti", "--config", "detector"), "2"),
        (("fit", "--help"), "0"),
        (("fit", "--config", "detectr"), "2"),
        (("explain", "--help"), "0"),
        (("data", "chekc"), "2"),
        (("data", "check", "photos", "--formt", "csv"), "2"),
        (("export", "RUN", "--outptu", "x"), "2"),
        (("configs",), "0"),
    ],
)
def test_what_needs_no_torch_imports_none(words, code):
    text, error, imported = run_alone(*words)
    assert imported == [code]
    assert (text == "") == (code == "2")
    assert (error == "") == (code == "0")


def test_the_help_names_every_command_with_an_example_in_eighty_columns(capsys):
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    lines = alone.splitlines()
    assert lines[0].startswith("usage: verisal ")
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    for name in COMMANDS:
        assert re.search(rf"^  {name} .*\bverisal {name}\b", alone, re.MULTILINE), name


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"verisal {verisal.__version__}\n"


@pytest.mark.parametrize(("columns", "rows"), [(100, 30), (80, 36)])
@pytest.mark.parametrize("command", HELPS)
def test_the_help_of_a_command_fits_the_terminal(command, columns, rows, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: verisal {command}")
    assert max(map(len, lines)) < columns
    assert len(lines) <= rows


@pytest.fixture(scope="module")
def options():
    """Command to the options of its parser."""
    found = {}

    class ParsedError(Exception):
        pass

    def parse(self, parser, args):
        for stage, inner in self._subcommand_parsers.items():
            found[stage] = {name for action in inner._actions for name in action.option_strings}
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerisalCLI, "parse_arguments", parse)
        with pytest.raises(ParsedError):
            VerisalCLI(["fit"], None)
    parser = _explain_command._parser()
    found["explain"] = {name for action in parser._actions for name in action.option_strings}
    return found


@pytest.mark.parametrize("command", HELPS)
def test_options_in_the_help_exist(command, options):
    named = set(re.findall(r"^  (--[\w.-]+)", help_of(command), re.MULTILINE))
    used = {
        word for line in EXAMPLE.findall(help_of(command)) for word in shlex.split(line) if word[:2] == "--"
    }
    # Settings of the task and the data of a config, and an option of our own.
    settings = {"--help-all", "--model.NAME", "--data.NAME", "--data.images"}
    assert len(named) > 5
    assert named | used <= options[command] | settings


@pytest.mark.parametrize("command", HELPS)
def test_every_option_is_behind_help_all(command, capsys):
    assert main([command, "--help-all"]) == 0
    text = capsys.readouterr().out
    assert f"usage: verisal {command} " in text
    assert ("--trainer.max_epochs" in text) == (command in STAGES)
    assert "--print_config" in text


@pytest.mark.parametrize(
    "line",
    sorted(
        line.partition(" > ")[0]
        for command in STAGES
        for line in EXAMPLE.findall(help_of(command))
        if "RUN" not in line and "mine" not in line and "weights" not in line
    ),
)
@pytest.mark.slow
def test_examples_of_the_help_are_read(line, capsys):
    words = shlex.split(line)[1:]
    assert main([*words, *([] if "--print_config" in words else ["--print_config"])]) == 0
    assert "model:" in capsys.readouterr().out


def test_a_stage_without_a_config_shows_what_it_needs(capsys):
    assert main(["fit"]) == 2
    told = capsys.readouterr().err
    assert "verisal fit --config detector" in told
    assert told.endswith("verisal: error: fit needs a config: verisal fit --config NAME_OR_FILE\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fitt"], "there is no command 'fitt'; did you mean 'fit'? Known: explain, fit"),
        (["--config", "x"], "there is no option '--config' before a command"),
        (["data", "chekc"], "there is no 'chekc'; did you mean 'check'?"),
        (["data", "check", "x", "--formt=csv"], "there is no option '--formt'; did you mean '--format'?"),
        (["data", "check", "x", "--format=cvs"], "--format: there is no 'cvs'; did you mean 'csv'?"),
        (["export", "x", "--outptu", "y"], "there is no option '--outptu'; did you mean '--output'?"),
    ],
)
def test_a_misspelt_word_gets_the_near_name(words, told, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err
