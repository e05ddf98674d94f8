"""Every rule finds its bug wherever the bug can occur, and nothing else is reported at error or warning."""

import pytest

from maskcli.diagnostics.catalogue import RULES
from tests.diagnostics.attention import loud, report
from tests.diagnostics.corpus import BUGS, sick

CASES = list(sick())


def test_every_rule_has_its_bug():
    assert list(BUGS) == sorted(rule.code for rule in RULES)
    for code in BUGS:
        assert sum(each == code for each, _, _ in CASES) >= 6, code


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("code", "case"),
    [(code, case) for code, _, case in CASES],
    ids=[f"{code}-{label}" for code, label, _ in CASES],
)
def test_the_bug_is_found_and_nothing_else(code, case):
    assert loud(report(case.arrays, **case.declared)) == [code]
