"""Values of the wrong kind for every option of every command: one sentence that names the option."""

import math
import random
from pathlib import Path

import pytest

from verisal._plain import plain
from verisal.cli import _explain_command, _parsers, main
from verisal.cli._app import VerisalCLI
from verisal.cli._settings import parsed_settings
from verisal.errors import ConfigError

CONFIG = """
model: {class_path: helpers.toy.ToyTask}
data: {class_path: helpers.toy.ToyData}
trainer: {max_epochs: 1, accelerator: cpu}
wandb: {mode: disabled}
"""
# Files and words that some option somewhere takes, and most do not.
WORDS = (
    "",
    " ",
    "abc",
    "-1",
    "0",
    "1.5",
    "nan",
    "-inf",
    "9" * 23,
    "[]",
    "[1, abc]",
    "{a: 1}",
    "{",
    "null",
    "true",
)
WORDS = (
    *WORDS,
    "é☃",
    "two\nlines",
    "a\0b",
    "x" * 5000,
    "folder",
    "empty",
    "binary",
    "list.yaml",
    "words.yaml",
    "nothing",
)
NUMBERS = ("abc", "[1, abc]", "{a: 1}", "é☃", "folder", "binary")
STAGES = ("fit", "validate", "test", "predict")
# Options of which any value is right, or which print something and end.
ANY = {"help", "print_config", "print_shtab"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("wrong values")
    (root / "folder").mkdir()
    (root / "empty").write_text("")
    (root / "binary").write_bytes(bytes(range(256)))
    (root / "list.yaml").write_text("[1, 2]\n")
    (root / "words.yaml").write_text("just words\n")
    (root / "toy.yaml").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def stages(folder):
    """The options of each stage; its parser is made once, and a command ends where its work would begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(VerisalCLI, "_run_subcommand", lambda self, subcommand: None)
        made = {}
        setup = VerisalCLI.setup_parser

        def setup_once(self, *arguments):
            if not made:
                setup(self, *arguments)
                made.update(vars(self))
            self.__dict__.update({name: made[name] for name in made.keys() - vars(self).keys()})

        patch.setattr(VerisalCLI, "setup_parser", setup_once)
        assert main(["fit", "--config", "toy.yaml"]) == 0
        found = {
            (stage, action.dest): getattr(action, "_typehint", None)
            for stage in STAGES
            for action in made["_subcommand_parsers"][stage]._actions
            if action.dest.rpartition(".")[2] not in ANY
        }
        for stage in STAGES:
            found |= {
                (stage, f"model.init_args.{name}"): kind for name, kind in (("width", int), ("lr", float))
            }
            found |= {(stage, f"data.init_args.{name}"): int for name in ("width", "count", "num_workers")}
        yield found


def refused(capsys, command, option, *values, codes=(2,)):
    """Run; a refusal is one sentence that names the option or shows a value, and leaves nothing behind.

    ``data check`` writes what is wrong with files into its report instead.
    """
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    code = main(command)
    out, error = capsys.readouterr()
    assert "Traceback" not in error, (command, error)
    assert before == {path: path.stat().st_mtime_ns for path in Path().rglob("*")}, command
    if code != 0:
        assert code in codes, (command, error)
        said = [line for line in error.splitlines() if line.startswith("verisal: ")]
        (line,) = said or ([out] if command[0] == "data" and code == 1 else [])
        named = (option.rpartition(".")[2], option.replace("_", "-"), *values)
        shown = [plain(name.split("\n")[0][:50]) for name in named if name.strip()]
        assert any(name in line for name in shown), (command, error)
    return code


def drawn(option, count):
    """Some of the words, others for each option and the same in each run."""
    return random.Random(str(option)).sample(WORDS, count)  # noqa: S311


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_every_stage(stages, capsys, stage):
    base = [stage, "--config", "toy.yaml", *([] if stage == "fit" else ["--ckpt_path", "none"])]
    options = {option: kind for (of, option), kind in stages.items() if of == stage}
    assert len(options) > 50
    for option, kind in options.items():
        for value in drawn((stage, option), 1):
            refused(capsys, [*base, f"--{option}={value}"], option, value, codes=(1, 2))
        if kind in (int, float, bool):
            value = random.Random(option).choice(NUMBERS)  # noqa: S311
            assert refused(capsys, [*base, f"--{option}={value}"], option, value) == 2


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("seed_everything", ("-1", str(2**32), "9" * 23)),
        ("trainer.check_val_every_n_epoch", ("0", "-1", "9" * 23)),
        ("trainer.val_check_interval", ("0", "-1", "-0.5", "9" * 23)),
        ("trainer.accumulate_grad_batches", ("0", "-2")),
        ("trainer.gradient_clip_val", ("-1", str(math.inf), ".nan")),
        ("trainer.num_nodes", ("0", "-1", "9" * 23)),
        ("trainer.min_epochs", ("-1",)),
        ("trainer.accelerator", ("abc", "")),
        ("trainer.strategy", ("abc", "")),
        ("trainer.devices", ("abc", "-3", "9" * 23, "[0, abc]")),
        ("trainer.limit_train_batches", ("-1", "1.5")),
        ("trainer.max_time", ("abc",)),
        ("trainer.profiler", ("abc",)),
        ("model.init_args.width", ("-1", "9" * 23)),
        ("config", ("empty", "binary", "list.yaml", "words.yaml", "folder", "nothing", "", "5")),
        ("run_dir", ("", " ", "a\0b", "empty", "folder/../empty")),
        ("resume", ("", "empty", "binary", "folder", "nothing")),
    ],
)
def test_values_that_a_library_would_refuse_later_or_never(stages, capsys, option, values):
    for value in values:
        code = refused(
            capsys,
            ["fit", "--config", "toy.yaml", f"--{option}={value}"],
            option,
            value,
            codes=(1, 2),
        )
        assert code == (1 if option == "resume" and value else 2), value


@pytest.mark.parametrize("value", ["", "folder", "empty", "binary", "nothing", "é☃"])
def test_a_checkpoint_that_is_none(stages, capsys, value):
    command = ["test", "--config", "toy.yaml", f"--ckpt_path={value}"]
    assert refused(capsys, command, "ckpt_path", value, codes=(1, 2)) == (1 if value else 2)


@pytest.mark.parametrize(
    "setting",
    [
        *("model.init_args.learning_rate=-1", "model.init_args.weight_decay=-0.1"),
        *(
            "model.init_args.label_smoothing=2",
            "data.init_args.batch_size=0",
            "data.init_args.num_workers=-1",
        ),
        *("data.init_args.seed=-1", f"data.init_args.seed={2**32}"),
    ],
)
def test_numbers_that_torch_would_refuse_once_work_has_begun(stages, capsys, setting):
    config = str(Path(__file__).parents[2] / "configs/classifier.yaml")
    command = ["fit", "--config", config, "--wandb.mode=disabled", f"--{setting}"]
    assert refused(capsys, command, setting.partition("=")[0]) == 2


def arguments_of(parser):
    """Options and places of a parser, of the innermost command."""
    inner = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    parser = next(iter(inner[0].values())) if inner else parser
    return [(action.dest, action.option_strings) for action in parser._actions if action.dest not in ANY]


COMMANDS = {
    "data": (["data", "check"], {"path": "folder"}, _parsers.data_parser),
    "export": (["export"], {"run": "folder", "--output": "folder"}, _parsers.export_parser),
    "explain": (
        ["explain"],
        {"images": "folder", "--classifier": "emoji_scenes_64"},
        _explain_command._parser,
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_every_option_of_the_other_commands(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words, needed, parser = COMMANDS[name]
    options = arguments_of(parser())
    assert len(options) >= 2
    for option, strings in options:
        own = strings[0] if strings else option
        for value in drawn((name, option), 4):
            given = {**needed, own: value}
            command = [
                *words,
                *(word for key, word in given.items() if not key.startswith("-")),
                *(f"{key}={word}" for key, word in given.items() if key.startswith("-")),
            ]
            # The folder holds neither images nor a run, so that nothing can be done.
            assert refused(capsys, command, option, value, "folder", codes=(1, 2)) != 0, command


class Printing:
    """A parser with an option that prints and ends the command, and one whose value it cannot take."""

    def parse_args(self, words):
        if "--bad=1" in words:
            raise ValueError("no such file")
        print("all settings")
        raise SystemExit(0)


@pytest.mark.parametrize("words", [["--print_config", "--good=1", "--bad=1"], ["--bad=1", "--print_config"]])
def test_an_option_that_prints_and_ends_the_command_hides_no_error(words, capsys):
    with pytest.raises(ConfigError, match=r"^--bad=1: no such file"):
        parsed_settings(Printing(), ["fit", *words], [])
    assert capsys.readouterr().out == ""
