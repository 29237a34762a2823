"""Lightning callbacks: reports, checkpoints, and the guard against numbers that are not."""

from .checkpoints import CheckpointFiles as CheckpointFiles
from .checkpoints import LastCheckpoint as LastCheckpoint
from .checkpoints import Monitored as Monitored
from .checkpoints import best_checkpoint as best_checkpoint
from .numeric_guard import NumericGuard as NumericGuard
from .report import ReportRun as ReportRun
from .saliency_metrics import SaliencyMetrics as SaliencyMetrics

__all__ = [
    "CheckpointFiles",
    "LastCheckpoint",
    "Monitored",
    "NumericGuard",
    "ReportRun",
    "SaliencyMetrics",
    "best_checkpoint",
]
