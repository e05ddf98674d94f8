"""Mutation testing: one operator or number of the code is changed, and the nearest tests have to fail.

    python -m tests.mutants masks                  all mutants of a package: masks, scene, measure, rules
    python -m tests.mutants --sample 20 --seed 3   as many of all packages
    python -m tests.mutants masks/edges.py         of one file

Libraries are imported once. One run without a change tells which tests reach which lines, and how long they take; each
mutant is a fork that imports maskcli with one change and runs the tests that reach it until one fails. Survivors are
printed: each lacks a test, or has one in another folder or share. Those that mean the same are in tests/equivalent.py,
and are left out.
"""

import argparse
import ast
import functools
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.equivalent import SAME

ROOT = Path(__file__).resolve().parents[1]
# Each package: its folder, and the tests that are run in this order; those named after the file come first.
PACKAGES = {
    "masks": ("maskcli/masks", ["tests/masks"]),
    "scene": ("maskcli/scene", ["tests/scene", "tests/diagnostics", "tests/test_api.py"]),
    "measure": ("maskcli/measure", ["tests/measure", "tests/diagnostics", "tests/test_api.py"]),
    "rules": ("maskcli/diagnostics/rules", ["tests/diagnostics"]),
}
LIBRARIES = ("numpy", "pytest", "hypothesis", "torch", "safetensors.numpy")
# Tests that start other interpreters, which know nothing of a mutant, or take longest.
LEFT_OUT = ("test_zoo.py", "test_jax.py", "test_memory.py", "test_people.py", "test_linear.py")
# Seconds of processor time that a mutant gets, and how many times those that its tests take: what runs for longer
# counts as found.
SECONDS, TIMES = 20, 1.5
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Add, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def main():
    options = _options()
    for name in LIBRARIES:
        importlib.import_module(name)
    mutants = [each for package in options.packages for each in of_package(package)]
    if options.sample is not None:
        mutants = random.Random(options.seed).sample(mutants, min(options.sample, len(mutants)))
    drawn = len(mutants)
    mutants = [mutant for mutant in mutants if mutant.key not in SAME]
    reached = {}
    for package in sorted({mutant.package for mutant in mutants}):
        files = sorted({mutant.path for mutant in mutants if mutant.package == package})
        reached[package] = Reached(package, files, options.share)
    began, survivors = time.monotonic(), 0
    done = 0
    for mutant in mutants:
        done += 1
        if not is_found(mutant, reached[mutant.package]):
            survivors += 1
            print(f"survives: {mutant}", flush=True)
        if options.minutes and time.monotonic() - began > options.minutes * 60:
            break
    seconds = time.monotonic() - began
    same = f"; {drawn - len(mutants)} more mean the same" if drawn > len(mutants) else ""
    score = 1 - survivors / max(done, 1)
    print(f"{done} of {len(mutants)} mutants, {survivors} survive: score {score:.1%} ({seconds:.0f} s){same}")
    sys.exit(1 if options.least is not None and score < options.least / 100 else 0)


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", default=[*PACKAGES])
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end after these")
    parser.add_argument("--share", default="1", help="of the tests, as pytest takes it: 1 to 15, or all")
    parser.add_argument("--least", type=float, metavar="PERCENT", help="exit with 1 below this score")
    return parser.parse_args()


class Mutant:
    """A file with the change of a number at one of its nodes."""

    def __init__(self, package, path, number, change, before, after):
        self.package, self.path, self.number = package, path, number
        self.lines, self.before, self.after = change.lines, before, after
        self.line, self.column = change.node.lineno, change.node.col_offset
        self.code = _source(path)[self.line - 1].strip()

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.code}  |  {self.before} -> {self.after}"

    @property
    def key(self):
        """What it is in tests/equivalent.py, wherever its line goes."""
        around = [name for lines, name in _functions(self.path) if self.line in lines]
        place = " ".join([self.path.relative_to(ROOT / "maskcli").as_posix(), *around[-1:]])
        return place, self.code, f"{self.column}: {self.before} -> {self.after}"

    @property
    def module(self):
        """The name of the changed module."""
        name = ".".join(self.path.relative_to(ROOT).with_suffix("").parts)
        return name.removesuffix(".__init__")

    def tree(self):
        """The changed code."""
        tree = ast.parse(self.path.read_text("utf-8"))
        change = list(changes(tree))[self.number]
        change()
        return ast.fix_missing_locations(tree)


@functools.cache
def _source(path):
    return path.read_text("utf-8").splitlines()


@functools.cache
def _functions(path):
    """The lines and names of the functions of a file, those inside of others behind them."""
    tree = ast.parse(path.read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [
        (range(node.lineno, node.end_lineno + 1), node.name)
        for node in sorted(found, key=lambda node: node.lineno)
    ]


def of_package(package):
    """All mutants of a package, or of one of its files."""
    name, _, file = package.partition("/")
    folder, _ = PACKAGES[name]
    for path in sorted((ROOT / folder).glob(file or "*.py")):
        yield from of_file(name, path)


def of_file(package, path):
    """All mutants of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    for number, change in enumerate(changes(tree)):
        node = change.node
        undo = dict(vars(node))
        before = change.text
        change()
        yield Mutant(package, path, number, change, before, change.text)
        vars(node).update(undo)


class Change:
    """A change of one node in place; its lines are those of its statement, none where it is run by an import."""

    def __init__(self, node, lines, field, value):
        self.node, self.lines, self.field, self.value = node, lines, field, value

    def __call__(self):
        setattr(self.node, self.field, self.value)

    @property
    def text(self):
        """The code of the node; of a statement the condition alone."""
        return ast.unparse(self.node.test if self.field == "test" else self.node)


def changes(tree):
    """Every change of a tree, in one order."""
    for node, lines in _walked(tree):
        for field, value in _changed(node):
            yield Change(node, lines, field, value)


def _changed(node):
    """The fields of a node that may be changed, each with another value."""
    if isinstance(node, ast.Compare):
        for at, sign in enumerate(node.ops):
            yield "ops", [*node.ops[:at], SWAPS[type(sign)](), *node.ops[at + 1 :]]
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
        yield "operand", ast.UnaryOp(node.op, node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield "value", not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "test", ast.UnaryOp(ast.Not(), node.test)


def _walked(node, lines=range(0), called=False):
    """The nodes that a run evaluates, without types and defaults of data classes; each with its lines."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        within = called or (isinstance(node, ast.FunctionDef | ast.Lambda) and name == "body")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_out(child):
                own = _lines(child) if isinstance(child, ast.stmt | ast.Lambda) else lines
                yield child, own if within else range(own.start, own.start)
                yield from _walked(child, own, within)


def _is_left_out(node):
    """Texts of errors, and powers of two: the size of a piece, or a ceiling, of which nothing but its order matters."""
    power = (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.left, ast.Constant)
    )
    return power or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert)


def _lines(statement):
    """The lines of a statement, without those of the statements in it."""
    inside = getattr(statement, "body", [])
    end = inside[0].lineno if isinstance(inside, list) and inside else statement.end_lineno + 1
    return range(statement.lineno, max(end, statement.lineno + 1))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """What imports the changed module."""

    def __init__(self, mutant):
        self.mutant = mutant

    def find_spec(self, name, path, target=None):
        if name != self.mutant.module:
            return None
        package = self.mutant.path.name == "__init__.py"
        return importlib.util.spec_from_file_location(
            name,
            self.mutant.path,
            loader=self,
            submodule_search_locations=[str(self.mutant.path.parent)] if package else None,
        )

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.mutant.tree(), str(self.mutant.path), "exec"), vars(module))


class Reached:
    """Which tests of a package reach which lines of some files, and the seconds that each takes."""

    def __init__(self, package, files, share):
        self.files, self.share = _tests(package), share
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "reached.json"
            recorder = Recorder(files, told)
            if _ended(lambda: _pytest(self.files, share, recorder)) != 0:
                sys.exit(f"tests of {package} fail without a change")
            found = json.loads(told.read_text())
        self.seconds = found["seconds"]
        self.lines = {
            path: {int(line): names for line, names in each.items()} for path, each in found["lines"].items()
        }

    def tests(self, mutant):
        """Those that reach a mutant, by name; of what an import runs, those that reach any line of its file."""
        lines = self.lines.get(str(mutant.path), {})
        return {name for line in mutant.lines or lines for name in lines.get(line, ())}


class Recorder:
    """A plugin of pytest that writes which tests reach which lines."""

    def __init__(self, files, told):
        self.files, self.told, self.seconds = files, told, {}

    def pytest_configure(self):
        import coverage

        self.coverage = coverage.Coverage(data_file=None, include=[str(path) for path in self.files])
        self.coverage.start()
        _quick()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration

    def pytest_runtest_logstart(self, nodeid):
        # What sets up a test may be used by all others of its file.
        self.coverage.switch_context(nodeid.partition("::")[0])

    def pytest_pyfunc_call(self, pyfuncitem):
        self.coverage.switch_context(pyfuncitem.nodeid)

    def pytest_sessionfinish(self):
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {path: data.contexts_by_lineno(path) for path in data.measured_files()}
        files = {}
        for name in self.seconds:
            files.setdefault(name.partition("::")[0], []).append(name)
        named = {
            path: {line: sorted({name for context in contexts for name in files.get(context, [context]) if name})
                   for line, contexts in each.items()}
            for path, each in lines.items()
        }  # fmt: skip
        self.told.write_text(json.dumps({"lines": named, "seconds": self.seconds}))


class Changed:
    """A plugin of pytest that runs some tests on a mutant."""

    def __init__(self, mutant, seconds):
        self.mutant, self.seconds = mutant, seconds

    def pytest_configure(self):
        # Before what pytest itself imports plugins by, of which maskcli is one.
        assert self.mutant.module not in sys.modules
        sys.meta_path.insert(0, Finder(self.mutant))
        _quick()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self.seconds]

    def pytest_runtest_logstart(self, nodeid):
        # A thread that waits for ever takes no time of the processor.
        signal.alarm(int(SECONDS + 10 * self.seconds[nodeid]))


def _quick():
    """As few examples of property tests as tell a change, the same ones each time."""
    import hypothesis

    once = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutants", deadline=None, phases=once, max_examples=30, database=None, derandomize=True
    )
    hypothesis.settings.load_profile("mutants")


def is_found(mutant, reached):
    """Whether a test fails, in a fork that has the change; what no test reaches is not."""
    seconds = {name: reached.seconds[name] for name in reached.tests(mutant)}
    if not seconds:
        return False
    wanted = {name.partition("::")[0] for name in seconds}
    files = [path for path in reached.files if any(path.endswith(each) for each in wanted)]
    files.sort(key=lambda path: mutant.path.stem.strip("_") not in Path(path).stem)
    most = SECONDS + TIMES * sum(seconds.values())
    return _ended(lambda: _pytest(files, reached.share, Changed(mutant, seconds), most)) != 0


def _ended(called):
    """The exit status of a fork that calls something."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = called()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def _pytest(files, share, plugin, seconds=None):
    """The exit code of tests that are run in this process, in silence."""
    import pytest

    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    sys.stdout = sys.stderr = io.StringIO()
    fixed = [
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    return int(pytest.main([*fixed, "--share", share, *files], plugins=[plugin]))


def _tests(package):
    """The test files of a package."""
    _, homes = PACKAGES[package]
    files = []
    for home in homes:
        path = ROOT / home
        files += sorted(path.glob("test_*.py")) if path.is_dir() else [path]
    return [str(each) for each in files if each.name not in LEFT_OUT]


if __name__ == "__main__":
    main()
