"""Places for results: CSV files, Weights & Biases, figures, and the report of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verisal.reporting.csv_sink import CsvSink
    from verisal.reporting.curves import draw_curves, draw_roc
    from verisal.reporting.explanations import (
        Explanation,
        draw_contact_sheet,
        draw_explanation,
        draw_gallery,
    )
    from verisal.reporting.histograms import draw_histograms
    from verisal.reporting.loggers import publish
    from verisal.reporting.publication import Picture, Publication, Sink, Table
    from verisal.reporting.wandb_mode import WandbSettings
    from verisal.reporting.wandb_sink import WandbSink

__all__ = [
    "CsvSink", "Explanation", "Picture", "Publication", "Sink", "Table", "WandbSettings", "WandbSink",
    "draw_contact_sheet", "draw_curves", "draw_explanation", "draw_gallery", "draw_histograms",
    "draw_roc", "publish",
]  # fmt: skip

# torch, matplotlib and Lightning take seconds to import: a command that lists runs needs none of them.
_PLACES = {
    "CsvSink": "csv_sink",
    "Explanation": "explanations",
    "Picture": "publication",
    "Publication": "publication",
    "Sink": "publication",
    "Table": "publication",
    "WandbSettings": "wandb_mode",
    "WandbSink": "wandb_sink",
    "draw_contact_sheet": "explanations",
    "draw_curves": "curves",
    "draw_explanation": "explanations",
    "draw_gallery": "explanations",
    "draw_histograms": "histograms",
    "draw_roc": "curves",
    "publish": "loggers",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
