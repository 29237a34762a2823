"""Names that come from anywhere (files, classes, runs) as text that stays on its line."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, and those that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(words: str) -> str:
    r"""Words on one line: characters that nobody sees become their codes, so that names stay apart.

    >>> plain("a\nb\x1b[31m")
    'a\\x0ab\\x1b[31m'
    """
    return _UNSEEN.sub(
        lambda found: ascii(found[0])[1:-1] if found[0] not in "\n\t\r" else _code(found[0]), words
    )


def plain_lines(text: str) -> str:
    r"""The same of each line of a text, which keeps its lines.

    >>> plain_lines("a\nb\x1b[31m")
    'a\nb\\x1b[31m'
    """
    return "\n".join(map(plain, text.split("\n")))


def _code(character: str) -> str:
    return f"\\x{ord(character):02x}"
