"""The HTML report in a real browser: no error, no request, sorting, keys, paper and small screens."""

import dataclasses

import pytest

from helpers.browser import CHROMIUM, DRIVER, MISSING, browser, printed
from helpers.evaluations import evaluation
from helpers.evil_names import EVIL, FACTS, evil_evaluation, evil_facts
from verisal.callbacks.explaining.publishing import panels_of
from verisal.reporting.drawn import draw_run
from verisal.reporting.report import write_report
from verisal.results import Evaluation, Score

pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)


@pytest.fixture(scope="module")
def window():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with tables, figures and closed parts."""
    folder = tmp_path_factory.mktemp("report")
    scores = {
        f"test/{row}/auroc/{attack}": Score(value, value - 0.05, value + 0.02, 40)
        for row, values in (("masks", (0.9, 0.7)), ("logits", (0.8, 0.95)), ("kde", (0.6, 0.5)))
        for attack, value in zip(("pgd", "cw_l2"), values, strict=True)
    }
    found = dataclasses.replace(evaluation(), scores=scores, histograms=evaluation().histograms * 4)
    figures = draw_run(folder, found, panels_of(found), {})
    write_report(folder, found, facts=FACTS, figures=figures)
    return folder / "report.html"


def names(window):
    return window.run("return [...document.querySelectorAll('.numbers tbody th')].map(x => x.textContent)")


def test_it_opens_without_an_error_or_a_request(window, report):
    window.errors()
    window.open(report)
    assert window.errors() == []
    assert window.run("return performance.getEntriesByType('resource').map(x => x.name)") == []
    sizes = window.run("return [...document.images].map(x => [x.complete, x.naturalWidth > 0])")
    assert len(sizes) == 6
    assert all(sizes)
    assert window.run("return document.documentElement.lang") == "en"


def test_a_heading_sorts_by_its_column(window, report):
    window.open(report)
    assert names(window) == ["masks", "logits", "kde"]
    click = "document.querySelectorAll('.numbers thead button')[{}].click()"
    window.run(click.format(2))
    assert names(window) == ["logits", "masks", "kde"]
    window.run(click.format(2))
    assert names(window) == ["kde", "masks", "logits"]
    state = "return document.querySelectorAll('.numbers thead th')[2].ariaSort"
    assert window.run(state) == "ascending"
    window.run(click.format(0))
    assert names(window) == ["kde", "logits", "masks"]
    assert window.run("return document.querySelectorAll('.numbers thead th')[2].ariaSort") == "none"
    assert window.run("return document.getElementById('said').textContent") == "sorted by name, ascending"


def test_the_keyboard_reaches_links_and_sorts(window, report):
    window.open(report)
    tab, enter = "\ue004", "\ue007"
    window.press(tab)
    assert window.run("return document.activeElement.className") == "skip"
    assert window.run("return document.activeElement.getBoundingClientRect().left >= 0")
    window.run("document.querySelectorAll('.numbers thead button')[1].focus()")
    window.press(tab)
    assert window.run("return document.activeElement.textContent") == "C&W L2"
    window.press(enter)
    assert names(window) == ["logits", "masks", "kde"]


def test_every_link_leads_somewhere(window, report):
    window.open(report)
    lost = "return [...document.links].filter(x => !document.querySelector(x.hash)).length"
    assert window.run(lost) == 0
    assert window.run("return document.links.length") > 8
    assert window.run("return [...document.links].filter(x => x.protocol != 'file:').length") == 0


def test_counts_are_where_the_pointer_is_and_in_every_cell_on_request(window, report):
    window.open(report)
    seen = "return getComputedStyle(document.querySelector('.more')).opacity"
    assert window.run(seen) == "0"
    window.point_at(".numbers tbody td .value")
    assert window.run(seen) == "1"
    window.point_at("h1")
    window.run("document.getElementById('counts').click()")
    assert window.run("return getComputedStyle(document.querySelector('.more')).position") == "static"
    assert window.run("return document.querySelector('.more').textContent").startswith("40 images")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(window, report, scheme):
    """Contrast of text and soft text as WCAG 2 asks for, in both schemes."""
    window.prefer(scheme)
    window.open(report)
    for selector in ("body", ".note", ".doubts li", ".ends", "nav a", ".kind"):
        assert window.run(_CONTRAST.replace("SELECTOR", selector)) >= 4.5, selector
    assert (window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (
        scheme == "light"
    )
    window.prefer("light")


_CONTRAST = """
const light = (colour) => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const element = document.querySelector("SELECTOR");
let behind = element;
while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
const both = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
"""


def test_a_small_screen_scrolls_tables_alone(window, report):
    window.resize(390, 844)
    window.open(report)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    window.resize(1200, 900)


def test_closed_parts_are_printed(window, report, tmp_path):
    window.open(report)
    window.run("dispatchEvent(new Event('beforeprint'))")
    assert window.run("return document.querySelectorAll('details:not([open])').length") == 0
    window.run("dispatchEvent(new Event('afterprint'))")
    assert window.run("return document.querySelectorAll('details[open]').length") == 0
    printed(report, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_names_with_markup_run_nothing(window, tmp_path):
    found = evil_evaluation()
    figures = draw_run(tmp_path, found, panels_of(found), {})
    write_report(tmp_path, found, facts=evil_facts(), figures=figures)
    window.errors()
    # An alert would end the next call with an error.
    window.open(tmp_path / "report.html")
    assert window.run("return document.scripts.length") == 1
    assert window.run("return document.querySelectorAll('img:not(figure > img)').length") == 0
    assert EVIL in str(window.run("return document.body.innerText"))
    assert EVIL in str(window.run("return document.title"))
    assert window.errors() == []


def test_what_slips_in_is_refused_by_the_policy(window, report, tmp_path):
    evil = report.read_text().replace("</main>", '<img src="x" onerror="document.title = \'evil\'"></main>')
    (tmp_path / "evil.html").write_text(evil)
    window.open(tmp_path / "evil.html")
    assert window.run("return document.title") == "masks-run: test"
    assert any("Content Security Policy" in error for error in window.errors())


def test_a_page_without_scores_opens(window, tmp_path):
    write_report(tmp_path, Evaluation("val", {}), facts=FACTS)
    window.open(tmp_path / "report.html")
    assert window.errors() == []
