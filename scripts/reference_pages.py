"""Parts of the reference that are made from the code: python scripts/reference_pages.py PAGE.

A line ``<!-- generated: KIND NAME -->`` of a page in docs/ stands for such a part. The site is built with the
parts in their places (docs/conf.py), and this script prints one page with them; no file is changed.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import cast

import torch

from verisal.callbacks import (
    BaselineNeutrality,
    ClassRanks,
    DisturbedLocalization,
    GateNoise,
    PerturbationCurves,
    SaliencyMetrics,
)
from verisal.callbacks.explaining.names import LogsScores, typed_columns
from verisal.cli._configs import purpose, shipped_configs
from verisal.cli._help import COMMANDS
from verisal.detection.metric import DetectionScores
from verisal.detection.table import detection_report
from verisal.errors import VerisalError
from verisal.functional.baselines import Constant
from verisal.functional.statistics import Bootstrap
from verisal.metrics import SaliencyMetric
from verisal.saliency import GradCAM, HierarchicalMasks

_DOCS = Path(__file__).parents[1] / "docs"
_PLACE = re.compile(r"^<!-- generated: (\w+)(?: (\S+))? -->$", re.MULTILINE)


def filled(text: str) -> str:
    """A page with the generated parts in their places.

    Raises:
        KeyError: there is no such part.
    """
    return _PLACE.sub(lambda found: _PARTS[found[1]](*filter(None, [found[2]])), text)


def public_names(room: str) -> list[str]:
    """Classes and functions of a room, by name: those that it exports, or that its one module defines."""
    module = import_module(f"verisal.{room}")
    exported = getattr(module, "__all__", None)
    names = exported or [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    kinds = (inspect.isclass, inspect.isfunction)
    return sorted(name for name in names if any(kind(getattr(module, name)) for kind in kinds))


def _api(room: str) -> str:
    """Signature and docstring of everything that a room exports."""
    module = import_module(f"verisal.{room}")
    lines = ["```{eval-rst}", f".. module:: verisal.{room}", ""]
    for name in public_names(room):
        whole = f"verisal.{room}.{name}"
        if inspect.isclass(getattr(module, name)):
            lines += [f".. autoclass:: {whole}", "   :members:", ""]
        else:
            lines += [f".. autofunction:: {whole}", ""]
    return "\n".join([*lines, "```"])


def _commands() -> str:
    """What every command says of itself."""
    return "\n\n".join(
        f"## {name}\n\n{purpose_of_it[0].upper()}{purpose_of_it[1:]}.\n\n```text\n{_help_of(name)}\n```"
        for name, (purpose_of_it, _) in COMMANDS.items()
    )


def _help_of(command: str) -> str:
    words = [sys.executable, "-m", "verisal", command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    return done.stdout.strip()


def _configs() -> str:
    """Every config that is shipped, with its purpose and the command at its head."""
    rows = [(f"`{name}`", purpose(file)) for name, file in shipped_configs().items()]
    return _table(("name", "what it is for"), rows)


def metrics_of_maps() -> list[SaliencyMetric]:
    """Every metric of maps that its defaults make, by name."""
    module = import_module("verisal.metrics")
    made = []
    for name in public_names("metrics"):
        kind = getattr(module, name)
        if inspect.isclass(kind) and issubclass(kind, SaliencyMetric) and not inspect.isabstract(kind):
            try:
                made.append(cast("Callable[[], SaliencyMetric]", kind)())
            except (TypeError, VerisalError):
                # Those that need arguments are made by callbacks, whose names are listed after them.
                continue
    return made


def _metrics() -> str:
    """Class, names, scores and direction of every metric of maps."""
    parts = []
    for metric in metrics_of_maps():
        (logged, *_) = typed_columns([f"{metric.name}/{metric.main}"]).values()
        scores = ", ".join(f"`{score}`" for score in _scores_of(metric))
        end = f"{metric.better} is better" if metric.better else "neither end is better"
        parts.append(
            f"`{type(metric).__name__}` ({end})\n: {_first_line(type(metric))}"
            f" In reports `{metric.name}`, in loggers `{logged}`. Scores: {scores}"
        )
    return "\n\n".join(parts)


def _scores_of(metric: SaliencyMetric) -> list[str]:
    rows = torch.rand(8, len(metric.columns), generator=torch.Generator().manual_seed(0)).double()
    return list(metric.reduce(rows, Bootstrap(0)))


def callbacks_that_log() -> dict[str, LogsScores]:
    """Callbacks with one method, and every metric, whose names can be asked for before a run."""
    methods = {"method": GradCAM()}
    return {
        "SaliencyMetrics": SaliencyMetrics(methods, metrics_of_maps(), randomisation_steps=4),
        "PerturbationCurves": PerturbationCurves(methods),
        "DisturbedLocalization": DisturbedLocalization(methods, _Nothing()),
        "ClassRanks": ClassRanks(methods),
        "GateNoise": GateNoise({"method": HierarchicalMasks()}),
        "BaselineNeutrality": BaselineNeutrality([Constant()]),
    }


class _Nothing(torch.utils.data.Dataset[object]):
    """A data set in the place of the one that is held out."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> object:
        raise IndexError(index)


def _logged() -> str:
    """Names that callbacks log, for a method called `method`."""
    parts = []
    for name, callback in callbacks_that_log().items():
        own = [logged for logged in callback.names() if logged.split("/")[1] not in {"random", "centre"}]
        parts.append(f"`{name}`\n: " + ", ".join(f"`{logged}`" for logged in own))
    return "\n\n".join(parts)


def detection_names() -> list[str]:
    """Names of the scores of a detector ``row``, of an attack, its failed tries, and other images."""
    groups = {0: "clean", 1: "attack", 2: "attack_failed", 3: "noise"}
    roles = {"clean": "clean", "attack": "attack", "attack_failed": "failed", "noise": "benign"}
    scores = DetectionScores(["row"], members=2)
    drawn = torch.rand(4 * 40, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores.update(drawn, image_index=torch.arange(40).repeat(4), group=torch.arange(4).repeat_interleave(40))
    report = detection_report(
        scores.compute(), split="test", rows=["row"], groups=groups, roles=roles,  # type: ignore[arg-type]
        thresholds={"row": {0.05: 0.9, 0.01: 0.99}}, bootstrap=Bootstrap(0), noise_of={"attack": "noise"},
    )  # fmt: skip
    return sorted(report)


def _detection() -> str:
    return "\n".join(f"- `{name}`" for name in detection_names())


def _notebook(path: str) -> str:
    """Words and code of a notebook of docs/, without what it prints."""
    notebook = json.loads((_DOCS / path).read_text(encoding="utf-8"))
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"])
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)


def _first_line(kind: type) -> str:
    line = (inspect.getdoc(kind) or "").partition("\n")[0]
    return re.sub(r":\w+:`\.?([^`]+)`", r"`\1`", line).replace("``", "`").replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    return "\n".join(_lines(titles, ["---"] * len(titles), *rows))


def _lines(*rows: Iterable[str]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"


_PARTS: dict[str, Callable[..., str]] = {
    "api": _api,
    "commands": _commands,
    "configs": _configs,
    "metrics": _metrics,
    "logged": _logged,
    "notebook": _notebook,
    "detection": _detection,
}


if __name__ == "__main__":
    print(filled(Path(sys.argv[1]).read_text(encoding="utf-8")))
