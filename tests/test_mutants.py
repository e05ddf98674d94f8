"""Mutants that were judged to mean the same are still there: what was rewritten is to be judged anew."""

from tests.equivalent import SAME
from tests.mutants import PACKAGES, ROOT, of_file


def test_mutants_that_mean_the_same_are_still_there():
    packages = {folder: package for package, (folder, _) in PACKAGES.items()}
    paths = {ROOT / "maskcli" / place.split()[0] for place, _, _ in SAME}
    found = set()
    for path in paths:
        package = packages[path.parent.relative_to(ROOT).as_posix()]
        found |= {mutant.key for mutant in of_file(package, path)}
    assert {*SAME} <= found
