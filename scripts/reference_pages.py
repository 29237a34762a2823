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
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import cast

import torch

from verisal.attacks import AdversarialPatch
from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks import (
    BaselineNeutrality,
    ClassRanks,
    DisturbedLocalization,
    GateNoise,
    MapAgreement,
    PatchedImages,
    PerturbationCurves,
    RobustValidation,
    SaliencyMetrics,
    SceneQueries,
)
from verisal.callbacks.explaining.names import LogsScores, typed_columns
from verisal.cli._configs import purpose, shipped_configs
from verisal.cli._help import COMMANDS
from verisal.detection.end_to_end import EndToEnd
from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionScores
from verisal.detection.table import detection_report
from verisal.functional.baselines import Constant
from verisal.functional.statistics import Bootstrap
from verisal.metrics import (
    ROAD,
    AttackedSensitivity,
    BandRemoval,
    CascadingRandomisation,
    MapSimilarity,
    MaxBoxAcc,
    PerturbationCurve,
    PresentQueries,
    RelevanceGap,
    SaliencyMetric,
)
from verisal.saliency import GradCAM, Gradient, HierarchicalMasks
from verisal.tasks.masker.contributing import VALUES
from verisal.tasks.masker.evaluation import COLUMNS

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
    """Every metric of maps, by the name of its class, and the further kinds of those that have some."""
    module = import_module("verisal.metrics")
    made: list[SaliencyMetric] = []
    for name in public_names("metrics"):
        kind = getattr(module, name)
        if inspect.isclass(kind) and issubclass(kind, SaliencyMetric) and not inspect.isabstract(kind):
            defaults = cast("Callable[[], SaliencyMetric]", kind)
            made += _MADE[name]() if name in _MADE else [defaults()]
    return made


# Those that need arguments, or that have kinds with names of their own.
_MADE: dict[str, Callable[[], list[SaliencyMetric]]] = {
    "AttackedSensitivity": lambda: [AttackedSensitivity(MapAttack(kind="top_k"))],
    "BandRemoval": lambda: [BandRemoval(["first", "second"])],
    "CascadingRandomisation": lambda: [CascadingRandomisation(GradCAM(), torch.zeros(2, 3, 8, 8))],
    "CurveMetric": list,
    "MapSimilarity": lambda: [MapSimilarity(Gradient(), label="gradient")],
    "PerturbationCurve": lambda: [
        PerturbationCurve(kind) for kind in ("deletion", "insertion", "morf", "lerf")
    ],
    "PresentQueries": lambda: [PresentQueries(threshold=0.5)],
    "ROAD": lambda: [ROAD("morf"), ROAD("lerf")],
}


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
    # This one is added by the callback itself, for each method.
    metrics = [metric for metric in metrics_of_maps() if not isinstance(metric, CascadingRandomisation)]
    robust = RobustValidation({"attack": AdversarialPatch(share=0.05)})
    # The file of an alarm is read when the callback is made, and its name decides what is logged.
    robust.alarm = "alarm.safetensors"
    return {
        "SaliencyMetrics": SaliencyMetrics(methods, metrics, randomisation_steps=4),
        "PerturbationCurves": PerturbationCurves(methods),
        "DisturbedLocalization": DisturbedLocalization(methods, _Nothing()),
        "ClassRanks": ClassRanks(methods),
        "GateNoise": GateNoise({"method": HierarchicalMasks()}),
        "BaselineNeutrality": BaselineNeutrality([Constant()]),
        "MapAgreement": MapAgreement(
            {"method": GradCAM(), "other": Gradient()}, groups={"group": ["method", "other"]}
        ),
        "PatchedImages": PatchedImages(methods, [AdversarialPatch(share=0.05)]),
        "RobustValidation": robust,
        "SceneQueries": SceneQueries(methods, [RelevanceGap()]),
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


def names_of_tasks() -> dict[str, list[str]]:
    """Names that tasks log, those of rows for a row called ``row``."""
    boxes = [f"box_{score}" for score in _scores_of(MaxBoxAcc())]
    kept = {"elements": COLUMNS[3:], "places": ("energy_inside", "deletion", "insertion")}
    families = [name for name in names_over_families() if "/head/" not in name]
    detection = [
        name.replace("test/", "val/", 1) for name in [*detection_names(), *families] if "_member_" not in name
    ]
    return {
        "ClassifierTask": ["train/loss", "val/loss", "val/accuracy"],
        "DetectorTask": ["train/loss", "train/row/loss", *detection],
        "FrozenClassifierTask": ["val/classifier/accuracy"],
        "MaskerTask": [
            *(f"train/{part}" for part in ("loss", "distance", "penalty", "reg_weight")),
            *(f"val/row/{column}" for column in COLUMNS),
            *(f"val/row/kept_{column}/goal" for column in kept["elements"]),
        ],
        "PlaceMaskerTask": [
            *(f"train/{part}" for part in ("loss", "evidence", "place")),
            *(f"val/row/{value}" for value in (*VALUES, *boxes)),
            *(f"val/row/kept_{value}/goal" for value in kept["places"]),
        ],
        "TransferTask": ["test/row/auroc/mean_unseen"],
        "Callbacks that explain, together": [
            f"val/explaining/{part}" for part in ("seconds", "other_seconds", "share")
        ],
        "`verisal fit`": ["train/loss_step"],
    }


def _tasks() -> str:
    return "\n\n".join(
        f"{name if ' ' in name else f'`{name}`'}\n: " + ", ".join(f"`{logged}`" for logged in own)
        for name, own in names_of_tasks().items()
    )


def detection_names() -> list[str]:
    """Names of the scores of a detector ``row``, of an attack, its failed tries, and other images."""
    groups = {0: "clean", 1: "attack", 2: "attack_failed", 3: "noise"}
    roles = {"clean": "clean", "attack": "attack", "attack_failed": "failed", "noise": "benign"}
    scores = DetectionScores(["row"], members=2)
    drawn = torch.rand(4 * 40, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores.update(drawn, image_index=torch.arange(40).repeat(4), group=torch.arange(4).repeat_interleave(40))
    table = scores.compute()
    report = detection_report(
        table, split="test", rows=["row"], groups=groups, roles=roles,  # type: ignore[arg-type]
        thresholds={"row": {0.05: 0.9, 0.01: 0.99}}, bootstrap=Bootstrap(0), noise_of={"attack": "noise"},
    )  # fmt: skip
    outcomes = [f"test/row/end_to_end/{part.name}" for part in fields(EndToEnd)]
    return sorted([*report, "test/row/fpr/worst_benign", *outcomes])


def names_over_families() -> list[str]:
    """Names of the scores of a detector ``row`` beside one called ``head``, over families of attacks."""
    groups = {0: "clean", 1: "a", 2: "b", 3: "c"}
    families = Families({"family": ["a"], "b": ["b"], "c": ["c"]}, {"fit": ["a"]}, merged=["family", "b"])
    scores = DetectionScores(["head", "row"], members=1)
    drawn = torch.rand(4 * 40, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores.update(drawn, image_index=torch.arange(40).repeat(4), group=torch.arange(4).repeat_interleave(40))
    report = transfer_report(
        {"fit": scores.compute()}, families, split="test", rows=["head", "row"], groups=groups, clean=0,
        thresholds={"fit": {"row": {0.05: 0.9}}}, default="fit", head="head", bootstrap=Bootstrap(0),
    )  # fmt: skip
    own = [name for name in map(str, report) if "/head/" not in name and name[-2:] not in {"/b", "/c"}]
    adaptive = [
        f"test/head/adaptive_{part.name}/eps_8{more}" for part in fields(EndToEnd) for more in ("", "_suite")
    ]
    return sorted([*own, *adaptive])


def _detection() -> str:
    return "\n".join(f"- `{name}`" for name in detection_names())


def _families() -> str:
    return "\n".join(f"- `{name}`" for name in names_over_families())


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
    "tasks": _tasks,
    "detection": _detection,
    "families": _families,
}


if __name__ == "__main__":
    print(filled(Path(sys.argv[1]).read_text(encoding="utf-8")))
