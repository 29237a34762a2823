"""Options of the commands that argparse reads; nothing heavy is imported before they are known to fit."""

from __future__ import annotations

from typing import Any

from verisal.cli._options import Options, count, path_word
from verisal.cli._threads import THREADS_HELP

ANNOTATIONS = ("csv", "coco", "voc", "masks")
"""Forms of annotations of one's own images."""

KNOWN_SETS = (
    "cifar10", "cifar100", "cub", "fashion-mnist", "imagenet", "imagenette", "mnist", "pascal-voc", "pet",
    "stl10", "svhn",
)  # fmt: skip
"""Published data sets that ``verisal data check`` knows by name."""


SHELLS = ("bash", "zsh")
"""Shells that there is a completion for."""

_THREADS = THREADS_HELP[0].lower() + THREADS_HELP[1:-1]

_CHECK: dict[str, Any] = {
    "description": "Read every image and annotation of a data set and list every problem.",
    "epilog": """examples:
  verisal data check photos
  verisal data check photos --annotations boxes.csv --format csv
  verisal data check VOC2012 --format pascal-voc""",
}


def data_parser() -> Options:
    """Parser of ``verisal data``."""
    parser = Options("verisal data", description="Look at a data set before anything is computed on it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    told = "read every image and annotation and list every problem"
    _add_check_options(commands.add_parser("check", help=told, **_CHECK))
    return parser


def check_parser() -> Options:
    """Parser of ``verisal data check`` alone."""
    return _add_check_options(Options("verisal data check", **_CHECK))


def _add_check_options(check: Options) -> Options:
    check.add_argument("path", type=path_word, help="folder of the images, or of a known data set")
    check.add_argument("--annotations", type=path_word, help="file or folder of boxes, masks or labels")
    check.add_argument(
        "--format",
        choices=(*ANNOTATIONS, *KNOWN_SETS),
        metavar="FORMAT",
        help=f"of the annotations ({', '.join(ANNOTATIONS)}), or a known data set ({', '.join(KNOWN_SETS)})",
    )
    check.add_argument(
        "--labels",
        choices=("folders", "annotations", "none"),
        help="where classes come from (default: the class folders; where there are none, the annotations)",
    )
    check.add_argument("--classifier", help="compare the classes with those of this classifier")
    check.add_argument(
        "--against",
        nargs="+",
        type=path_word,
        default=[],
        metavar="FOLDER",
        help="folders of images for other splits, with which the data set may share no picture",
    )
    check.add_argument("--max-pixels", type=count, help="largest width times height that is decoded")
    check.add_argument("--threads", type=count, metavar="N", help=_THREADS)
    return check


def export_parser() -> Options:
    """Parser of ``verisal export``."""
    parser = Options(
        "verisal export",
        description="Write the best weights of a run as safetensors and a JSON card, which hold no code.",
        epilog="""example:
  verisal export runs/classifier/latest --output weights""",
    )
    parser.add_argument(
        "run",
        type=path_word,
        help="folder of a classifier, masker or detector run, or one of its checkpoints",
    )
    parser.add_argument(
        "--output", required=True, type=path_word, help="folder for model.safetensors and model.json"
    )
    parser.add_argument("--threads", type=count, metavar="N", help=_THREADS)
    return parser


def configs_parser() -> Options:
    """Parser of ``verisal configs``."""
    parser = Options(
        "verisal configs",
        description="List the configs that come with verisal, or print one of them.",
        epilog="""examples:
  verisal configs
  verisal configs detector > mine.yaml     a copy to change: verisal fit --config mine.yaml
  verisal configs study                    those of one folder""",
    )
    parser.add_argument("name", nargs="?", type=path_word, help="one of the list: its text is printed")
    return parser


def runs_parser() -> Options:
    """Parser of ``verisal runs``."""
    parser = Options(
        "verisal runs",
        description="List runs, the newest first: command, state, headline figure, folder.",
        epilog="""examples:
  verisal runs
  verisal runs detector
  verisal runs --root other/runs""",
    )
    parser.add_argument("task", nargs="?", help="only runs of this task, e.g. detector")
    parser.add_argument("--root", type=path_word, default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--limit", type=count, default=20, help="how many are listed (default: 20)")
    return parser


def completion_parser() -> Options:
    """Parser of ``verisal completion``."""
    parser = Options(
        "verisal completion",
        description="Print a script that completes commands, options, configs and runs in a shell.",
        epilog="""once for this terminal, or for good in ~/.bashrc or ~/.zshrc:
  source <(verisal completion bash)
  source <(verisal completion zsh)""",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser
