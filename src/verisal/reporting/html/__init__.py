"""Reports as one HTML file each: no network, no other file, any browser."""

from verisal.reporting.html.page import Cell, Column, Grid, Line, Page, Section, Shown, render
from verisal.reporting.html.report import html_report
from verisal.reporting.html.text import markdown_sections

__all__ = [
    "Cell", "Column", "Grid", "Line", "Page", "Section", "Shown", "html_report", "markdown_sections",
    "render",
]  # fmt: skip
