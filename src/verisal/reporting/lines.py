"""Colours and marks of the lines in every figure."""

from typing import Final

# Colours that colour-blind readers tell apart (Okabe and Ito); markers and line styles for print.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES: Final = ("-", "--", "-.", ":")
