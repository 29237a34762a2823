"""Names under which loggers have the scores of callbacks: lower case, digits, ``_`` and ``/``."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Literal, TypeVar

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from verisal.errors import ConfigError
from verisal.reporting.wandb_layout import Best
from verisal.results import ScoreName, typed
from verisal.saliency import CentrePrior, RandomMap, Saliency

_Method = TypeVar("_Method")
# By the arrow behind a title.
_BEST: Mapping[str, Best] = {"↑": "max", "↓": "min"}


def named(methods: Mapping[str, _Method] | Sequence[_Method]) -> dict[str, _Method]:
    """Methods by name; those of a sequence are called like their classes, ``GradCAM`` is ``grad_cam``.

    Raises:
        ConfigError: two of one class in a sequence, or something else than a method.
    """
    if not isinstance(methods, Mapping | Sequence):
        raise ConfigError(f"methods must be a list, or a dict of names and methods, found {shown(methods)}")
    for method in methods.values() if isinstance(methods, Mapping) else methods:
        if not isinstance(method, Saliency):
            raise ConfigError(
                f"methods must be objects such as GradCAM(), found {shown(method)}; objects of other packages"
                " go into an adapter of verisal.saliency, and functions into CallableAdapter(function=...)"
            )
    if isinstance(methods, Mapping):
        return dict(methods)
    by_name: dict[str, _Method] = {}
    for method in methods:
        name = snake_case(type(method).__name__)
        if name in by_name:
            raise ConfigError(
                f"two of the methods are called {name!r}; give a dict of names and methods, such as"
                f" {{{name!r}: ..., '{name}_2': ...}}"
            )
        by_name[name] = method
    return by_name


def typed_rows(rows: Iterable[str]) -> dict[str, str]:
    """Rows by what stands for them in logged names.

    Raises:
        ConfigError: an empty name or one without a letter or digit, one with a slash, or two that read the
            same.
    """
    known: dict[str, str] = {}
    for row in rows:
        name = typed(row)
        if not name or "/" in row:
            raise ConfigError(
                "names of methods need a letter from a to z or a digit, and must not hold a slash; found"
                f" {row!r}"
            )
        if name in known:
            raise ConfigError(
                f"{known[name]!r} and {row!r} would both be logged as {name!r}; give one of them another name"
            )
        known[name] = row
    return {row: name for name, row in known.items()}


def typed_columns(columns: Iterable[str], *, after: Iterable[str] = ()) -> dict[str, str]:
    """Columns ``<metric>/<part>`` by what stands for them in logged names.

    The first column of a metric is its main score and goes without its part. Parts follow after ``_``: a
    slash would make the main score a folder, which stores of files refuse. A metric goes without its
    settings, ``insertion[blur5]`` as ``insertion``, unless a metric before it is called so: of several the
    first has the short name, so that a metric that is added behind the others changes no name.

    >>> typed_columns(["insertion[blur5]/auc", "insertion[gauss]/auc", "insertion[gauss]/range"])
    {'insertion[blur5]/auc': 'insertion', 'insertion[gauss]/auc': 'insertion_gauss', \
'insertion[gauss]/range': 'insertion_gauss_range'}

    Args:
        columns: to name.
        after: columns of other callbacks, which come first.

    Raises:
        ConfigError: two that read the same even with their settings.
    """
    metrics: dict[str, str] = {}
    found: dict[str, str] = {}
    own = list(columns)
    for column in dict.fromkeys(chain(after, own)):
        name = ScoreName("any", "row", column)
        metric, part = name.metric, name.part
        if first := metric not in metrics:
            short = typed(metric.partition("[")[0])
            metrics[metric] = typed(metric) if short in metrics.values() else short
        found[column] = metrics[metric] if first else f"{metrics[metric]}_{typed(part)}"
    if len(set(found.values())) < len(found):
        twice = [column for column, name in found.items() if list(found.values()).count(name) > 1]
        raise ConfigError(
            f"{twice[0]!r} and {twice[1]!r} would both be logged as {found[twice[0]]!r}; leave one out"
        )
    return {column: found[column] for column in own}


class LogsScores(ABC):
    """A callback that logs scores of methods, or of something else that has a row of its own.

    Attributes:
        by_name: methods by their names, with the controls.
    """

    by_name: Mapping[str, Saliency]

    @property
    def row_names(self) -> tuple[str, ...]:
        """Rows that every batch takes a step for; may be overridden."""
        return tuple(self.by_name)

    @property
    def headline(self) -> Mapping[str, str]:
        """Title in the main table to ``<metric>/<part>`` of the scores that are logged; may be overridden.

        The first one of a metric is its main score.
        """
        return {}

    @property
    def left_out(self) -> Collection[str]:
        """Columns of the headline that no image can give, by the settings alone; may be overridden."""
        return ()

    def names(
        self, split: Literal["val", "test"] = "val", *, after: Sequence[LogsScores] = ()
    ) -> tuple[str, ...]:
        """Every name that is logged, ``<split>/<method>/<metric>``, before anything has run.

        They consist of lower case, digits, ``_`` and ``/``: what ``monitor=`` of other callbacks takes. The
        main score of a metric goes without its own name, and settings are left out, unless a metric listed
        before is called the same: ``insertion``, then ``insertion_blur5``. What is undefined in an epoch is
        logged as NaN.

        Args:
            split: ``val`` or ``test``.
            after: callbacks before this one in the trainer, whose metrics have the short names first.

        Raises:
            ConfigError: two scores would have one name.
        """
        return tuple(self.typed_scores(split, after=after).values())

    def main_figures(self, *, after: Sequence[LogsScores] = ()) -> dict[str, Best]:
        """The first score of every row that is logged in a fit, to which value of it is the best.

        Args:
            after: callbacks before this one in the trainer.
        """
        title, column = next(iter(self.headline.items()), ("", ""))
        best = _BEST.get(title[-1:], "last")
        scores = self.typed_scores("val", after=after)
        return {name: best for score, name in scores.items() if score.column == column}

    def typed_scores(self, split: str, *, after: Sequence[LogsScores] = ()) -> dict[ScoreName, str]:
        """Names of the scores that are logged, as reports have them, to those under which loggers do.

        Raises:
            ConfigError: two scores would have one name.
        """
        earlier = chain.from_iterable(other.headline.values() for other in after)
        rows, columns = typed_rows(self.row_names), typed_columns(self.headline.values(), after=earlier)
        return {
            ScoreName(split, row, column): f"{split}/{short}/{name}"
            for row, short in rows.items()
            for column, name in columns.items()
            if column not in self.left_out
        }


def refuse_clash(callbacks: Sequence[LogsScores]) -> None:
    """Raise if the last of the callbacks logs another method's score under a name of one before it.

    Equal scores may meet: the controls are those of all.

    Raises:
        ConfigError: the first such name.
    """
    *earlier, last = callbacks
    for place, other in enumerate(earlier):
        known = {name: score for score, name in other.typed_scores("val", after=earlier[:place]).items()}
        for score, name in last.typed_scores("val", after=earlier).items():
            if name in known and not _same_method(other.by_name, known[name].row, last.by_name, score.row):
                raise ConfigError(
                    f"{type(other).__name__} and {type(last).__name__} would both log {name}, of different"
                    f" methods called {known[name].row!r} and {score.row!r}; rename one of them"
                )


def refuse_rare_monitor(who: str, names: Container[str], others: Iterable[Callback], *, every: int) -> None:
    """Raise if somebody looks for one of the names in epochs that do not log it.

    Args:
        who: logs the names.
        names: that are logged.
        others: callbacks of the trainer.
        every: the names are logged in every so many epochs of a fit.

    Raises:
        ConfigError: the first who does.
    """
    for other in others:
        if isinstance(other, ModelCheckpoint):
            rare, remedy = (other.every_n_epochs or 1) % every == 0, f"every_n_epochs={every}"
        elif isinstance(other, EarlyStopping):
            rare, remedy = not other.strict, "strict=False, and patience for the epochs between"
        else:
            continue
        if other.monitor in names and not rare and every > 1:
            raise ConfigError(
                f"{who} logs {other.monitor!r} with every_n_epochs={every}, and {type(other).__name__} looks"
                f" for it in other epochs, too; give {type(other).__name__} {remedy}"
            )


def _same_method(
    first: Mapping[str, Saliency], row: str, second: Mapping[str, Saliency], other_row: str
) -> bool:
    pair = (first.get(row), second.get(other_row))
    controls = all(isinstance(method, RandomMap | CentrePrior) for method in pair)
    return row == other_row and (controls or pair[0] == pair[1])


def snake_case(name: str) -> str:
    """``GradCAM`` as ``grad_cam``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def shown(thing: object) -> str:
    """What a user gave in place of an object of ours."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"{type(thing).__name__} {thing!r}"
