"""The site is built strictly, links of the README lead into it, and it is searched without a network."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.browser import CHROMIUM, DRIVER, MISSING, browser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
for package in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
    pytest.importorskip(package, reason="needs the extra docs")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def built(source, target):
    """What the builder of the site says, with the settings of ``make docs``."""
    words = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going"]
    words += ["--quiet", "--doctree-dir", str(target / ".doctrees"), "--conf-dir", str(DOCS)]
    return subprocess.run(  # noqa: S603 - our own pages
        [*words, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = built(DOCS, target)
    assert done.returncode == 0, done.stderr[-5000:]
    return target


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("See [another page](nowhere.md).", "nowhere.md"),
        ("See [a heading](#no-such-heading).", "no-such-heading"),
        ("![picture](nothing.png)", "nothing.png"),
        (None, "isn't included in any toctree"),
    ],
)
def test_what_leads_nowhere_is_an_error(page, said, tmp_path):
    source = tmp_path / "pages"
    source.mkdir()
    (source / "index.md").write_text(f"# Start\n\n{page or 'Nothing.'}\n")
    if page is None:
        (source / "lonely.md").write_text("# Lonely\n\nNobody knows me.\n")
    done = built(source, tmp_path / "site")
    assert done.returncode != 0
    assert said in done.stderr


def test_links_of_the_readme_lead_to_headings_of_the_site(site):
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(docs/([\w/.]+)\.md(?:#([\w-]+))?\)", text)
    assert len(links) > 20
    for page, heading in links:
        html = (site / f"{page}.html").read_text()
        assert not heading or f'id="{heading}"' in html, (page, heading)


def test_the_reference_holds_what_the_code_has(site):
    metrics = (site / "reference/metric_names.html").read_text()
    assert "val/method/relevance_gap" in metrics
    assert "test/row/tpr_at_fpr5/attack" in metrics
    assert "verisal.saliency.EvidenceMasks" in (site / "reference/api/saliency.html").read_text()
    assert "usage: verisal fit" in (site / "reference/commands.html").read_text()
    assert "generated:" not in metrics
    glossary = (site / "glossary.html").read_text()
    words = (
        "row", "head", "member", "kept", "stage", "gate", "evidence", "margin", "response", "present",
        "right-or-rejected", "view", "decoy",
    )  # fmt: skip
    assert [word for word in words if f'id="term-{word}"' not in glossary] == []


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)
def test_it_opens_as_a_file_and_finds_a_word(site, tmp_path):
    with browser() as window:
        window.errors()
        window.open(site / "index.html")
        assert _loud(window) == []
        assert window.run("return document.querySelector('h1').textContent").startswith("verisal")
        sizes = window.run("return [...document.images].map(x => x.naturalWidth > 0)")
        assert sizes
        assert all(sizes)
        window.run("location.href = 'search.html?q=decoy'")
        links = "return [...document.querySelectorAll('ul.search li a')].map(x => x.href)"
        found = _waited_for(window, links)
        assert any("decoys.html" in address for address in found)
        assert all(address.startswith("file:") for address in found)
        assert _loud(window) == []
        # Formulas are on this one.
        window.open(site / "reference/api/saliency.html")
        assert _loud(window) == []


def _loud(window):
    """What the console says, without the notes of the theme on its own doings."""
    return [error for error in window.errors() if "[PST]" not in error]


def _waited_for(window, script):
    end = time.monotonic() + 60
    while not (found := window.run(script)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def test_every_notebook_of_the_pages_is_linked_and_has_no_output():
    """Outputs would be of another version of the code, and are large."""
    notebooks = sorted(DOCS.rglob("*.ipynb"))
    assert notebooks
    for notebook in notebooks:
        assert '"outputs": []' in notebook.read_text()
        assert '"execution_count": 1' not in notebook.read_text()
        assert f"({notebook.name})" in (notebook.with_suffix(".md")).read_text()
