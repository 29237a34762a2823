"""Names that come from anywhere (files, classes, runs) as text that stays text, on paper and in Markdown."""

from __future__ import annotations

import re

from verisal._plain import plain

_MARKS = re.compile(
    r"\\(?=[!-/:-@\[-`{-~])"  # a backslash that would escape what follows
    r"|[`*$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; between letters an underscore is one
    r"|~(?=~)"
    r"|\](?=[(\[:])"  # the end of a link's words
)
# Headings, quotations, lists, and lines that make a heading of what stands before them.
_STARTS = re.compile(r"^(?:[#>]|[+-](?=\s)|[=-](?=[=-]*$)|\d+(?=[.)](?:\s|$)))")

_CODE_OR_TAG = re.compile(r"^```.*?^```|(`+)(?!`).+?(?<!`)\1(?!`)|<(?=[a-z/!?])", re.I | re.M | re.S)


def markdown_text(words: str) -> str:
    r"""Words as Markdown that shows exactly them, in a line, a list or a cell of a table.

    Angle brackets, ampersands and bars become entities: backslashes before them are no Markdown everywhere.

    >>> print(markdown_text("<img src=x onerror=alert(1)>.png"), markdown_text("a|b *c* pgd_linf_4"))
    &lt;img src=x onerror=alert(1)>.png a&#124;b \*c\* pgd_linf_4
    >>> print(markdown_text("# a"), markdown_text("-0.25"), markdown_text("- 0.25"), markdown_text("1. a"))
    \# a -0.25 \- 0.25 1\. a
    """
    words = _MARKS.sub(lambda found: f"\\{found[0]}", plain(words))
    words = re.sub(r"&(?=#?\w+;)", "&amp;", words).replace("<", "&lt;").replace("|", "&#124;")
    return _STARTS.sub(_escaped_start, words)


def markdown_code(words: str) -> str:
    r"""Words as a span of code in a line or a cell of a table.

    >>> print(markdown_code("a|b"), markdown_code("a`b"))
    `a\|b` `` a`b ``
    """
    words = plain(words).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", words)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{words}{space}{fence}"


def without_html(text: str) -> str:
    """Markdown in which HTML shows as text; code stays as it is.

    >>> print(without_html("a < b, <b>c</b> and `<b>`"))
    a < b, &lt;b>c&lt;/b> and `<b>`
    """
    return _CODE_OR_TAG.sub(lambda found: "&lt;" if found[0] == "<" else found[0], text)


def without_marks(text: str) -> str:
    """Words of Markdown without the marks of code and emphasis, as :func:`markdown_code` writes them.

    >>> without_marks("`a|b` is **ahead** of `` c`d ``")
    'a|b is ahead of c`d'
    """
    words = re.sub(r"(`+)( ?)(.+?)\2(?<!`)\1(?!`)", r"\3", text)
    return words.replace("**", "").replace("\\|", "|").replace("&lt;", "<")


def _escaped_start(found: re.Match[str]) -> str:
    start = found[0]
    return f"{start}\\" if start[0].isdigit() else f"\\{start}"
