"""Where results go: CSV files, Weights & Biases, figures, and the report of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._answers import answer_maps_pixels as answer_maps_pixels
from ._answers import dots_pixels as dots_pixels
from ._answers import rank_lines_pixels as rank_lines_pixels
from ._answers import tradeoff_pixels as tradeoff_pixels
from ._base import Picture as Picture
from ._base import Publication as Publication
from ._base import Sink as Sink
from ._base import Table as Table
from ._benchmark_figures import saliency_panel_pixels as saliency_panel_pixels
from ._explain_figure import Explanation as Explanation
from ._explain_figure import draw_contact_sheet as draw_contact_sheet
from ._explain_figure import draw_explanation as draw_explanation
from ._gallery import draw_gallery as draw_gallery
from ._heatmap import heatmap_pixels as heatmap_pixels
from ._interval_figure import interval_pixels as interval_pixels
from ._main_table import main_table as main_table
from ._main_table import merge_evaluations as merge_evaluations
from ._study_figures import map_table_pixels as map_table_pixels
from ._study_figures import matrices_pixels as matrices_pixels
from .figures import draw_curves as draw_curves
from .figures import draw_histograms as draw_histograms
from .figures import draw_roc as draw_roc
from .figures import panel_pixels as panel_pixels
from .figures import write_png as write_png
from .report import RunFacts as RunFacts
from .report import installed_versions as installed_versions
from .report import print_results as print_results
from .report import result_table as result_table
from .report import write_report as write_report
from .report import write_samples as write_samples
from .run_folder import RunFolder as RunFolder
from .run_folder import create_run_folder as create_run_folder
from .run_folder import find_run_of as find_run_of
from .run_folder import open_run_folder as open_run_folder

if TYPE_CHECKING:
    from .csv_sink import CsvSink as CsvSink
    from .csv_sink import csv_logger as csv_logger
    from .wandb_sink import WandbSettings as WandbSettings
    from .wandb_sink import WandbSink as WandbSink
    from .wandb_sink import wandb_logger as wandb_logger

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
