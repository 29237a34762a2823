"""Looks of the lines in every figure, which differ by more than their colours."""

from typing import Final, NamedTuple

# Colours that colour-blind readers tell apart (Okabe and Ito); markers and line styles for print.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES: Final = ("-", "--", "-.", ":")


class Look(NamedTuple):
    """Colour, marker and dashes of one line."""

    colour: str
    marker: str
    style: str


def look(number: int) -> Look:
    """The look of a line: neighbours share neither colour, marker nor dashes; 32 lines differ.

    >>> len({look(number) for number in range(32)}), look(0)
    (32, Look(colour='#0072B2', marker='o', style='-'))
    """
    turn, place = divmod(number, len(COLOURS))
    return Look(COLOURS[place], MARKERS[place], STYLES[(place + turn) % len(STYLES)])
