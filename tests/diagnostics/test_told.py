"""What is told of dumps with several bugs stays what it is: codes, places, sentences, and what could not be looked at."""

import pytest

from tests.diagnostics.mixed import COUNT, line, recorded, told

BLOCK = 30


def test_every_dump_is_recorded():
    assert [int(each[:4]) for each in recorded()] == list(range(COUNT))


@pytest.mark.parametrize("first", range(0, COUNT, BLOCK))
def test_all_that_is_told_is_as_recorded(first):
    """Where a change is meant, `python -m tests.diagnostics.mixed` writes it down, and its diff is to be read."""
    before = recorded()
    for number in range(first, first + BLOCK):
        assert line(number) == before[number], told(number)[1]
