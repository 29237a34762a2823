"""Places for results: CSV files, Weights & Biases, figures, and the report of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

from verisal.reporting.curves import draw_curves, draw_roc
from verisal.reporting.explanations import Explanation, draw_contact_sheet, draw_explanation, draw_gallery
from verisal.reporting.histograms import draw_histograms
from verisal.reporting.publication import Picture, Publication, Sink, Table

if TYPE_CHECKING:
    from verisal.reporting.csv_sink import CsvSink
    from verisal.reporting.loggers import publish
    from verisal.reporting.wandb_sink import WandbSettings, WandbSink

__all__ = [
    "CsvSink", "Explanation", "Picture", "Publication", "Sink", "Table", "WandbSettings", "WandbSink",
    "draw_contact_sheet", "draw_curves", "draw_explanation", "draw_gallery", "draw_histograms",
    "draw_roc", "publish",
]  # fmt: skip

# Lightning takes seconds to import, which a command that only draws need not wait for.
_SLOW = {
    "CsvSink": "csv_sink",
    "publish": "loggers",
    "WandbSettings": "wandb_sink",
    "WandbSink": "wandb_sink",
}


def __getattr__(name: str) -> object:
    """Import a name that needs Lightning when it is first asked for."""
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SLOW[name]}", __name__), name)
