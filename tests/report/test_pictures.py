"""Pictures: every cell has its colour, ticks their place, and no text of a user steers what is drawn."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

import maskcli
from maskcli.errors import MaskcliError
from maskcli.report.forms import Look, choose, write_as
from maskcli.report.pictures import lettering
from maskcli.report.pictures.canvas import MOST_PANELS, save
from maskcli.report.pictures.masks import figure_of_mask
from maskcli.report.pictures.themes import THEMES, WORDS
from maskcli.report.shown import FORMS
from tests.cli.running import run


def colours(theme, kinds):
    """The colours [Q, K, 3] of cells by the names of their kinds [Q, K]."""
    cells = THEMES[theme].cells
    return np.array([[to_rgb(cells[kind]) for kind in row] for row in kinds])


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_cell_has_its_colour(theme):
    figure = figure_of_mask(maskcli.show("causal", "The cat sat on"), Look(theme=theme))
    (axes,) = figure.axes
    kinds = np.where(np.tril(np.ones((4, 4), bool)), "attends", "future")
    assert np.allclose(axes.images[0].get_array(), colours(theme, kinds))
    assert to_rgb(figure.get_facecolor()) == to_rgb(THEMES[theme].ground)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {WORDS["attends"], WORDS["future"]}


def test_colours_say_why_a_cell_is_forbidden():
    texts = ("one two three four", "five six")
    figure = figure_of_mask(maskcli.show("causal & documents & sliding:2", *texts, packed=True))
    owner = [0, 0, 0, 0, 1, 1]

    def kind(query, key):
        if owner[query] != owner[key]:
            return "document"
        return "future" if key > query else "window" if query - key >= 2 else "attends"

    kinds = [[kind(query, key) for key in range(6)] for query in range(6)]
    assert np.allclose(figure.axes[0].images[0].get_array(), colours("light", kinds))


def test_cells_are_square_and_ticks_stand_in_their_middle():
    (axes,) = figure_of_mask(maskcli.show("causal", "The cat sat")).axes
    assert axes.get_aspect() == 1
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == [0, 1, 2]
    assert axes.get_xticks(minor=True).tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert labels(axes.xaxis) == labels(axes.yaxis) == ["The", "cat", "sat"]


def test_a_row_of_a_long_cache_is_no_line():
    (axes,) = figure_of_mask(maskcli.show("causal", "one", past=99)).axes
    assert axes.get_aspect() == "auto"


def test_eight_samples_stand_in_two_rows_of_four_and_the_rest_is_counted():
    lengths = [3 + at % 4 for at in range(11)]
    figure = figure_of_mask(maskcli.show("causal & padding", lengths=lengths))
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols, len(figure.axes)) == (2, 4, MOST_PANELS)
    assert [axes.texts[0].get_text() for axes in figure.axes] == [f"sample {at}" for at in range(8)]
    assert "first 8 of 11" in figure.get_suptitle()
    for axes, length in zip(figure.axes, lengths, strict=False):
        shown = axes.images[0].get_array()
        blue = np.isclose(shown, to_rgb(THEMES["light"].cells["attends"])).all(-1)
        assert np.array_equal(blue, np.tril(np.ones((6, 6), bool)) & (np.arange(6) < length))


def test_pixels_of_the_file_have_the_colours(tmp_path):
    figure = figure_of_mask(maskcli.show("causal", "The cat sat on"), Look(dpi=100))
    figure.savefig(tmp_path / "m.png")
    saved, (axes,) = imread(tmp_path / "m.png")[..., :3], figure.axes
    cells = THEMES["light"].cells
    for query, key in np.ndindex(4, 4):
        across, up = axes.transData.transform((key + 0.2, query + 0.2))
        expected = cells["attends" if key <= query else "future"]
        assert np.allclose(saved[len(saved) - int(up) - 1, int(across)], to_rgb(expected), atol=0.01)


@pytest.mark.long
def test_a_long_mask_is_shares_of_cells():
    figure = figure_of_mask(maskcli.show("causal & sliding:9000", lengths=[1_000_000]))
    shown = figure.axes[0].images[0].get_array()
    assert max(shown.shape[:2]) <= 800
    assert f"{1250 * 1250:,} cells" in figure.legends[0].get_title().get_text()
    assert "150,000" in labels(figure.axes[0].xaxis)


def test_texts_are_no_mathematics_and_steer_nothing():
    figure = figure_of_mask(maskcli.show("causal", "$x^2$ \x1b[31m cat"), Look(title="$\\frac{1}{0}$\x1b"))
    assert figure.get_suptitle() == "$\\frac{1}{0}$\\x1b"
    drawn = figure.findobj(Text)
    assert not any(text.get_parse_math() for text in drawn)
    assert not any("\x1b" in text.get_text() for text in drawn)


def test_a_title_never_leaves_the_picture():
    for text in ("x" * 500, "many words " * 50, "猫" * 300):
        figure = figure_of_mask(maskcli.show("causal", "a b"), Look(title=text))
        assert figure._suptitle.get_window_extent().width <= figure.bbox.width
        assert figure.get_suptitle().count("\n") <= 1


def test_what_no_font_has_is_replaced_and_told(monkeypatch, tmp_path):
    monkeypatch.setattr(lettering, "_installed", lambda: ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figure_of_mask(maskcli.show("causal", "猫 cat"))
        save(figure, tmp_path / "m.svg")
    assert labels(figure.axes[0].xaxis) == ["▯", "cat"]
    assert "no installed font has U+732B" in figure.legends[0].get_title().get_text()


def test_a_look_is_for_pictures(tmp_path):
    shown = maskcli.show("causal", "The cat")
    with pytest.raises(MaskcliError, match="--theme are for pictures"):
        write_as(choose(FORMS, None, None), shown, None, Look(theme="dark"))
    run(
        "show", "The cat", "--theme", "dark", "--title", "T", "--dpi", "50", "-o", tmp_path / "m.png", check=0
    )
    saved = imread(tmp_path / "m.png")
    assert np.allclose(saved[0, 0, :3], to_rgb(THEMES["dark"].ground), atol=0.01)
    assert max(saved.shape) < 300
