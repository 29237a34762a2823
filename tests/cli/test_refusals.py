"""What refusals and next steps advise exists: options, settings, commands, classes, files and extras."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import verisal
from verisal.cli import _explain_command
from verisal.cli._app import VerisalCLI
from verisal.cli._help import COMMANDS
from verisal.cli._parsers import configs_parser, data_parser, export_parser

SOURCE = Path(verisal.__file__).parent
ROOT = Path(__file__).parents[2]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
# Names of a metric, and options and classes of other packages, which are told as such.
OF_OTHERS = {
    "ToImage",
    "attacked_sensitivity",
    "force-reinstall",
    "DataLoaders",
    "NaN",
    "OpenMoji",
    "ReLU6",
    "conv_proj",
    "ConvertBoundingBoxFormat",
    "emoji_scenes_64_masks",
}


def texts_of(node):
    """Every text below a node, in one piece; what is filled in stands as {}."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts_of(child)


def refusals():
    """File, line and words of every error that is raised."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                words = " ".join(texts_of(node.exc))
                if words:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", words


REFUSALS = dict(refusals())


def names_in_source():
    """Parameters, fields, functions, classes, variables, and the words that settings take."""
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            match node:
                case (
                    ast.arg(arg=name)
                    | ast.Name(id=name)
                    | ast.Attribute(attr=name)
                    | ast.keyword(arg=str(name))
                ):
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Constant(value=str(word)) if word.isidentifier():
                    found.add(word)
    return found


@pytest.fixture(scope="module")
def options():
    """Dotted names of all options of all commands."""
    found = []

    class ParsedError(Exception):
        pass

    def parse(self, parser, args):
        for stage in self._subcommand_parsers.values():
            found.extend(action.dest for action in stage._actions)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerisalCLI, "parse_arguments", parse)
        with pytest.raises(ParsedError):
            VerisalCLI(["fit"], None)
    for parser in (_explain_command._parser(), configs_parser(), data_parser(), export_parser()):
        inner = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        for one in (parser, *(inner[0].values() if inner else ())):
            found.extend(word.lstrip("-") for action in one._actions for word in action.option_strings)
    return {name for name in found if name}


def test_refusals_were_found():
    assert len(REFUSALS) > 300


def test_options_in_refusals_exist(options):
    named = {
        (place, option)
        for place, words in REFUSALS.items()
        for option in re.findall(r"--([a-z][\w.-]*\w)", words)
    }
    # Settings of a task or of data by its short name are arguments of a class.
    inner = {f"{part}.{name}" for part in ("model", "data") for name in names_in_source()}
    known = options | inner | {"model", "data"} | OF_OTHERS
    assert len(named) > 10
    assert not {item for item in named if item[1] not in known}


def test_dotted_settings_in_refusals_exist(options):
    named = {
        (place, key)
        for place, words in REFUSALS.items()
        for key in re.findall(r"\b((?:trainer|wandb)\.[a-z_]\w*)", words)
    }
    assert len(named) > 5
    assert not {item for item in named if item[1] not in options}


def test_commands_in_refusals_exist():
    named = {
        (place, command)
        for place, words in REFUSALS.items()
        for command in re.findall(r"(?:`|use |or |run: |by `)verisal ([a-z]+)", words)
    }
    assert len(named) > 5
    assert not {item for item in named if item[1] not in COMMANDS}


def test_names_in_refusals_exist(options):
    """Words with an underscore, with ``=`` behind them, or of two humps are names of something."""
    known = names_in_source() | {name.rpartition(".")[2] for name in options} | OF_OTHERS
    underscored = r"(?<![\w/.-])([a-z]+(?:_[a-z0-9]+)+)\b(?![./-]\w)"
    pattern = rf"{underscored}|\b([a-z]\w*)=(?=[\w\[{{'])|\b([A-Z][a-z0-9]+(?:[A-Z]\w*)+)"
    named = {
        (place, name)
        for place, words in REFUSALS.items()
        for found in re.findall(pattern, words)
        for name in found
        if name
    }
    assert len(named) > 130
    assert not {item for item in named if item[1] not in known}


def test_files_and_extras_in_refusals_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for place, words in REFUSALS.items():
        for config in re.findall(r"\bconfigs/[\w/]+\.yaml", words):
            assert (ROOT / config).is_file(), (place, config)
        for extra in re.findall(r"extra '([a-z]+)'|verisal\[([a-z]+)\]", words):
            assert "".join(extra) in extras or len(set(extra)) == 1, (place, extra)
