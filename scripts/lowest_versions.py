r"""Run the tests with the oldest packages that pyproject.toml admits.

::

    python scripts/lowest_versions.py FOLDER                       # every test
    python scripts/lowest_versions.py FOLDER tests/functional -x   # these, with any option of pytest

The environment in FOLDER is made by the Python that runs this, and again only after a change of the ranges.
Every package whose least version pyproject.toml states has exactly that one; those without one come from
constraints.txt. What they all need in turn is pip's choice, but for ``LATER``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What has since deprecated how the old ones call it: pyparsing (matplotlib 3.8), SciPy (scikit-learn 1.5).
LATER = ("pyparsing<3.3", "scipy<1.15")
# They check style and types, which no version changes, and ask for newer packages than the code does.
_LINTERS = frozenset({"deptry", "import-linter", "mypy", "ruff", "types-pyyaml"})
_LEAST = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)")
# Compares what is installed with the pins, which are not meant to be in this environment.
_OF_PINS = "tests/test_project.py::test_what_runs_here_is_what_is_pinned"
# pydicom before 3 asks a server for an example when it is imported, and warns where there is none.
_OF_DICOM = "ignore:A download failure occurred:UserWarning"
# wandb of that time asks its own process by a name.
_OF_WANDB = "--allow-hosts=127.0.0.1,::1,localhost"


def lowest() -> dict[str, str]:
    """Least version by package, of all that the package and its extras ask for."""
    found = [_LEAST.match(text) for text in _asked()]
    return {match[1]: match[2] for match in found if match}


def pins() -> list[str]:
    """Lines of constraints.txt for what is asked for in any version, without linters."""
    bare = {text.lower() for text in _asked() if re.fullmatch(r"[\w.-]+", text)} - _LINTERS
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.partition("==")[0].lower() in bare]


def _asked() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from group


def _extras() -> str:
    """The extras that ``dev`` is made of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own: str = next(text for text in project["optional-dependencies"]["dev"] if text.startswith("verisal["))
    return own.partition("[")[2].rstrip("]")


def main() -> int:
    """Make the environment if it is not there, run pytest in it, and return pytest's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the environment is made, about 6 GB")
    arguments, tests = parser.parse_known_args()
    folder = arguments.folder.absolute()
    made_of, asked = folder / "lowest_versions.txt", folder / "asked.txt"
    own = made_of.is_file() or asked.is_file()
    if folder.is_dir() and any(folder.iterdir()) and not own:
        parser.error(f"{folder} has files that are not of this script; name a new folder")
    python = str(folder / "bin" / "python")
    lines = [*(f"{name}=={version}" for name, version in lowest().items()), *pins(), *LATER]
    wanted = "\n".join([*lines, ""])
    if not made_of.is_file() or made_of.read_text(encoding="utf-8") != wanted:
        venv.create(folder, clear=True, with_pip=True)
        asked.write_text(wanted, encoding="utf-8")
        install = [python, "-m", "pip", "install", "--constraint", str(asked), *pins(), "--editable"]
        install += [f"{ROOT}[{_extras()}]"]
        subprocess.run(install, check=True)  # noqa: S603 - words of this file and of the caller
        asked.rename(made_of)
    run = [python, "-m", "pytest", "--deselect", _OF_PINS, "-W", _OF_DICOM, _OF_WANDB, *tests]
    # Some tests start a command by its name.
    path = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(run, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
