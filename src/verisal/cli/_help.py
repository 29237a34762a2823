"""What the commands say of themselves; known without importing anything."""

from __future__ import annotations

import difflib
import shutil
from typing import NoReturn

from verisal.cli._options import wrapped
from verisal.errors import ConfigError

# Columns of an option, before the words on it.
_OPTION = 29

STAGES = ("fit", "validate", "test", "predict")
"""Commands that run a task on a Trainer."""

COMMANDS: dict[str, tuple[str, str]] = {
    "explain": ("what a decision rests on", "verisal explain photo.jpg"),
    "fit": ("train, test, and report", "verisal fit --config detector"),
    "validate": ("judge maps, run studies", "verisal validate --config benchmark"),
    "test": ("judge weights of a run", "verisal test --config RUN/config.yaml"),
    "predict": ("scores of images", "verisal predict --config RUN/config.yaml"),
    "export": ("weights without code", "verisal export RUN --output weights"),
    "data": ("problems of a data set", "verisal data check photos"),
    "configs": ("settings to start from", "verisal configs detector > mine.yaml"),
    "runs": ("runs and their results", "verisal runs"),
    "completion": ("words by the Tab key", "source <(verisal completion bash)"),
}
"""What a command is for, and an example."""

_OPTIONS_OF_ALL = {
    "--config CONFIG": "file, or name of a shipped one (verisal configs); of several, later ones win",
    "--run_dir FOLDER": "where results go (default: a new folder, runs/TASK/TIME-ID)",
}
_TRAINER = {
    "--trainer.accelerator NAME": "cpu, gpu or auto (default)",
    "--trainer.devices N": "how many of them",
}
_THREADS = {"--threads N": "to compute on (default: one per free core)"}
_WEIGHTS = {
    "--ckpt_path PATH": "weights (default: the best ones of the run whose config.yaml is given); none:"
    " those that the config builds",
    "--model FOLDER": "weights of an export, for the task of the config",
}
_ANY = {
    "--model.NAME VALUE": "any setting of the task, by its dotted name; --model.help TASK lists them",
    "--data.NAME VALUE": "any setting of the data; --data.help DATA lists them",
    "--print_config": "print all settings with their defaults, and end",
    "--help-all": "every option, those of the Trainer too",
}

_STAGE_TEXTS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "fit": (
        "Train what a config describes, test the best checkpoint, and write a report.",
        {
            "verisal fit --config detector": "a shipped config",
            "verisal fit --config mine.yaml --trainer.max_epochs 3": "yours, one setting changed",
            "verisal fit --config detector --print_config > mine.yaml": "a start for one of yours",
            "verisal fit --config RUN/config.yaml --run_dir RUN --resume auto": "go on with a stopped run",
        },
        {
            **_OPTIONS_OF_ALL,
            "--resume auto|PATH": "go on from the newest checkpoint of --run_dir, or from this one",
            "--test_after_fit BOOL": "test the best checkpoint at the end (default: true)",
            "--trainer.max_epochs N": "length of the training",
            **_TRAINER,
            **_THREADS,
            "--seed_everything N": "seed of all that is drawn (default: 0)",
            "--wandb.mode MODE": "auto (default), online, offline or disabled",
            **_ANY,
        },
    ),
    "validate": (
        "Judge methods or weights on validation images, and write a report. Most studies run so.",
        {
            "verisal validate --config benchmark": "saliency methods by metrics",
            "verisal validate --config study/decoys": "a published claim, judged",
            "verisal validate --config RUN/config.yaml": "the best weights of a run",
        },
        {
            **_OPTIONS_OF_ALL,
            **_WEIGHTS,
            "--trainer.limit_val_batches N": "look at this many batches only",
            **_TRAINER,
            **_THREADS,
            "--wandb.mode MODE": "auto (default), online, offline or disabled",
            **_ANY,
        },
    ),
    "test": (
        "Judge weights on test images, and write a report.",
        {
            "verisal test --config RUN/config.yaml": "the best weights of a run",
            "verisal test --config detector --model weights": "an export, with the data of a config",
            "verisal test --config study/transfer": "detectors on attacks they were not fitted on",
        },
        {
            **_OPTIONS_OF_ALL,
            **_WEIGHTS,
            "--trainer.limit_test_batches N": "look at this many batches only",
            **_TRAINER,
            **_THREADS,
            "--wandb.mode MODE": "auto (default), online, offline or disabled",
            **_ANY,
        },
    ),
    "predict": (
        "Apply weights to images: one line for each, and predictions.csv in the run's folder.",
        {
            "verisal predict --config RUN/config.yaml": "with the best weights of a run",
            "verisal predict --config RUN/config.yaml --data.images '[a.jpg, photos]'": "images of yours",
        },
        {
            **_OPTIONS_OF_ALL,
            **_WEIGHTS,
            "--data.images LIST": "image files and folders, where the data takes any",
            **_TRAINER,
            **_THREADS,
            **_ANY,
        },
    ),
}

_EXPLAIN = (
    "Draw why a classifier says what it says about images: a figure and raw maps of each.",
    {
        "verisal explain photo.jpg": "an ImageNet network (extra imagenet)",
        "verisal explain photos --classifier timm:resnet50.a1_in1k": "another network, a whole folder",
        "verisal explain photo.jpg --saliency GradCAM": "another method",
        "verisal explain photo.jpg --detector RUN": "the network of a detector run, and its alarm",
    },
    {
        "--classifier NAME": "name or file of a network (default: that of the --detector, else"
        " imagenet_efficientnet_lite0)",
        "--weights FILE": "weights for the network, where its name brings none",
        "--class_names LIST": "or a file with one name a line",
        "--saliency METHOD": "by class (default: EvidenceMasks); --saliency.NAME VALUE sets its settings",
        "--query CLASS": "class to explain: top1 (default), second, least, name or number",
        "--detector RUN": "run, checkpoint or export of a detector that judges every image",
        "--output FOLDER": "for figures and maps (default: explanations)",
        "--maps-only": "no figures and no contact sheets",
        "--device NAME": "auto (default), cpu or cuda",
        **_THREADS,
        "--config FILE": "any of these settings from a file",
        "--saliency.help METHOD": "settings of a method",
        "--help-all": "every option",
    },
)


def overview() -> str:
    """Every command, what it is for, and an example, within 80 columns."""
    name_width = max(map(len, COMMANDS))
    width = max(len(purpose) for purpose, _ in COMMANDS.values())
    lines = [
        f"  {name:<{name_width}}  {purpose:<{width}}  {example}"
        for name, (purpose, example) in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: verisal COMMAND [OPTIONS]",
            "",
            "Saliency maps and adversarial-input alarms that can be trusted.",
            "",
            *lines,
            "",
            "More of one: verisal COMMAND --help. The version: verisal --version",
        ]
    )


def options_of(command: str) -> tuple[str, ...]:
    """Names of the options in the help of a command, without those that a config decides."""
    options = _EXPLAIN[2] if command == "explain" else _STAGE_TEXTS[command][2]
    names = (option.partition(" ")[0] for option in options)
    return tuple(name for name in names if not name.endswith(".NAME"))


def help_of(command: str) -> str:
    """Purpose, examples, and what a person sets first, of a stage or of ``explain``.

    Args:
        command: one of :data:`STAGES`, or ``explain``.
    """
    usage = "PATH... [OPTIONS]" if command == "explain" else "--config CONFIG [OPTIONS]"
    purpose, examples, options = _EXPLAIN if command == "explain" else _STAGE_TEXTS[command]
    listed = [wrapped(f"  {option:<{_OPTION}}  ", words) for option, words in options.items()]
    head = [
        f"usage: verisal {command} {usage}",
        "",
        wrapped("", purpose),
        "",
        "examples:",
        *_shown(examples),
        "",
    ]
    return "\n".join([*head, "what one sets first:", *listed])


def _shown(examples: dict[str, str]) -> list[str]:
    """Examples with the words on each beside it; below it in a narrow terminal."""
    width = max(map(len, examples))
    beside = [f"  {example:<{width}}  {words}" for example, words in examples.items()]
    if max(map(len, beside)) < shutil.get_terminal_size((100, 24)).columns:
        return beside
    return [line for example, words in examples.items() for line in (f"  {example}", f"      {words}")]


def refuse_command(name: str) -> NoReturn:
    """Refuse a command that there is not.

    Raises:
        ConfigError: always; names the nearest command, and all.
    """
    if name.startswith("-"):
        raise ConfigError(
            f"there is no option {name!r} before a command; give it behind one, as in"
            f" {COMMANDS['fit'][1]} (verisal --help lists the commands)"
        )
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    suggestion = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"there is no command '{name}'{suggestion} Known: {', '.join(COMMANDS)}")
