"""Mutation testing: one operator or number of the code is changed, and the nearest tests have to fail.

    python -m tests.mutants masks                  all mutants of a package: masks, scene, measure, rules
    python -m tests.mutants --sample 20 --seed 3   as many of all packages
    python -m tests.mutants masks/edges.py         of one file

Libraries are imported once; each mutant is a fork that imports maskcli with one change and runs tests until one fails.
Survivors are printed: each lacks a test, or means the same.
"""

import argparse
import ast
import importlib
import importlib.abc
import importlib.util
import io
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each package: its folder, and the tests that are run in this order; those named after the file come first.
PACKAGES = {
    "masks": ("maskcli/masks", ["tests/masks"]),
    "scene": ("maskcli/scene", ["tests/scene", "tests/diagnostics", "tests/test_api.py"]),
    "measure": ("maskcli/measure", ["tests/diagnostics", "tests/test_api.py"]),
    "rules": ("maskcli/diagnostics/rules", ["tests/diagnostics"]),
}
LIBRARIES = ("numpy", "pytest", "hypothesis", "torch", "safetensors.numpy")
# Tests that start other interpreters, which know nothing of a mutant, or take longest.
LEFT_OUT = (
    "test_zoo.py",
    "test_jax.py",
    "test_memory.py",
    "test_people.py",
    "test_flex.py",
    "test_linear.py",
)
# Files whose only tests are in one of these.
ALONE = {"conditions.py": "test_flex.py"}
# Seconds of processor time that a mutant gets: what runs for longer counts as found.
SECONDS = 60
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
    for package in {mutant.package: mutant for mutant in mutants}.values():
        if is_found(package, changed=False):
            sys.exit(f"tests of {package.package} fail without a change")
    began, survivors = time.monotonic(), 0
    done = 0
    for mutant in mutants:
        done += 1
        if not is_found(mutant) and not is_found(mutant, share="all"):
            survivors += 1
            print(f"survives: {mutant}", flush=True)
        if options.minutes and time.monotonic() - began > options.minutes * 60:
            break
    seconds = time.monotonic() - began
    print(
        f"{done} of {len(mutants)} mutants, {survivors} survive: score {1 - survivors / done:.1%} ({seconds:.0f} s)"
    )
    least = options.least
    sys.exit(1 if least is not None and 1 - survivors / done < least / 100 else 0)


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", default=[*PACKAGES])
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end after these")
    parser.add_argument("--least", type=float, metavar="PERCENT", help="exit with 1 below this score")
    return parser.parse_args()


class Mutant:
    """A file with the change of a number at one of its nodes."""

    def __init__(self, package, path, number, line, before, after):
        self.package, self.path, self.number = package, path, number
        self.line, self.before, self.after = line, before, after

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.before}  ->  {self.after}"

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
        before = ast.unparse(node)
        undo = dict(vars(node))
        change()
        yield Mutant(package, path, number, node.lineno, before, ast.unparse(node))
        vars(node).update(undo)


class Change:
    """A change of one node in place."""

    def __init__(self, node, field, value):
        self.node, self.field, self.value = node, field, value

    def __call__(self):
        setattr(self.node, self.field, self.value)


def changes(tree):
    """Every change of a tree, in one order."""
    for node in _walked(tree):
        if isinstance(node, ast.Compare):
            for at, sign in enumerate(node.ops):
                yield Change(node, "ops", [*node.ops[:at], SWAPS[type(sign)](), *node.ops[at + 1 :]])
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield Change(node, "op", SWAPS[type(node.op)]())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            yield Change(node, "operand", ast.UnaryOp(node.op, node.operand))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield Change(node, "value", value)
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            yield Change(node, "test", ast.UnaryOp(ast.Not(), node.test))


def _walked(node):
    """The nodes that a run evaluates, without types, texts of errors and defaults of data classes."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                yield child
                yield from _walked(child)


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


def is_found(mutant, changed=True, share="1"):
    """Whether a test fails, in a fork that has the change."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _tested(mutant, changed, share)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status != 0


def _tested(mutant, changed, share):
    """The exit code of the nearest tests."""
    import hypothesis
    import pytest

    most = SECONDS if share == "1" else 10 * SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    signal.alarm(10 * most)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    sys.stdout = sys.stderr = io.StringIO()

    class Quick:
        def pytest_configure(self):
            if changed:
                # Before what pytest itself imports plugins by, of which maskcli is one.
                assert mutant.module not in sys.modules
                sys.meta_path.insert(0, Finder(mutant))
            once = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
            hypothesis.settings.register_profile(
                "mutants", deadline=None, phases=once, max_examples=30, database=None, derandomize=True
            )
            hypothesis.settings.load_profile("mutants")

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
    return int(pytest.main([*fixed, "--share", share, *_nearest(mutant)], plugins=[Quick()]))


def _nearest(mutant):
    """Test files, those with the name of the changed file first."""
    _, homes = PACKAGES[mutant.package]
    files = []
    for home in homes:
        path = ROOT / home
        files += sorted(path.glob("test_*.py")) if path.is_dir() else [path]
    alone = ALONE.get(mutant.path.name)
    wanted = [each for each in files if each.name not in LEFT_OUT or each.name == alone]
    named = mutant.path.stem.strip("_")
    return [str(each) for each in sorted(wanted, key=lambda each: named not in each.stem)]


if __name__ == "__main__":
    main()
