"""Where results go: CSV files, Weights & Biases, figures, and the report of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

from verisal.reporting._answers import answer_maps_pixels, dots_pixels, rank_lines_pixels, tradeoff_pixels
from verisal.reporting._base import Picture, Publication, Sink, Table
from verisal.reporting._benchmark_figures import saliency_panel_pixels
from verisal.reporting._explain_figure import Explanation, draw_contact_sheet, draw_explanation
from verisal.reporting._gallery import draw_gallery
from verisal.reporting._heatmap import heatmap_pixels
from verisal.reporting._interval_figure import interval_pixels
from verisal.reporting._main_table import main_table, merge_evaluations
from verisal.reporting._study_figures import map_table_pixels, matrices_pixels
from verisal.reporting.figures import draw_curves, draw_histograms, draw_roc, panel_pixels, write_png
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
    from verisal.reporting.csv_sink import CsvSink, csv_logger
    from verisal.reporting.wandb_sink import WandbSettings, WandbSink, wandb_logger

__all__ = [
    "CsvSink",
    "Explanation",
    "Picture",
    "Publication",
    "RunFacts",
    "RunFolder",
    "Sink",
    "Table",
    "WandbSettings",
    "WandbSink",
    "answer_maps_pixels",
    "create_run_folder",
    "csv_logger",
    "dots_pixels",
    "draw_contact_sheet",
    "draw_curves",
    "draw_explanation",
    "draw_gallery",
    "draw_histograms",
    "draw_roc",
    "find_run_of",
    "heatmap_pixels",
    "installed_versions",
    "interval_pixels",
    "main_table",
    "map_table_pixels",
    "matrices_pixels",
    "merge_evaluations",
    "open_run_folder",
    "panel_pixels",
    "print_results",
    "rank_lines_pixels",
    "result_table",
    "saliency_panel_pixels",
    "tradeoff_pixels",
    "wandb_logger",
    "write_png",
    "write_report",
    "write_samples",
]

# Lightning takes seconds to import, which a command that only draws need not wait for.
_SLOW = {
    "CsvSink": "csv_sink",
    "WandbSettings": "wandb_sink",
    "WandbSink": "wandb_sink",
    "csv_logger": "csv_sink",
    "wandb_logger": "wandb_sink",
}


def __getattr__(name: str) -> object:
    """What needs Lightning, imported when it is first asked for."""
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SLOW[name]}", __name__), name)
