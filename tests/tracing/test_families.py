"""Programs as people write them, run under trace without any option: healthy ones are silent, bugs are called by their name."""

import pytest

import maskcli
from tests.tracing.families import FAMILIES, HARMLESS

pytestmark = pytest.mark.filterwarnings("default")
BUGS = [(family, bug) for family, (_, bugs) in FAMILIES.items() for bug in bugs]


def traced(family, bug):
    with maskcli.trace() as watching:
        FAMILIES[family][0](bug)
    assert watching.report.unfit == {}
    return watching.findings


@pytest.mark.combinations
@pytest.mark.parametrize("family", FAMILIES)
def test_a_healthy_program_is_silent(family):
    assert [finding for finding in traced(family, None) if finding.severity != "note"] == []


@pytest.mark.combinations
@pytest.mark.parametrize(("family", "bug"), BUGS)
def test_a_bug_is_called_by_its_name_and_nothing_else_is(family, bug):
    findings = traced(family, bug)
    loud = {finding.code for finding in findings if finding.severity != "note" or bug in HARMLESS}
    assert loud
    assert loud <= FAMILIES[family][1][bug]
