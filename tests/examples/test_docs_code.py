"""Every block of Python code in the documents runs, in the order in which a reader meets them."""

import doctest
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.read_text() for path in (ROOT / "scripts/examples").glob("*.py")}
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [
    path
    for path in (*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md")
    if BLOCKS.search(path.read_text())
]


def _globals():
    return {"__name__": "__document__"}


def _run(path, text, names):
    """Execute the blocks of ``text`` in turn in ``names``; ``>>>`` blocks say what they print.

    Examples are scripts with a test of their own.
    """
    for found in BLOCKS.finditer(text):
        if found.group(1) in EXAMPLES:
            continue
        line = text.count("\n", 0, found.start(1))
        if found.group(1).startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(found.group(1), names, path.name, str(path), line)
            runner = doctest.DebugRunner(verbose=False)
            runner.run(test, clear_globs=False)
            names.update(test.globs)
        else:
            # Empty lines first, so that a failure names the line of the document.
            exec(compile("\n" * line + found.group(1), str(path), "exec"), names)  # noqa: S102 - our own documents


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    _run(path, path.read_text(), _globals())


def test_a_block_that_fails_or_prints_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(ZeroDivisionError):
        _run(page, "```python\nzero = 0\n```\nthen\n```python\n1 / zero\n```\n", _globals())
    with pytest.raises(doctest.DocTestFailure):
        _run(page, "```python\n>>> 1 + 1\n3\n```\n", _globals())


def test_no_code_is_hidden_from_this_test():
    """A fence in another notation would not be executed."""
    other = re.compile(r"^[ \t]*(?:~~~|```[ ]?(?:py|python3|pycon|Python)\b)|^[ \t]+```python", re.MULTILINE)
    assert [path.name for path in (ROOT / "docs").rglob("*.md") if other.search(path.read_text())] == []
