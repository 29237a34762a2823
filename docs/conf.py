"""Settings of the site: make docs builds it from this folder."""

import sys
from html import escape
from pathlib import Path

from docutils.nodes import Element, SkipNode
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "src")]

project = "verisal"
copyright = "the authors of verisal, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# Headings down to the fourth can be linked to; a link to one that does not exist is an error (-W).
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Differs from"]
python_maximum_signature_line_length = 100
# Sequence and Tensor are names of several modules; none of them has a page here.
suppress_warnings = ["ref.python"]

html_theme = "pydata_sphinx_theme"
html_title = "verisal"
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_context = {"default_mode": "auto"}
html_math_renderer = "source"
html_sidebars = {"index": [], "glossary": [], "search": []}
html_show_sourcelink = False
# Summaries would be fetched, which browsers refuse for files.
html_show_search_summary = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    """Put parts that are made from the code into their places, and show formulas as they are written."""

    def fill(app: Sphinx, name: str, source: list[str]) -> None:
        if "<!-- generated: " in source[0]:
            import reference_pages

            source[0] = reference_pages.filled(source[0])

    def formula(translator: HTML5Translator, node: Element) -> None:
        # Programs that draw formulas come from the network, or need LaTeX.
        translator.body.append(f"<code>{escape(node.astext())}</code>")
        raise SkipNode

    app.connect("source-read", fill)
    app.add_html_math_renderer("source", (formula, None), (formula, None))
