"""Studies as pages: what is judged, written, and the same each time."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from helpers.html_pages import assert_sound
from verisal.data import ImageData
from verisal.errors import ConfigError
from verisal.reporting import CsvSink
from verisal.results import Evaluation, Score
from verisal.tasks import FrozenClassifierTask
from verisal_studies import (
    Finding,
    Section,
    Study,
    StudyFigure,
    StudyPage,
    StudyResult,
    Verdict,
    page_text,
    write_page,
)
from verisal_studies.html_page import html_page
from verisal_studies.scores import Scores, cell, difference_word, ratio_of_means, table

ROOT = Path(__file__).parents[2]


def _finding(verdict: Verdict) -> Finding:
    return Finding("maps answer", "D1 is below 0.1", verdict, "D1 0.05 [0.01, 0.09]")


def _result(*verdicts: Verdict, sections: tuple[Section, ...] = ()) -> StudyResult:
    return StudyResult(
        title="Do maps answer?",
        claim="It was claimed that they do.",
        commands=("verisal validate --config x.yaml",),
        setting={"images": "4"},
        findings=tuple(_finding(verdict) for verdict in verdicts),
        summary="They do, mostly.",
        sections=sections,
    )


def test_a_page_is_one_html_file_with_its_pictures():
    pixels = np.full((4, 5, 3), 7, dtype=np.uint8)
    evil = "<img src=x onerror=alert(1)>"
    text = f"See [masks](masks.md) and `{evil}`.\n\n| `a` | {evil} |\n|---|---|\n| 0.5 | **b** |"
    section = Section("Maps", text, (StudyFigure("maps", f"three {evil}", pixels),))
    page = assert_sound(
        html_page(_result("holds", "does not hold here", sections=(section,)), notes=(f"of {evil}",))
    )
    assert len(page.all("img")) == 1
    assert page.all("img")[0]["alt"] == f"three {evil}"
    said = [words for tag, words in page.words if tag in ("p", "li")]
    assert "Verdict: holds in part. They do, mostly." in said
    assert "maps answer: does not hold here." in said
    assert f"of {evil}" in said
    assert "See masks and " in said
    assert page.text.count(evil) >= 4
    assert "verisal validate --config x.yaml" in page.text
    heads = [words for tag, words in page.words if tag == "th"]
    assert heads[:4] == ["claim", "holds when", "verdict", "evidence"]


def test_html_in_a_name_is_text_on_the_page():
    evil = "<img src=x onerror=alert(1)>"
    setting = {evil: f"a {evil} and `{evil}`"}
    result = StudyResult(**{**vars(_result("holds")), "setting": setting, "summary": evil})
    text = page_text(result, "figures")
    assert "&lt;img src=x onerror=alert(1)> | a &lt;img src=x onerror=alert(1)> and `<img" in text
    assert "**Verdict: holds.** &lt;img" in text


class _Counts(Study):
    """A study of how many scores there are."""

    def result(self, found: Evaluation) -> StudyResult:
        """Their number is the summary."""
        shown = _result("holds")
        return StudyResult(**{**vars(shown), "summary": f"{len(found.scores)} scores."})


@pytest.mark.parametrize(
    ("found", "together"),
    [
        (("holds", "holds"), "holds"),
        (("does not hold here", "does not hold here"), "does not hold here"),
        (("holds", "does not hold here"), "holds in part"),
        (("cannot be said", "holds"), "holds in part"),
        (("cannot be said",), "cannot be said"),
    ],
)
def test_the_verdict_is_what_all_claims_have_in_common(found, together):
    assert _result(*found).verdict == together


def test_a_study_judges_something():
    with pytest.raises(ConfigError, match="at least one claim"):
        _result()


def test_figures_have_names_of_their_own():
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    twice = (Section("a", "", (StudyFigure("f", "f", pixels), StudyFigure("f", "g", pixels))),)
    with pytest.raises(ConfigError, match="names of their own"):
        _result("holds", sections=twice)


def test_a_page_states_claim_setting_rule_evidence_and_verdict(tmp_path):
    pixels = np.full((4, 5, 3), 7, dtype=np.uint8)
    section = Section("Maps", "| a |\n|---|", (StudyFigure("maps", "three maps", pixels),))
    path = tmp_path / "pages" / "answers.md"
    write_page(_result("holds", "does not hold here", sections=(section,)), path)
    text = path.read_text()
    assert text.splitlines()[2] == "**Verdict: holds in part.** They do, mostly."
    for part in (
        "verisal validate --config x.yaml",
        "It was claimed",
        "| images | 4 |",
        "| maps answer | D1 is below 0.1 | **does not hold here** | D1 0.05 [0.01, 0.09] |",
        "![three maps](answers/maps.png)",
    ):
        assert part in text
    assert (tmp_path / "pages" / "answers" / "maps.png").stat().st_size > 0
    assert text == page_text(_result("holds", "does not hold here", sections=(section,)), "answers")


def _evaluation() -> Evaluation:
    lines = [("a", "one", 1.0), ("b", "one", 3.0), ("a", "two", 2.0), ("c", "two", 5.0), ("b", "two", 7.0)]
    samples = {
        "image_id": [image for image, _, _ in lines],
        "row": [row for _, row, _ in lines],
        "score": ["area[x]"] * len(lines),
        "value": [value for _, _, value in lines],
    }
    return Evaluation("val", {}, samples=samples)


def test_scores_are_paired_by_image():
    scores = Scores(_evaluation())
    assert scores.rows() == ["one", "two"]
    assert scores.stacked([("one", "area[x]"), ("two", "area[x]")]).tolist() == [[1.0, 3.0], [2.0, 7.0]]
    assert scores.difference(("two", "area[x]"), ("one", "area[x]")).value == 2.5
    assert scores.mean("two", "area[x]").value == pytest.approx(14 / 3)
    assert scores.name("one", "area.*") == "area[x]"


def test_a_missing_score_is_named():
    scores = Scores(_evaluation())
    with pytest.raises(ConfigError, match=r"reads 'depth' of 'one'.*area\[x\]"):
        scores.values("one", "depth")
    with pytest.raises(ConfigError, match=r"found \[\] among \['area\[x\]'\]"):
        scores.name("one", "depth")


def test_an_interval_decides():
    assert difference_word(Score(-1, -2, -0.5, n=3), "low") == "better"
    assert difference_word(Score(-1, -2, -0.5, n=3), "high") == "worse"
    assert difference_word(Score(-1, -2, 0.5, n=3), "low") == "open"
    assert difference_word(Score(1, torch.nan, torch.nan, n=1), "high") == "open"


def test_ratios_leave_out_what_is_undefined():
    found = ratio_of_means(torch.tensor([[1.0, 2.0, torch.nan], [2.0, 4.0, 1.0]], dtype=torch.float64))
    assert (found.value, found.low, found.high, found.n, found.undefined) == (0.5, 0.5, 0.5, 2, 1)
    assert ratio_of_means(torch.full((2, 1), torch.nan)).n == 0


def test_cells_and_tables():
    assert cell(Score(0.5, 0.25, 0.75, n=2)) == "0.500 [0.250, 0.750]"
    assert cell(Score(12.3456, torch.nan, torch.nan, n=2)) == "12.35"
    assert cell(Score(torch.nan, torch.nan, torch.nan, n=0)) == "n/a"
    assert table(["", "x"], {"a": ["1"]}) == "|  | x |\n|---|---|\n| `a` | 1 |"


def _run(folder, page=None) -> str:
    data = ImageData(val_count=2, val_split="det_test", image_size=64, batch_size=2, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        logger=CsvSink(folder),
        callbacks=[StudyPage(_Counts(commands=()), page=page)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
    )
    trainer.validate(FrozenClassifierTask(classifier="emoji_scenes_64"), data, verbose=False)
    assert_sound((folder / "study.html").read_text())
    return (folder / "study.md").read_text()


def test_a_run_writes_its_page_the_same_each_time(tmp_path):
    page = tmp_path / "docs" / "counts.md"
    text = _run(tmp_path / "one", page)
    assert "scores." in text.splitlines()[2]
    assert "0 scores" not in text
    assert page.read_text() == text == _run(tmp_path / "two")


def test_the_list_of_studies_tells_the_verdicts_of_the_pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    rows = import_module("study_verdicts").table()
    assert rows.count("\n") == 4
    assert rows in (ROOT / "docs/studies/index.md").read_text(encoding="utf-8")
