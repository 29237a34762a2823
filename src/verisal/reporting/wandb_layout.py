"""What a run shows at Weights & Biases: five figures first, few charts, the rest in its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final, Literal, Protocol, TypeVar, final, runtime_checkable

from verisal._plain import plain, plain_lines
from verisal.reporting.publication import Publication

Best = Literal["min", "max", "last"]
"""Which value of a training stands for it in the summary."""

#: Section of the figures that matter most. Sections are in alphabetical order, so that it comes first.
FIRST: Final = "core"
_MOST_FIRST: Final = 5
# Charts of names without a row, as train/loss, and of those with one, as val/grad_cam/insertion.
_MOST_PLAIN: Final = 6
_MOST_OF_ROWS: Final = 9
# Charts, galleries and tables of a fit, and as many of an evaluation.
_MOST_PUBLISHED: Final = 3
#: Panels of a run at most, those that its settings ask for apart: scalars, charts, galleries and tables.
MOST_PANELS: Final = _MOST_FIRST + _MOST_PLAIN + _MOST_OF_ROWS + 5 * _MOST_PUBLISHED

_Value = TypeVar("_Value")


@runtime_checkable
class NamesFigures(Protocol):
    """A task that says what matters most of what it logs in a training."""

    @property
    def main_figures(self) -> Mapping[str, Best]:
        """Logged name, the most important one first, to which value of it is the best."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class RunCard:
    """By what a run is found among others.

    Attributes:
        name: shown for the run.
        group: runs that belong together: those of one study, or on the same data.
        job_type: what is done: ``fit``, ``validate``, ``test``, ``benchmark``, ``study``.
        tags: words to filter by.
        notes: the command.
        first: logged names that matter most, to their best value.
    """

    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    first: Mapping[str, Best] = field(default_factory=dict)


def five_of(task: Mapping[str, Best], callbacks: Sequence[Mapping[str, Best]]) -> dict[str, Best]:
    """The five figures that matter most: those of the task, then of the callbacks by turns.

    >>> five_of({"val/loss": "min"}, [{"val/a/x": "max", "val/b/x": "max"}, {"val/a/y": "last"}])
    {'val/loss': 'min', 'val/a/x': 'max', 'val/a/y': 'last', 'val/b/x': 'max'}
    """
    own = [list(figures.items()) for figures in callbacks]
    longest = max(map(len, own), default=0)
    turns = [figures[turn] for turn in range(longest) for figures in own if turn < len(figures)]
    return dict(list(dict([*task.items(), *turns]).items())[:_MOST_FIRST])


@final
class Layout:
    """Chooses what becomes a panel of a run. What does not is in its summary and in the files of the run.

    A name that has a panel keeps it.

    Args:
        first: names that are shown in a section of their own, to their best value.
        wanted: names that are charts whatever else is, ``*`` stands for anything.
    """

    def __init__(self, first: Mapping[str, Best], wanted: Sequence[str] = ()) -> None:
        self.first = {name: f"{FIRST}/{plain(name).replace('/', '_')}" for name in first}
        self.best = {self.first[name]: best for name, best in first.items()}
        self._wanted = tuple(wanted)
        self._charted: set[str] = set()
        self._published: dict[tuple[str, bool], list[str]] = {}
        # What the other rows have of the same kind is what one compares with.
        self._columns = {_column(name) for name in first if not _is_plain(name)}

    def divided(self, metrics: Mapping[str, _Value]) -> tuple[dict[str, _Value], dict[str, _Value]]:
        """Values of a training that become points of charts, and those that the summary alone has.

        Args:
            metrics: by their logged names.
        """
        copies = {self.first[name]: value for name, value in metrics.items() if name in self.first}
        self._choose(metrics)
        charted = {plain(name): value for name, value in metrics.items() if name in self._charted}
        rest = {plain(name): value for name, value in metrics.items() if name not in self._charted}
        return copies | charted, rest

    def _choose(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self._charted]
        self._charted |= {name for name in new if any(fnmatchcase(name, one) for one in self._wanted)}
        new = [name for name in new if name not in self._charted]
        own = [name for name in self._charted if not any(fnmatchcase(name, one) for one in self._wanted)]
        ranked = sorted((name for name in new if not _is_plain(name)), key=self._rank)
        plains = [name for name in new if _is_plain(name)]
        for kind, most, candidates in ((True, _MOST_PLAIN, plains), (False, _MOST_OF_ROWS, ranked)):
            room = most - sum(_is_plain(name) is kind for name in own)
            self._charted |= set(islice(candidates, max(0, room)))

    def _rank(self, name: str) -> int:
        """Main figures, then the same of other rows, then what was logged first; seconds last."""
        if name in self.first:
            return 0
        if _column(name) in self._columns:
            return 1
        return 3 if "seconds" in name or "/explaining/" in name else 2

    def shown(self, publication: Publication) -> Publication:
        """The curves, pictures and tables that become panels."""
        # Tables are of evaluations alone.
        evaluated = bool(publication.tables)

        def kept(kind: str, things: Mapping[str, _Value]) -> dict[str, _Value]:
            known = self._published.setdefault((kind, evaluated), [])
            known += [name for name in things if name not in known][: _MOST_PUBLISHED - len(known)]
            return {name: thing for name, thing in things.items() if name in known}

        # The main table first: it is what an evaluation is read by.
        tables = dict(sorted(publication.tables.items(), key=lambda item: not item[0].endswith("_main")))
        return Publication(
            kept("curves", publication.curves),
            kept("pictures", publication.pictures),
            kept("tables", tables),
        )


def seen(value: object) -> object:
    """Plain data whose text has no character that moves a terminal's cursor or hides what follows."""
    if isinstance(value, str):
        return plain_lines(value)
    if isinstance(value, Mapping):
        return {_key(key): seen(inner) for key, inner in value.items()}
    return [seen(inner) for inner in value] if isinstance(value, list | tuple) else value


def _key(key: object) -> object:
    return plain(key) if isinstance(key, str) else key


def _is_plain(name: str) -> bool:
    return name.count("/") <= 1


def _column(name: str) -> str:
    """``val/*/auroc/mean`` for ``val/masks/auroc/mean``."""
    split, _, rest = name.partition("/")
    return f"{split}/*/{rest.partition('/')[2]}"
