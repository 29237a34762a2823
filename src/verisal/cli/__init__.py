"""The command line: ``verisal fit|validate|test|predict|explain|...``, run folders, resume and exit codes."""

from ._main import main as main

__all__ = ["main"]
