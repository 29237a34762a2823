"""Print the table of docs/studies/index.md: python scripts/study_verdicts.py.

Verdict and sentence of each are those of its page beside it, which its own command writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "studies"
SHOWN = ("reliable_saliency", "decoys", "input_perturbations")
_VERDICT = re.compile(r"^\*\*Verdict: (?P<verdict>[^*]+)\.\*\* (?P<summary>.+)$", re.MULTILINE)


def table() -> str:
    """Title, verdict and sentence of each study, as Markdown."""
    return "\n".join(["| study | verdict | in short |", "|---|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for name in SHOWN:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        found = _VERDICT.search(text)
        if found is None:
            raise SystemExit(f"{name}.md has no verdict; run the command that it names")
        title = text.partition("\n")[0].removeprefix("# ")
        yield f"| [{title}]({name}.md) | **{found['verdict']}** | {found['summary']} |"


if __name__ == "__main__":
    print(table())
