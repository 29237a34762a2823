"""Counts that pages state are those of the code."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from verisal.attacks import Attack
from verisal.cli._configs import shipped_configs
from verisal.cli._help import COMMANDS
from verisal.detectors import Detector
from verisal.functional.baselines import Baseline
from verisal.saliency import Saliency

ROOT = Path(__file__).parents[2]
# Pages of studies are written by their commands, which count by themselves.
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "studies"),
    ROOT / "docs/studies/index.md",
]
WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
COUNTED = "alarms|attacks|baselines|callbacks|commands|configs|detectors|methods|metrics"


def exported(room, kind):
    module = import_module(f"verisal.{room}")
    kinds = [thing for name in module.__all__ if inspect.isclass(thing := getattr(module, name))]
    return len([thing for thing in kinds if issubclass(thing, kind) and not inspect.isabstract(thing)])


def settings(name):
    return yaml.safe_load(shipped_configs()[name].read_text())


def detectors_of_the_main_job():
    return len(settings("detector")["model"]["init_args"]["detectors"])


def methods_of(name):
    return len(settings(name)["trainer"]["callbacks"][0]["init_args"]["methods"])


def metrics_of_first_benchmark():
    first, second, _ = settings("first_benchmark")["trainer"]["callbacks"]
    assert second["class_path"] == "DisturbedLocalization"
    return len(first["init_args"]["metrics"]) + 1


FIRST = "docs/tutorials/first_benchmark.md"
STATED = [
    ("README.md", r"(\w+) saliency methods", lambda: exported("saliency", Saliency)),
    ("README.md", r"(\d+) attacks", lambda: exported("attacks", Attack)),
    ("README.md", r"(\d+) detectors", lambda: exported("detectors", Detector)),
    ("README.md", r"(\w+) baseline images", lambda: exported("functional.baselines", Baseline)),
    ("README.md", r"(\d+) callbacks", lambda: exported("callbacks", Callback)),
    ("README.md", r"(\d+) commands", lambda: len(COMMANDS)),
    ("README.md", r"(\d+) configs", lambda: len(shipped_configs())),
    ("README.md", r"compares (\w+) alarms", detectors_of_the_main_job),
    ("docs/benchmark.md", r"(\w+) methods and two controls", lambda: methods_of("benchmark")),
    ("docs/index.md", r"which of (\w+) methods", lambda: methods_of("first_benchmark")),
    ("docs/tutorials/index.md", r"which of (\w+) methods", lambda: methods_of("first_benchmark")),
    (FIRST, r"(\w+) methods by \w+ metrics", lambda: methods_of("first_benchmark")),
    (FIRST, r"\w+ methods by (\w+) metrics", metrics_of_first_benchmark),
]


def read(page):
    return (ROOT / page).read_text()


def number(word):
    return WORDS.get(word.lower()) or int(word)


@pytest.mark.parametrize(("page", "statement", "count"), STATED)
def test_a_stated_count_is_that_of_the_code(page, statement, count):
    found = re.findall(statement, read(page))
    assert found, statement
    assert {number(word) for word in found} == {count()}


def test_no_page_states_a_count_that_nothing_holds():
    """Such as "the four commands" or "19 detectors": with an article, or of five or more."""
    between = r"( (?!(?:are|for|if|of|under)\b)\w+)?"
    pattern = re.compile(rf"\b(the )?(\d+|{'|'.join(WORDS)}){between} ({COUNTED})\b", re.IGNORECASE)
    held = {(page, word) for page, statement, _ in STATED for word in re.findall(statement, read(page))}
    # Ten false alarms that a rate needs, and the methods of a study, of its picture and of an example.
    held |= {
        ("docs/clusters.md", "14"),
        ("docs/metrics.md", "ten"),
        ("docs/map_attacks.md", "ten"),
        ("docs/studies/index.md", "six"),
    }
    loose = []
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        for article, word, adjective, noun in pattern.findall(path.read_text()):
            if (article or number(word) >= 5) and (page, word) not in held:
                loose.append(f"{page}: {article}{word}{adjective} {noun}")
    assert loose == []


def test_the_readme_is_short_and_names_the_right_python():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert text.index("pip install 'verisal[") < text.index("```python")
    (least,) = re.findall(r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"Python {least} or newer" in text
    assert f"Python {least} or newer" in (ROOT / "docs/contributing.md").read_text()
