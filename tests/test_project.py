"""The project's own files: pins, addresses, documents, and the order of the house."""

import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from verisal import __main__ as entry_module
from verisal.cli import main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in (
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
}
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text) for group in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for text in group
]
THIRD_PARTY = [requirement for requirement in REQUIREMENTS if requirement.name != "verisal"]


def tracked():
    listing = ["git", "ls-files", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S603 - constant
    return [ROOT / name for name in names.decode().split("\0") if name and (ROOT / name).is_file()]


def texts():
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@pytest.fixture
def lowest_versions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("lowest_versions")


def range_of(name):
    return next(requirement.specifier for requirement in REQUIREMENTS if requirement.name == name)


def test_pins_are_plain():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


@pytest.mark.parametrize("requirement", THIRD_PARTY, ids=str)
def test_every_requirement_has_a_pin_in_its_range(requirement):
    assert requirement.url is None
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_least_versions_are_those_that_the_command_checks_and_the_readme_states(lowest_versions):
    torch = ".".join(str(part) for part in entry_module._TORCH)
    assert str(range_of("torch")) == f">={torch}"
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert entry_module._python_problem((*(int(part) for part in python.split(".")), 0)) is None
    before = entry_module._python_problem((3, int(python.split(".")[1]) - 1, 99))
    assert before.startswith(f"Python {python} or newer is needed")
    assert f"(3, {python.split('.')[1]})" in (ROOT / "Makefile").read_text()
    least = lowest_versions.lowest()
    stated = f"Python {python} or newer, torch {torch} or newer, Lightning {least['lightning']} or newer"
    assert stated in " ".join((ROOT / "README.md").read_text().split())


def test_the_page_for_contributors_states_every_least_version(lowest_versions):
    page = (ROOT / "docs/contributing.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \|", page, re.MULTILINE))
    of_package = {requirement.name for requirement in map(Requirement, PROJECT["project"]["dependencies"])}
    assert rows == {name: text for name, text in lowest_versions.lowest().items() if name in of_package}


def test_the_environment_of_lowest_versions_has_the_least_of_every_range(lowest_versions):
    least = lowest_versions.lowest()
    ranges = {requirement.name: requirement.specifier for requirement in THIRD_PARTY}
    assert set(least) == {name for name, versions in ranges.items() if versions}
    assert [name for name in least if f">={least[name]}" not in str(ranges[name]).split(",")] == []
    assert [name for name in least if least[name] not in ranges[name]] == []
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in lowest_versions.pins()}
    bare = {canonicalize_name(name) for name, versions in ranges.items() if not versions}
    assert bare - pinned == lowest_versions._LINTERS
    assert pinned <= bare


def test_an_environment_of_lowest_versions_takes_no_folder_of_something_else(
    tmp_path, monkeypatch, capsys, lowest_versions
):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["lowest_versions.py", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        lowest_versions.main()
    assert caught.value.code == 2
    assert f"{tmp_path} has files that are not of this script; name a new folder" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_range_keeps_out_the_hostile_lightning_uploads():
    assert not any(version in range_of("lightning") for version in ("2.6.2", "2.6.3"))
    assert {"2.5.2", "2.6.1", "2.6.6"} <= set(range_of("lightning").filter(["2.5.2", "2.6.1", "2.6.6"]))


def test_no_albumentationsx_anywhere():
    assert not [name for name in PINS if "albumentationsx" in name]
    assert not [entry for entry in distributions() if canonicalize_name(entry.name) == "albumentationsx"]


def test_one_opencv_the_headless_one():
    assert [name for name in PINS if name.startswith("opencv")] == ["opencv-python-headless"]


def test_what_runs_here_is_what_is_pinned():
    """The pins cover the whole tree: nothing that runs the tests comes unpinned."""
    installed = {canonicalize_name(entry.name): Version(entry.version) for entry in distributions()}
    names = {name for name in _needed() if name in installed}
    assert {name: installed[name] for name in names} == {name: PINS.get(name) for name in names}
    stray = {name for name in PINS if name in installed} - names
    assert stray == set()


def _needed():
    """Names that the package and all its extras pull in, on this machine."""
    found = {canonicalize_name(entry.name): entry for entry in distributions()}
    todo, seen = [(requirement.name, requirement.extras) for requirement in THIRD_PARTY], set()
    while todo:
        name, extras = canonicalize_name(todo[0][0]), tuple(sorted(todo.pop(0)[1]))
        if (name, extras) in seen or name not in found:
            continue
        seen.add((name, extras))
        for requirement in map(Requirement, found[name].requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                todo.append((requirement.name, requirement.extras))
    return {name for name, _ in seen}


def test_no_registry_address_anywhere():
    # Put together here, so that this file does not find itself.
    words = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "download.pytorch" + ".org",
        "index" + "-url",
        "find" + "-links",
    ]
    found = [f"{path.relative_to(ROOT)}: {word}" for path, text in texts() for word in words if word in text]
    assert found == []


def test_no_path_of_one_machine_anywhere():
    own = re.compile("/" + r"(work|home|root|Users)/\w")
    found = [str(path.relative_to(ROOT)) for path, text in texts() if own.search(text)]
    assert found == []


def test_no_large_file_but_the_weights():
    large = [path for path in tracked() if path.stat().st_size > 100 * 1024]
    assert [path for path in large if "weights" not in path.parts] == []
    assert all(path.stat().st_size <= 2 * 1024**2 for path in large)


def test_each_test_file_has_a_name_of_its_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_cited_keys_are_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text(), re.MULTILINE))
    cited = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                section = re.search(r"References:\n((?:[ ]+\S.*\n?)+)", ast.get_docstring(node) or "")
                if section:
                    cited |= set(re.findall(r"\b[a-z]+\d{4}[a-z]*\b", section.group(1)))
    assert cited - keys == set()


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_links_between_documents_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_documents_and_examples_import_functions_from_their_groups():
    """What they show is public: exported by the group."""
    module = re.compile(r"from verisal\.functional\.(?:baselines|comparison|regions|removal|statistics)\.\w+")
    shown = [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "scripts" / "examples").glob("*.py"),
    ]
    assert [str(path.relative_to(ROOT)) for path in shown if module.search(path.read_text())] == []


def commands():
    """Every ``verisal`` command of a document, an example in it or the head of a configuration, each once."""
    seen = set()
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "configs").rglob("*.yaml")),
    ]:
        text = path.read_text().replace("\\\n", " ")
        lines = text.splitlines() if path.suffix == ".yaml" else _fenced(text)
        for line in lines:
            found = re.match(
                r"^(?:#\s*)?(?:\$ )?(?:python -m )?(verisal (?:fit|validate|test|predict)\b.*)$", line.strip()
            )
            if found:
                words = _filled_in(shlex.split(found.group(1), comments=True)[1:])
                if words not in seen:
                    seen.add(words)
                    yield pytest.param(words, id=f"{path.name}: {found.group(1)}"[:90])


def _filled_in(words):
    """The words of a command without the options that a reader must fill in: RUN, PATH, FOLDER/..."""
    command, *rest = words
    kept, position = [command], 0
    while position < len(rest):
        alone = "=" in rest[position] or position + 1 == len(rest) or rest[position + 1].startswith("-")
        given = rest[position : position + (1 if alone else 2)]
        if not any(re.search(r"\b[A-Z]{3,}\b", part) for part in given):
            kept += given
        position += len(given)
    return tuple(kept)


def _fenced(text):
    for block in re.findall(r"```(?:bash|sh|console|text)?\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()


@pytest.mark.parametrize("arguments", list(commands()))
def test_documented_commands_name_options_that_exist(arguments, monkeypatch, capsys):
    """Every option is known and every configuration is read; what a reader must fill in is left out."""
    monkeypatch.chdir(ROOT)
    code = main([*arguments, "--print_config"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "model:" in printed.out


def test_the_picture_of_the_rooms_is_drawn_from_the_contract(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    draw_rooms = importlib.import_module("draw_rooms")
    rooms = [room for floor in draw_rooms.floors() for room in floor]
    there = {
        path.stem
        for path in (ROOT / "src" / "verisal").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert set(rooms) == there - {"__init__", "__main__"} | {"verisal_studies"}
    assert all(draw_rooms.words(room) for room in rooms)
    shown = [text.get_text() for axes in draw_rooms.picture().axes for text in axes.texts]
    assert set(rooms) <= set(shown)
