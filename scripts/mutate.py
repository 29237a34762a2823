"""Plant single faults in the package and say which ones no test finds.

    python scripts/mutate.py map                        # the suite once: which test runs which line, how long
    python scripts/mutate.py map --tests tests/attacks tests/contracts
    python scripts/mutate.py plant --count 60 --seed 1  # plant faults at random places, print what survived
    python scripts/mutate.py plant --only attacks/black_box/square.py --count 20

``map`` needs the ``dev`` extra and writes ``.mutation/``; make it again when tests or code have moved.
``plant`` needs the map. Every fault lives in the memory of one child process only: no file is changed.
A child runs the tests that run the faulty line, the quick ones first, until one fails. Tests that fail
without any fault, which each ``plant`` looks for first, prove nothing and are left out.

A survivor is a line whose meaning no test holds, or a fault that changes no result: read it first.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, ModuleType
from typing import final

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "verisal"
KEPT = ROOT / ".mutation"
ROOMS = (
    "functional",
    "store",
    "metrics",
    "saliency",
    "attacks",
    "detectors",
    "data",
    "detection",
    "tasks",
    "callbacks",
)

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMED = {
    name: other
    for pair in (
        ("min", "max"),
        ("amin", "amax"),
        ("argmin", "argmax"),
        ("minimum", "maximum"),
        ("floor", "ceil"),
        ("any", "all"),
        ("sum", "mean"),
    )
    for name, other in (pair, pair[::-1])
}


@final
@dataclass(frozen=True)
class Fault:
    """A change of one place.

    Attributes:
        line: where, from 1.
        before: the expression as it is.
        after: what it becomes.
        plant: change the tree that the fault was found in.
    """

    line: int
    before: str
    after: str
    plant: Callable[[], None]


@final
@dataclass(frozen=True)
class Planted:
    """A fault by its number in a file, which a child process can find again, and the tests that run it."""

    file: Path
    number: int
    line: int
    change: str
    tests: tuple[str, ...]

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file.relative_to(PACKAGE)}:{self.line}"


def faults_in(tree: ast.Module) -> list[Fault]:
    """All faults that could be planted in ``tree``, in a fixed order."""
    return [fault for node in _code_of(tree) for fault in _faults_at(node)]


def _code_of(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below ``node`` that decide what the code computes: no annotation, message or decorator."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr):
                continue
            yield child
            yield from _code_of(child)


def _faults_at(node: ast.AST) -> Iterator[Fault]:
    match node:
        case ast.Compare(ops=[kind]) if type(kind) in _COMPARED:
            yield _changed(node, "ops", [_COMPARED[type(kind)]()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _COMPUTED:
            yield _changed(node, "op", _COMPUTED[type(operator)]())
        case ast.BoolOp(op=joined):
            yield _changed(node, "op", ast.Or() if isinstance(joined, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            twice = ast.UnaryOp(op=ast.Not(), operand=node.operand)
            yield _changed(node, "operand", twice, shown=ast.unparse(node.operand))
        case ast.Constant(value=bool(value)):
            yield _changed(node, "value", not value)
        case ast.Constant(value=int(value)):
            yield _changed(node, "value", value + 1)
        case ast.Constant(value=float(value)):
            yield _changed(node, "value", 2 * value if value else 1.0)
        case ast.Attribute(attr=name) if name in _NAMED:
            yield _changed(node, "attr", _NAMED[name])
        case ast.Name(id=name) if name in _NAMED and name not in ("sum", "mean"):
            yield _changed(node, "id", _NAMED[name])
        case ast.Expr(value=ast.Call() as call):
            yield _changed(node, "value", ast.Constant(value=None), shown="nothing", before=ast.unparse(call))


def _changed(node: ast.AST, field: str, value: object, *, shown: str = "", before: str = "") -> Fault:
    twin = copy.deepcopy(node)
    setattr(twin, field, value)

    def plant() -> None:
        setattr(node, field, value)
        ast.fix_missing_locations(node)

    line: int = getattr(node, "lineno", 0)
    return Fault(line, before or ast.unparse(node), shown or ast.unparse(twin), plant)


@final
class _Faulty(importlib.abc.MetaPathFinder):
    """Imports one module of the package with a fault in it, everything else as usual."""

    def __init__(self, planted: Planted) -> None:
        self._planted = planted
        words = planted.file.relative_to(PACKAGE.parent).with_suffix("").parts
        self._name = ".".join(words[:-1] if words[-1] == "__init__" else words)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own place, with a loader that compiles the changed tree."""
        if fullname != self._name:
            return None
        file = str(self._planted.file)
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Compiler(self._planted, fullname, file)
        )


@final
class _Compiler(importlib.machinery.SourceFileLoader):
    def __init__(self, planted: Planted, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._planted = planted

    def get_code(self, fullname: str) -> CodeType:
        """The module's code with the fault; never the cached bytecode."""
        tree = ast.parse(self._planted.file.read_bytes())
        faults_in(tree)[self._planted.number].plant()
        return compile(tree, str(self._planted.file), "exec", dont_inherit=True)


@final
class _Durations:
    """Plugin that notes how long each test took, and which failed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: object) -> None:
        """Add one phase of one test."""
        name: str = report.nodeid  # type: ignore[attr-defined]  # pytest's TestReport; pytest is imported in the children
        self.seconds[name] += report.duration  # type: ignore[attr-defined]
        if report.failed:  # type: ignore[attr-defined]
            self.failed.add(name)


def make_map(tests: Sequence[str], jobs: int) -> int:
    """Run the suite, or some of it, once under coverage, and keep which test runs which line."""
    import pytest

    KEPT.mkdir(exist_ok=True)
    os.environ["COVERAGE_FILE"] = str(KEPT / "coverage")
    words = [
        "-q",
        "-n",
        str(jobs),
        "--cov=verisal",
        "--cov-context=test",
        "--cov-report=",
        "-p",
        "no:cacheprovider",
    ]
    durations = _Durations()
    status = int(pytest.main([*words, *tests], plugins=[durations]))
    (KEPT / "seconds.json").write_text(json.dumps(durations.seconds), encoding="utf-8")
    return status


def candidates(rooms: Sequence[str], budget: float) -> list[Planted]:
    """Every fault that could be planted in ``rooms``, with the tests that run its line, quick ones first."""
    from coverage import CoverageData

    try:
        seconds: dict[str, float] = json.loads((KEPT / "seconds.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit("no map of tests and lines: run `python scripts/mutate.py map` first") from None
    data = CoverageData(str(KEPT / "coverage"))
    data.read()
    found = []
    for file in [file for room in rooms for file in _files(room)]:
        by_line = {
            line: {name.partition("|")[0] for name in contexts if name}
            for line, contexts in data.contexts_by_lineno(str(file)).items()
        }
        anywhere = set().union(*by_line.values()) if by_line else set()
        for number, fault in enumerate(faults_in(ast.parse(file.read_bytes()))):
            # A line that runs at import, such as a default, is used by whatever uses the module.
            tests = by_line.get(fault.line, set()) or (anywhere if fault.line in by_line else set())
            found.append(
                Planted(
                    file,
                    number,
                    fault.line,
                    f"{fault.before} -> {fault.after}",
                    _affordable(tests, seconds, budget),
                )
            )
    return found


def _files(room: str) -> list[Path]:
    path = PACKAGE / room
    if not path.exists():
        raise SystemExit(f"{path} does not exist; rooms: {', '.join(ROOMS)}, or a file below src/verisal")
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _affordable(tests: set[str], seconds: dict[str, float], budget: float) -> tuple[str, ...]:
    chosen: list[str] = []
    spent = 0.0
    for name in sorted(tests & seconds.keys(), key=lambda name: (seconds[name], name)):
        spent += seconds[name]
        if chosen and spent > budget:
            break
        chosen.append(name)
    return tuple(chosen)


def _in_child(tests: Sequence[str], planted: Planted | None, first_only: bool, answer: Connection) -> None:
    """Run ``tests`` in this process, and send the names of those that failed; None: they could not run."""
    import pytest

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    if planted is not None:
        sys.meta_path.insert(0, _Faulty(planted))
    os.chdir(ROOT)
    durations = _Durations()
    # Plugins of pytest are among the libraries that are imported already.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", *quiet, *(["-x"] if first_only else [])]
    status = int(pytest.main([*words, *tests], plugins=[durations]))
    answer.send(durations.failed if status in (0, 1) else None)
    answer.close()
    # No clean-up at exit: the process was forked from one with imported libraries.
    os._exit(0)


def _failed(
    tests: Sequence[str], planted: Planted | None, limit: float, *, first_only: bool
) -> set[str] | None:
    """Names of the tests that fail; None where the run ended otherwise, by a crash or by the time limit."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(tests, planted, first_only, theirs))
    child.start()
    theirs.close()
    try:
        names: set[str] | None = mine.recv() if mine.poll(limit) else None
    except EOFError:
        names = None
    child.kill()
    child.join()
    return names


def plant(rooms: Sequence[str], count: int, seed: int, budget: float, jobs: int) -> int:
    """Plant ``count`` faults, spread evenly over ``rooms``; print a table of them, and the survivors."""
    sys.path[:0] = [str(ROOT / "src")]
    # What every child needs, but for the package itself: a fork then starts in a moment.
    for name in (
        "torch",
        "lightning.pytorch",
        "torchmetrics",
        "torchvision",
        "captum.attr",
        "sklearn",
        "pytest",
    ):
        importlib.import_module(name)
    chosen = _drawn({room: candidates([room], budget) for room in rooms}, count, seed)
    tests = sorted({name for planted in chosen for name in planted.tests})
    broken = _failed(tests, None, 60 * 60, first_only=False)
    if broken is None:
        raise SystemExit("the tests cannot be run without any fault: make the map again")
    for name in sorted(broken):
        print(f"left out, fails without a fault: {name}", flush=True)

    def judged(planted: Planted) -> tuple[Planted, bool]:
        left = [name for name in planted.tests if name not in broken]
        names = _failed(left, planted, 10 * budget, first_only=True) if left else set()
        return planted, names is None or bool(names)

    caught: Counter[str] = Counter()
    planted_in: Counter[str] = Counter()
    survivors = []
    with ThreadPoolExecutor(jobs) as pool:
        for planted, was_caught in pool.map(judged, chosen):
            room = planted.file.relative_to(PACKAGE).parts[0]
            planted_in[room] += 1
            caught[room] += was_caught
            print(f"{'caught  ' if was_caught else 'SURVIVED'} {planted.place}  {planted.change}", flush=True)
            if not was_caught:
                survivors.append(planted)
    print("\n| room | planted | caught |\n|---|--:|--:|")
    for room, total in sorted(planted_in.items()):
        print(f"| {room} | {total} | {caught[room]} |")
    print(f"| all | {planted_in.total()} | {caught.total()} |\n")
    for planted in survivors:
        print(f"- {planted.place} `{planted.change}` ({len(planted.tests)} tests ran it)")
    return 0


def _drawn(by_room: dict[str, list[Planted]], count: int, seed: int) -> list[Planted]:
    """Faults drawn from each room in turn, at most one a line."""
    generator = random.Random(seed)  # noqa: S311 - a sample, no secret
    for faults in by_room.values():
        generator.shuffle(faults)
    chosen: list[Planted] = []
    taken: set[tuple[Path, int]] = set()
    while len(chosen) < count and any(by_room.values()):
        for faults in by_room.values():
            while faults and (faults[-1].file, faults[-1].line) in taken:
                faults.pop()
            if faults and len(chosen) < count:
                chosen.append(faults.pop())
                taken.add((chosen[-1].file, chosen[-1].line))
    return chosen


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("map", "plant"))
    parser.add_argument("--count", type=int, default=60, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0, help="which faults")
    parser.add_argument(
        "--only", nargs="+", default=list(ROOMS), metavar="ROOM", help="rooms or files of the package"
    )
    parser.add_argument(
        "--budget", type=float, default=30.0, help="seconds of tests a fault, as the map measured them"
    )
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="map: only these tests")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    os.chdir(ROOT)
    if given.command == "map":
        return make_map(given.tests, given.jobs)
    return plant(given.only, given.count, given.seed, given.budget, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
