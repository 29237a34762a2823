"""Progress in words: a bar for the step at hand, one for all of them, and a line for each that is done.

On a terminal the bars stand below everything else that is printed. Where standard error is no terminal, such
as in a log file, each step gets a line when it is done, and one a minute while it lasts.
"""

from verisal.progress.shown import at_work, clock, doing, paused, progress_bar, tell, work
from verisal.progress.steps import Advance, Running, Step, Work

__all__ = [
    "Advance",
    "Running",
    "Step",
    "Work",
    "at_work",
    "clock",
    "doing",
    "paused",
    "progress_bar",
    "tell",
    "work",
]
