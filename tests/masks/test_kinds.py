import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS, Layout
from maskcli.masks.spec import Named, build
from tests.masks import oracle
from tests.masks.strategies import kinds, layouts


def whole(mask):
    return np.array([[mask.dense(b, h) for h in range(mask.shape[1])] for b in range(mask.shape[0])])


@given(st.data())
def test_every_kind_equals_the_oracle_cell_by_cell(data):
    layout = data.draw(layouts())
    name, numbers = data.draw(kinds(layout))
    mask = build(Named(name, numbers), layout)
    assert np.array_equal(whole(mask), oracle.dense(name, numbers, layout))


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("queries", "past"), [(9, 0), (4, 5), (1, 8)])
def test_no_kind_escapes_the_oracle(name, side, queries, past):
    real = np.ones((2, 9), bool)
    real[1, slice(0, 3) if side == "left" else slice(6, 9)] = False
    layout = Layout(
        2, queries, 9, 1, past, real, np.array([[0] * 4 + [1] * 5, [0] * 2 + [1] * 7]), cross=True
    )
    numbers = {"dilated": (4, 2)}.get(name, (3,) if KINDS[name].numbers not in ((), ("...",)) else ())
    assert np.array_equal(whole(build(Named(name, numbers), layout)), oracle.dense(name, numbers, layout))


def test_the_textbook_example():
    ids = np.array([[5, 3, 2, 0, 0], [7, 4, 8, 6, 0]])
    layout = Layout(2, 5, 5, real=ids != 0)
    combined = build(Named("combined"), layout)
    assert combined.dense(0).astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0],
    ]  # fmt: skip
    assert (combined.attended, combined.empty_rows, combined.stored) == (12 + 14, 0, (2, 1, 5))


@pytest.mark.parametrize(
    ("name", "numbers", "sentence"),
    [
        ("padding", (), "'padding' needs to know which keys are padding"),
        ("cross", (), "'cross' needs to know the source"),
        ("documents", (), "'documents' needs to know where documents begin"),
        ("documents", (4, 9), "covers 13 tokens, but there are only 6 keys"),
        ("dilated", (10**9, 2), "needs 500,000,000,000 runs of one key"),
    ],
)
def test_a_kind_without_its_facts_is_refused(name, numbers, sentence):
    layout = Layout(1, 6, 6) if name != "dilated" else Layout(1, 10**6, 10**6)
    with pytest.raises(MaskcliError, match=sentence):
        build(Named(name, numbers), layout)


def test_documents_behind_the_last_key_are_refused():
    with pytest.raises(MaskcliError, match="position 8"):
        build(Named("documents"), Layout(1, 4, 6, past=5, documents=np.zeros((1, 6), int)))
