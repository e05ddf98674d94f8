"""Masks on a screen: maps that tell each cell, side by side where there is room."""

import io
import re

import numpy as np
import pytest

import maskcli
from maskcli.inputs.texts import Shown
from maskcli.masks.mask import Mask
from maskcli.report.maps import QUARTERS, TICK, Place, halves, named_rows, quarters, ticks
from maskcli.report.tables import print_shown
from maskcli.report.terminal import console
from maskcli.text import batch_from_lengths
from tests.cli.running import run

TEXTS = ("The cat sat on the mat", "Hello there", "One two three")


def printed(shown, columns):
    """What a terminal of so many columns shows."""
    stream = io.StringIO()
    screen = console(stream)
    screen.width = columns
    print_shown(shown, screen)
    return stream.getvalue()


def random_mask(queries, keys, share=0.5):
    return np.random.default_rng(queries).random((queries, keys)) < share


def saved(dense):
    """A mask that nobody knows the name of."""
    queries, keys = dense.shape
    mask = Mask.from_dense(dense[None, None])
    rows = batch_from_lengths([queries])
    return Shown("saved", mask, "q", rows, batch_from_lengths([keys]), 0, "sdpa", "bool")


def cells_of(drawn, gutter):
    return [line.plain[gutter:] for line in drawn.lines[1:]]


@pytest.mark.parametrize(("columns", "maps"), [(60, 1), (80, 1), (120, 2), (150, 2), (200, 3)])
def test_samples_stand_side_by_side_where_there_is_room(columns, maps):
    text = printed(maskcli.show("combined", *TEXTS), columns)
    assert max(map(len, text.splitlines())) <= columns
    body = text[text.index("queries down") :]
    rows = [line for line in body.splitlines() if re.match(r"\d  \S", line)]
    assert max(line.count("■") + line.count("·") + line.count("-") for line in rows) == 6 * maps
    assert body.count("  The   ■") == 1
    assert "of sample 1: queries down" in text or maps > 1


def test_a_pipe_has_one_below_the_other():
    text = run("show", *TEXTS, "-m", "combined").stdout
    assert text.count("queries down, keys across") == 3
    assert "sample 0: The cat sat on the mat\nindex" in text


def test_heads_stand_side_by_side_and_more_are_counted(tmp_path):
    (tmp_path / "m.py").write_text("def by_head(b, h, q, k):\n    return q - k <= h\n")
    text = run(
        "show", "--lengths", "5", "-m", "m.py:by_head", "--heads", "6", cwd=tmp_path, COLUMNS="120"
    ).stdout
    assert "head 0" in text.splitlines()[-20:][0] or re.search(r"head 0 +head 1 +head 2 +head 3\n", text)
    assert "heads 0 to 3 of 6; heads differ" in text


def test_names_stay_on_rows_when_columns_do_not_fit():
    shown = maskcli.show("causal & sliding:4", "日本 " + "word " * 28 + "猫")
    text = printed(shown, 60)
    assert max(map(len, text.splitlines())) <= 60
    drawn = named_rows(shown, Place(0, 0), 60)
    assert drawn.lines[1].plain.split()[1] == "日"
    assert len({line.cell_len for line in drawn.lines[1:]}) == 1
    dense = np.asarray(shown.mask)[0, 0]
    for line, row in zip(drawn.lines[1:], dense, strict=True):
        assert [glyph == "■" for glyph in line.plain[-len(row) :]] == row.tolist()


@pytest.mark.parametrize("shape", [(70, 70), (95, 31), (65, 1)])
def test_half_blocks_tell_each_cell(shape):
    dense = random_mask(*shape)
    drawn = halves(saved(dense), Place(0, 0), 80)
    upper, lower = zip(*(([c in "▀█" for c in line.ljust(shape[1])], [c in "▄█" for c in line.ljust(shape[1])])
                         for line in cells_of(drawn, 3)), strict=True)  # fmt: skip
    assert np.array_equal(np.stack([upper, lower], 1).reshape(-1, shape[1])[: shape[0]], dense)


@pytest.mark.parametrize("shape", [(96, 150), (95, 149), (66, 101)])
def test_quarter_blocks_tell_each_cell(shape):
    dense = random_mask(*shape)
    drawn = quarters(saved(dense), Place(0, 0), 80)
    assert drawn.cells
    wide = -(-shape[1] // 2)
    parts = np.array([[QUARTERS.index(c) for c in line.ljust(wide)] for line in cells_of(drawn, 3)])
    bits = (parts[..., None] >> np.array([3, 2, 1, 0])) & 1
    whole = bits.reshape(*parts.shape, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 2 * wide)
    assert np.array_equal(whole[: shape[0], : shape[1]].astype(bool), dense)
    assert not whole[shape[0] :].any()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_what_is_full_and_what_is_empty_is_so(share):
    dense = random_mask(500, 700, share)
    drawn = quarters(saved(dense), Place(0, 0), 60)
    glyphs = "".join(cells_of(drawn, 4))
    if share in (0.0, 1.0):
        assert set(glyphs) == ({"█"} if share else set())
    else:
        assert "█" not in glyphs
        assert set(glyphs) & set("▓▒░▘▝▖▗")


def test_a_window_much_thinner_than_a_character_is_still_a_line():
    drawn = quarters(maskcli.show("causal & sliding:4", lengths=[100_000]), Place(0, 0), 80)
    starts = [re.search("[^~]", line) for line in cells_of(drawn, 6)]
    assert all(starts[1:])


@pytest.mark.parametrize(
    ("keys", "wide"), [(1, 10), (9, 9), (100, 25), (3000, 54), (10**6, 150), (97, 96), (5, 10)]
)
def test_ticks_stand_where_their_keys_do(keys, wide):
    parts = ticks(keys, wide)
    line = "".join(parts)
    assert len(line) <= wide
    for at in re.finditer(rf"{TICK}([\d,]+)", line):
        assert at.start() == int(at[1].replace(",", "")) * wide // keys
    assert parts[0].startswith(f"{TICK}0")
