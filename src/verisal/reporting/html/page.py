"""The content of an HTML page, and its one template: everything that is not markup of ours is escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, final

from verisal._brief import brief
from verisal._plain import plain
from verisal.reporting.html.images import Picture, embedded
from verisal.results import Score

if TYPE_CHECKING:
    from jinja2 import Environment, Template

#: Bytes of a page at most, pictures and all.
MOST_BYTES: Final = 3_000_000
# Of the part that is no picture; what is left of the page is for pictures.
_SPARE: Final = 20_000


@final
@dataclass(frozen=True)
class Cell:
    """A number with its interval, as words and as a bar.

    Attributes:
        value: the number in words.
        ends: the interval in words; empty where there is none.
        counts: images that counted, in words.
        name: full name of the score.
        bar: from, to and at, in percent of the axis; None without an interval.
        mark: value at which a line stands across the axis, in percent, or None.
        best: True for the best value of its column.
    """

    value: str
    ends: str = ""
    counts: str = ""
    name: str = ""
    bar: tuple[float, float, float] | None = None
    mark: float | None = None
    best: bool = False

    @classmethod
    def of(
        cls, score: Score | None, *, name: str = "", scale: tuple[float, float], best: bool = False
    ) -> Cell:
        """A score on an axis from one end of the scale to the other."""
        if score is None:
            return cls("")
        counts = f"{score.n} images" if score.n else ""
        counts += f", {score.undefined} more could not be scored" if score.undefined else ""
        if math.isnan(score.value):
            return cls("n/a", counts=counts, name=name)
        low, high = scale
        length = (high - low) or 1.0
        ends = score.ends
        words = "too few images" if ends is None and score.few else ""
        if ends is not None:
            words = f"{ends[0]:z.3f} to {ends[1]:z.3f}"
        first, last = ends or (score.value, score.value)
        bar = tuple(round(100 * (at - low) / length, 1) for at in (first, last, score.value))
        return cls(f"{score.value:z.3f}", words, counts, name, (bar[0], bar[1], bar[2]), best=best)


@final
@dataclass(frozen=True)
class Column:
    """A column of a table: its words, and what holds for all of its cells."""

    words: str
    note: str = ""


@final
@dataclass(frozen=True)
class Line:
    """A line of a table: its name, a remark on it, and its cells."""

    words: str
    cells: tuple[Cell, ...]
    note: str = ""


@final
@dataclass(frozen=True)
class Grid:
    """A table that can be sorted.

    Attributes:
        title: caption.
        first: words above the names of the lines.
        columns: of the numbers.
        lines: from the top.
        note: on the whole table.
        dense: True without bars and counts, for large tables.
    """

    title: str
    first: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    note: str = ""
    dense: bool = False

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.columns) * len(self.lines)


@final
@dataclass(frozen=True)
class Shown:
    """A picture of the page; ``picture`` is None where it found no room.

    Attributes:
        title: what it shows, in words.
        file: where it is, from the page.
        picture: the picture itself.
        address: filled in when the page is made.
    """

    title: str
    file: str
    picture: Picture | None
    address: str = ""

    __repr__ = brief


@final
@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: of its address in the page.
        title: heading.
        note: one sentence below it.
        grids: tables.
        pictures: figures.
        facts: words by what they are about.
        commands: to be copied.
        text: further words as they are, e.g. a file.
        markup: HTML that :func:`.markdown_sections` made.
        folded: True if it is closed at first.
        wide: True if every picture takes the whole width.
    """

    key: str
    title: str
    note: str = ""
    grids: tuple[Grid, ...] = ()
    pictures: tuple[Shown, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    text: str = ""
    markup: str = ""
    folded: bool = False
    wide: bool = True

    __repr__ = brief


@final
@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: of page and window.
        kind: words above the title.
        about: words below it.
        opening: what was found, the most important sentence first.
        doubts: what to know before the numbers are believed.
        sections: the rest.
        made_by: words at the foot.
    """

    title: str
    kind: str
    about: str
    opening: tuple[str, ...]
    doubts: tuple[str, ...]
    sections: tuple[Section, ...]
    made_by: str = ""

    __repr__ = brief

    @property
    def counted(self) -> bool:
        """True if there are tables whose cells know their numbers of images."""
        return any(section.grids for section in self.sections)


def render(page: Page) -> str:
    """The page as one file of at most 3 MB; pictures become smaller where they must, the last are left out.

    Args:
        page: its content; names in it may have any characters.
    """
    bare = len(_rendered(page).encode())
    room = MOST_BYTES - _SPARE - bare
    shown = [shown for section in page.sections for shown in section.pictures]
    addresses = iter(embedded([one.picture for one in shown], room))
    sections = tuple(
        replace(section, pictures=tuple(replace(one, address=next(addresses)) for one in section.pictures))
        for section in page.sections
    )
    return _rendered(replace(page, sections=sections))


def _rendered(page: Page) -> str:
    text = _template().render(
        page=page, style_hash=_hash("style.css"), script_hash=_hash("page.js"), style=_asset("style.css"),
        script=_asset("page.js"),
    )  # fmt: skip
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8").strip()


def _hash(name: str) -> str:
    """By which the page's policy knows its own style and script, and refuses any other."""
    return base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()


@cache
def _template() -> Template:
    from jinja2 import BaseLoader, Environment, StrictUndefined

    environment: Environment = Environment(
        autoescape=True,
        loader=BaseLoader(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every value: also those in attributes keep to one line and to characters that can be seen.
        finalize=_seen,
    )
    return environment.from_string(_asset("page.html"))


def _seen(value: object) -> object:
    return plain(value) if type(value) is str else value
