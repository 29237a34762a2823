"""Places for results: CSV files, Weights & Biases, figures, and the report of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

from verisal.pictures import write_png
from verisal.reporting.explanations import Explanation, draw_contact_sheet, draw_explanation, draw_gallery
from verisal.reporting.figures import (
    draw_curves,
    draw_histograms,
    draw_roc,
    heatmap_pixels,
    panel_pixels,
    saliency_panel_pixels,
)
from verisal.reporting.publication import Picture, Publication, Sink, Table, main_table, merge_evaluations
from verisal.reporting.report import (
    RunFacts,
    installed_versions,
    print_results,
    result_table,
    write_report,
    write_samples,
)
from verisal.reporting.run_folder import RunFolder, create_run_folder, find_run_of, open_run_folder

if TYPE_CHECKING:
    from verisal.reporting.csv_sink import CsvSink
    from verisal.reporting.loggers import Outlets, folder_of, publish
    from verisal.reporting.wandb_sink import WandbSettings, WandbSink, wandb_logger

__all__ = [
    "CsvSink", "Explanation", "Outlets", "Picture", "Publication", "RunFacts", "RunFolder", "Sink", "Table",
    "WandbSettings", "WandbSink", "create_run_folder", "draw_contact_sheet", "draw_curves",
    "draw_explanation", "draw_gallery", "draw_histograms", "draw_roc", "find_run_of", "folder_of",
    "heatmap_pixels", "installed_versions", "main_table", "merge_evaluations", "open_run_folder",
    "panel_pixels", "print_results", "publish", "result_table", "saliency_panel_pixels", "wandb_logger",
    "write_png", "write_report", "write_samples",
]  # fmt: skip

# Lightning takes seconds to import, which a command that only draws need not wait for.
_SLOW = {
    "CsvSink": "csv_sink",
    "Outlets": "loggers",
    "folder_of": "loggers",
    "publish": "loggers",
    "WandbSettings": "wandb_sink",
    "WandbSink": "wandb_sink",
    "wandb_logger": "wandb_sink",
}


def __getattr__(name: str) -> object:
    """Import a name that needs Lightning when it is first asked for."""
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SLOW[name]}", __name__), name)
