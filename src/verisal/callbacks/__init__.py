"""Lightning callbacks."""

from .report import ReportRun as ReportRun

__all__ = ["ReportRun"]
