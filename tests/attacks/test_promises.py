"""The page about security names tests: they exist."""

import re

from tests.cli.running import ROOT

PAGE = ROOT / "maskcli" / "docs" / "security.md"


def test_tests_that_the_page_names_exist():
    text = PAGE.read_text("utf-8")
    told = set(re.findall(r"`(test_\w+)`", text))
    files = set(re.findall(r"`(tests/[\w/]+\.py|test_\w+\.py)`", text))
    homes = [ROOT / file if "/" in file else ROOT / "tests" / "attacks" / file for file in files]
    defined = {
        name for home in homes for name in re.findall(r"^def (test_\w+)", home.read_text("utf-8"), re.M)
    }
    assert len(told) > 10
    assert told <= defined
