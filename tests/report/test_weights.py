"""Pictures of tensors of files: one scale for all heads, 0 apart, forbidden cells hatched, tokens on the axes."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from safetensors.numpy import save_file

from maskcli.errors import MaskcliError
from maskcli.inputs.beside import beside
from maskcli.inputs.looks import inspected
from maskcli.report.forms import Look
from maskcli.report.pictures.themes import LIGHT
from maskcli.report.pictures.weights import figure_of_tensor
from maskcli.tensors import Zoom
from tests.cli.running import DATA, refused, run

WHOLE = Zoom()
WELL = str(DATA / "minilm_attn.safetensors")


def drawn(target, zoom=WHOLE, heads=False):
    """The picture that inspect makes of FILE:TENSOR."""
    found = inspected([target], zoom, None, None, heads)
    (described,) = found.looked()
    path, name = target.rsplit(":", 1)
    return figure_of_tensor(described, found.zooms(described), beside(path, name), Look())


def hatched(axes):
    """The cells of each hatched box, as (rows, keys) that it spans."""
    (boxes,) = [each for each in axes.collections if isinstance(each, PolyCollection)]
    cells = set()
    for path in boxes.get_paths():
        (left, top), (right, bottom) = path.get_extents().get_points() + 0.5
        cells |= {
            (row, key) for row in range(round(top), round(bottom)) for key in range(round(left), round(right))
        }
    return cells


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.long
def test_heads_of_real_weights_share_a_scale_and_padding_is_hatched():
    figure = drawn(f"{WELL}:attentions.0", Zoom(batch=1), heads=True)
    *panels, bar = figure.axes
    assert [axes.texts[0].get_text() for axes in panels] == [f"head {at}" for at in range(12)]
    assert figure.get_suptitle() == "attentions.0 [3, 12, 26, 26], sample 1"
    assert bar.get_ylabel() == "weight (log scale)"
    assert hatched(panels[5]) == {(row, key) for row in range(26) for key in range(8, 26)}
    assert legend(figure) == ["exactly 0", "forbidden"]
    names = [label.get_text() for label in panels[0].xaxis.get_ticklabels()]
    assert names[0] == "101"
    assert len(names) == 26


def test_zero_is_apart_and_a_larger_weight_is_never_paler(tmp_path):
    weights = np.array([[1, 0, 0, 0], [0.999, 0.001, 0, 0], [0.1, 0.2, 0.7, 0], [0.25] * 4], np.float32)
    save_file({"attentions.0": weights[None, None]}, tmp_path / "w.safetensors")
    figure = drawn(f"{tmp_path}/w.safetensors:attentions.0")
    cells = np.asarray(figure.axes[0].images[0].get_array())
    zero = np.isclose(cells, to_rgb(LIGHT.zero)).all(-1)
    assert np.array_equal(zero, weights == 0)
    assert np.allclose(cells[1, 1], to_rgb(LIGHT.weights[0]), atol=0.02)
    order = np.argsort(weights[~zero], kind="stable")
    assert (np.diff(cells[~zero].sum(-1)[order]) <= 1e-9).all()


def test_nan_is_told_and_has_its_own_colour(tmp_path):
    weights = np.full((1, 1, 3, 3), 1 / 3, np.float32)
    weights[0, 0, 1] = np.nan
    save_file({"attentions.0": weights}, tmp_path / "w.safetensors")
    figure = drawn(f"{tmp_path}/w.safetensors:attentions.0")
    cells = np.asarray(figure.axes[0].images[0].get_array())
    assert np.array_equal(np.isclose(cells, to_rgb(LIGHT.ink)).all(-1), np.isnan(weights[0, 0]))
    assert legend(figure)[0] == "NaN or infinite"


def test_rows_of_a_padding_mask_are_samples():
    figure = drawn(f"{WELL}:attention_mask")
    (axes,) = figure.axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("sample", "key")
    blue = np.isclose(axes.images[0].get_array(), to_rgb(LIGHT.cells["attends"])).all(-1)
    assert np.array_equal(blue, np.arange(26) < np.array([[12], [8], [26]]))


def test_a_part_has_the_places_of_the_whole():
    (axes, _) = drawn(f"{WELL}:attentions.3", Zoom(rows=(4, 9), keys=(10, 14))).axes
    assert axes.get_yticks().tolist() == [4, 5, 6, 7, 8]
    assert hatched(axes) == {(row, key) for row in range(4, 9) for key in (12, 13)}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_inspect_writes_all_heads(tmp_path, suffix):
    path = tmp_path / f"heads{suffix}"
    save_file({"attentions.0": np.full((1, 3, 4, 4), 0.25, np.float32)}, tmp_path / "w.safetensors")
    run("inspect", f"{tmp_path}/w.safetensors:attentions.0", "--head", "all", "-o", path, check=0)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


def test_what_is_no_picture_has_no_heads(tmp_path):
    assert "is for a picture" in refused("inspect", f"{WELL}:attentions.0", "--head", "all")
    assert "is no head" in refused("inspect", f"{WELL}:attentions.0", "--head", "x")
    assert "has no heads" in refused(
        "inspect", f"{WELL}:attention_mask", "--head", "all", "-o", tmp_path / "h.png"
    )
    assert list(tmp_path.iterdir()) == []


def test_too_many_heads_are_refused(tmp_path):
    save_file({"attentions.0": np.full((1, 65, 2, 2), 0.5, np.float32)}, tmp_path / "w.safetensors")
    found = inspected([f"{tmp_path}/w.safetensors:attentions.0"], Zoom(), None, None, True)
    with pytest.raises(MaskcliError, match="65 heads are more"):
        found.zooms(found.looked()[0])
