"""Markdown of ours as HTML, in which foreign markup is text and a link is its words."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt


def markdown_sections(text: str) -> str:
    """Paragraphs, lists and tables as HTML.

    Pages are read away from where they were made, so that of a link only its words are left. HTML in the
    text is shown as text.
    """
    html: str = _reader().render(text)
    return html


@cache
def _reader() -> MarkdownIt:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def nothing(*_: Any) -> str:  # noqa: ANN401 - tokens and options of the library
        return ""

    for rule, html in (
        ("table_open", '<div class="scroll" role="region" tabindex="0" aria-label="table"><table>\n'),
        ("table_close", "</table></div>\n"),
        ("th_open", '<th scope="col">'),
    ):
        reader.add_render_rule(rule, lambda *_, html=html: html)
    for rule in ("link_open", "link_close"):
        reader.add_render_rule(rule, nothing)
    return reader
