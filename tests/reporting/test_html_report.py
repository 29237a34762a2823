"""The HTML report without a browser: what is in it, what is not, and names with markup."""

import base64
import dataclasses
import hashlib
import re

import numpy as np
import pytest
import torch

from helpers.evaluations import evaluation
from helpers.evil_names import EVIL, FACTS, evil_evaluation, evil_facts
from helpers.html_pages import Parsed, assert_sound
from verisal.callbacks.explaining.publishing import panels_of
from verisal.pictures import png
from verisal.reporting.drawn import DrawnFigure, draw_run
from verisal.reporting.facts import RunFacts
from verisal.reporting.html import html_report, markdown_sections
from verisal.reporting.html.images import Picture, embedded
from verisal.reporting.meanings import meanings
from verisal.reporting.report import write_report
from verisal.results import Evaluation, Score


def noise(seed, side=400):
    """A picture that hardly any file makes smaller."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def drawn(pixels, name, kind="panel"):
    return DrawnFigure(kind, name, f"figures/{name}.png", pixels, png(pixels))


def test_the_report_opens_with_words_then_doubts_then_numbers():
    found = dataclasses.replace(evaluation(), summary=("masks finds 94 % of attacks by cw_l2.", "Second."))
    page = assert_sound(html_report(found, FACTS))
    headings = [words for tag, words in page.words if tag == "h2"]
    assert headings[:3] == ["What was found", "What to distrust", "Results"]
    assert headings[-5:] == ["Words", "What was run, and on what", "Times", "How to repeat it", "Versions"]
    paragraphs = [words for tag, words in page.words if tag == "p"]
    assert "masks finds 94 % of attacks by C&W L2." in paragraphs
    doubts = [words for tag, words in page.words if tag == "li"]
    assert doubts == [
        "FPR 1 % not supported: 64 validation images, 1000 needed",
        "2 of 6 numbers are undefined, and shown as n/a.",
        "1 numbers leave out images that could not be scored, up to 1 of them.",
    ]
    for words in ("8 min 7 s", "verisal fit --config detector", "lr: 0.5", "masks-run: test", "2.15.0"):
        assert words in page.text


def test_every_number_is_in_a_cell_with_its_interval_and_its_images():
    page = assert_sound(html_report(evaluation(), FACTS))
    assert "0.938" in page.text
    assert "0.900 to 0.950" in page.text
    assert "39 images, 1 more could not be scored" in page.text
    assert "test/masks/auroc/pgd_linf_4" in page.text
    captions = [words for tag, words in page.words if tag == "caption"]
    assert captions[:2] == ["AUROC", "False alarms (FPR) at the 5 % threshold"]
    heads = [words for tag, words in page.words if tag == "button"]
    assert heads[:3] == ["name", "C&W L2", "PGD L∞ 4"]
    sortable = [one for one in page.all("th") if one["scope"] == "col"]
    assert all(one["aria-sort"] == "none" for one in sortable)
    assert len(page.all("button")) == len(sortable)


def test_words_that_occur_are_explained_and_no_others():
    names = ["test/masks/auroc/mean_unseen", "test/masks/fpr/clean", "test/gradient/margin_c1"]
    scores = {name: Score(0.75, n=9) for name in names}
    scores["test/a/fpr/x"] = Score(0.5, n=3, few=True)
    explained = meanings(Evaluation("test", scores))
    assert list(explained) == ["AUROC", "FPR", "unseen", "D-WSOL", "c0, c1, c2, c3", "margin", "too few"]
    assert "the second likeliest" in explained["c0, c1, c2, c3"]
    assert meanings(Evaluation("test", {"test/a/loss": Score(1.0, n=9)})) == {}


def test_a_bar_is_where_its_interval_is():
    scores = {f"test/{row}/auroc/x": Score(0.75, 0.6, 0.9, 9) for row in "ab"}
    text = html_report(Evaluation("test", scores), FACTS)
    # From 0.5, which is chance, to 0.9.
    assert text.count('<rect class="range" x="25.0" y="2" width="75.0" height="6"/>') == 2
    assert text.count('<rect class="mark" x="61.7"') == 2
    assert text.count('<rect class="chance" x="-0.4"') == 2


def test_rows_with_other_columns_stand_in_a_table_of_their_own():
    scores = {
        "val/one/deletion[mean]/auc": Score(0.2, 0.1, 0.3, 9),
        "val/two/deletion[mean]/auc": Score(0.4, 0.3, 0.5, 9),
        "val/random/deletion[mean]/auc": Score(0.6, 0.5, 0.7, 9),
        "val/clean/robust/accuracy": Score(0.9, 0.8, 1.0, 9),
        "val/fgsm/robust/accuracy": Score(0.3, 0.2, 0.4, 9),
    }
    headline = {"deletion[mean] ↓": "deletion[mean]/auc", "robust accuracy ↑": "robust/accuracy"}
    page = assert_sound(html_report(Evaluation("val", scores, headline=headline), FACTS))
    captions = [words for tag, words in page.words if tag == "caption"]
    assert captions[:2] == ["Deletion (mean)", "Robust accuracy"]
    assert len([one for one in page.all("td") if one.get("class") == "best"]) == 1  # no best attack
    assert "Deletion (mean) (lower is better): one is best of 2 with 0.200 [0.100, 0.300]" in page.text
    assert "a random map has 0.600." in page.text
    assert page.text.count("control") >= 1


def test_names_with_markup_show_as_text(tmp_path):
    found = evil_evaluation()
    figures = draw_run(tmp_path, found, panels_of(found), {})
    write_report(tmp_path, found, facts=evil_facts(), figures=figures)
    page = assert_sound((tmp_path / "report.html").read_text())
    assert all(one["src"].startswith("data:image/png") for one in page.all("img"))
    shown = [words for _, words in page.words if EVIL in words]
    assert len(shown) > 15
    assert any(EVIL in one["alt"] for one in page.all("img"))
    assert "</li></ul><script>alert(2)</script>" in page.text
    assert f"{EVIL}\\x0a# heading" in page.text


def test_names_with_markup_are_text_in_markdown_too(tmp_path):
    found = evil_evaluation()
    figures = draw_run(tmp_path, found, panels_of(found), {})
    write_report(tmp_path, found, facts=evil_facts(), figures=figures)
    text = (tmp_path / "report.md").read_text()
    assert not re.search(r"<\s*[a-z/!?]", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.IGNORECASE)
    # As another reader of Markdown has it, to whom HTML is HTML.
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Parsed(html)
    assert page.all("script") == []
    sources = [one["src"] for one in page.all("img")]
    assert sources == [figure.file for figure in figures]
    assert all((tmp_path / source).is_file() for source in sources)
    assert f"{EVIL}\\x0a# heading" in page.text
    assert sum(EVIL in words for tag, words in page.words if tag == "td") >= 4
    columns = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL)}
    assert columns <= {2, 3, 4}  # no bar in a name has made a cell


def test_a_file_name_that_is_no_text_does_not_end_the_report(tmp_path):
    name = "caf\udce9.png"
    found = dataclasses.replace(evaluation(), notes=(name,))
    write_report(tmp_path, found, facts=dataclasses.replace(FACTS, name=name))
    for file in ("report.html", "report.md", "report.json"):
        assert "caf\\" in (tmp_path / file).read_text()


def test_the_policy_of_the_page_knows_its_own_style_and_script_alone():
    page = Parsed(html_report(evaluation(), FACTS))
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    for kind in ("style", "script"):
        own = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{own}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch|XMLHttp|eval", "".join(page.raw.values()))


def test_a_page_has_room_for_three_million_bytes_and_says_what_has_none():
    pictures = [drawn(noise(seed, 700), f"noise{seed}") for seed in range(24)]
    text = html_report(evaluation(), FACTS, pictures)
    page = assert_sound(text)
    shown = len(page.all("img"))
    assert 10 < shown <= 24
    assert len(text.encode()) > 2_000_000
    left = [words for tag, words in page.words if tag == "figcaption" and "no room" in words]
    assert len(left) == 24 - shown


def test_pictures_stay_as_they_are_where_there_is_room():
    pictures = [Picture(pixels, png(pixels)) for pixels in (noise(0, 40), noise(1, 200))]
    whole = sum(len(one.content) for one in pictures)
    kept = embedded(pictures, 2 * whole)
    assert [base64.b64decode(one.partition(",")[2]) for one in kept] == [one.content for one in pictures]
    smaller = embedded(pictures, whole)
    assert smaller[0] == kept[0]
    assert len(smaller[1]) < len(kept[1])
    assert embedded(pictures, 10) == ["", ""]


def test_a_large_study_still_fits():
    names = [
        f"test/row{row}/metric{metric}/x{column}"
        for metric in range(12)
        for row in range(25)
        for column in range(50)
    ]
    scores = {name: Score(0.5, 0.4, 0.6, 9) for name in names}
    page = assert_sound(html_report(Evaluation("test", scores), FACTS))
    assert "further tables are too large for this page" in page.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>c</b>", "a <b>c</b>"),
        ("[x](javascript:alert(1)) ![y](http://z)", "y"),
        ("| a |\n|---|\n| <script> |", "<script>"),
    ],
)
def test_foreign_markup_in_markdown_is_text(text, shown):
    page = Parsed(markdown_sections(text))
    assert shown in page.text
    assert not any("href" in attributes or "src" in attributes for _, attributes in page.elements)
    assert page.all("script") == page.all("b") == []


def test_equal_runs_give_equal_pages():
    assert html_report(evaluation(), FACTS) == html_report(evaluation(), FACTS)


def test_nothing_to_report_is_a_page_all_the_same():
    page = assert_sound(html_report(Evaluation("val", {}), RunFacts()))
    assert "0 scores of 0 rows" in page.text
    assert "The run noted nothing." in page.text


def test_maps_and_pictures_of_a_run_are_embedded(tmp_path):
    found = dataclasses.replace(evaluation(panels=2), histograms=evaluation().histograms * 5)
    figures = draw_run(tmp_path, found, panels_of(found), {})
    page = assert_sound(html_report(found, FACTS, figures))
    contents = [base64.b64decode(one["src"].partition(",")[2]) for one in page.all("img")]
    assert sorted(contents) == sorted((tmp_path / one.file).read_bytes() for one in figures)
    assert len({one.file for one in figures}) == len(figures) == 8
    assert len(page.all("details")) == 3  # many histograms, all numbers, all settings
    assert torch.is_tensor(found.curves[0].x)
