"""Pictures of diff and diagnose: both masks beside their difference, findings outlined where they are."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from safetensors.numpy import save_file

import maskcli
from maskcli.diagnostics.diagnose import diagnose, scenes_of
from maskcli.errors import MaskcliError
from maskcli.meant.facts import from_said
from maskcli.report.forms import Look
from maskcli.report.pictures.differences import figure_of_difference
from maskcli.report.pictures.findings import MOST, figure_of_findings
from maskcli.report.pictures.themes import LIGHT
from maskcli.tensors import open_tensors, roles_of
from tests.cli.running import DATA, run
from tests.report.test_weights import hatched, legend

SICK, WELL = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"


def pictured(path, **said):
    """The findings of a file, and their picture."""
    file, declared = open_tensors(str(path)), from_said(said)
    findings = diagnose(file, declared).findings
    scenes = scenes_of(file, declared, roles_of(file), None)
    return findings, figure_of_findings(findings, "closing", scenes, str, Look())


def outlined(axes):
    """The boxes of a panel in red, as (top, bottom, left, right)."""
    boxes = [each for each in axes.patches if isinstance(each, Rectangle)]
    assert all(to_rgb(box.get_edgecolor()) == to_rgb(LIGHT.finding) for box in boxes)
    corners = [
        (box.get_y(), box.get_y() + box.get_height(), box.get_x(), box.get_x() + box.get_width())
        for box in boxes
    ]
    return [tuple(round(edge + 0.5) for edge in each) for each in corners]


def test_weights_on_padding_are_outlined_and_hatched():
    (finding,), figure = pictured(SICK)
    (axes,) = figure.axes
    assert outlined(axes) == [(0, 12, 12, 26)]
    assert hatched(axes) == {(row, key) for row in range(26) for key in range(12, 26)}
    assert axes.texts[0].get_text().startswith("MSK202 padding-attended (attentions.0, sample 0, head 0):")
    assert finding.message.split()[0] in axes.texts[0].get_text()
    assert legend(figure) == ["found", "forbidden"]
    assert figure.get_suptitle() == "closing"


def test_what_was_declared_is_hatched():
    findings, figure = pictured(WELL, expect="causal & padding")
    assert len(figure.axes) == len(findings) <= MOST
    q, k = np.indices((26, 26))
    assert hatched(figure.axes[0]) == {tuple(cell) for cell in np.argwhere((k > q) | (k >= 12)).tolist()}


def test_a_mask_is_drawn_as_who_attends(tmp_path):
    keep = np.tril(np.ones((1, 1, 5, 5), bool))
    keep[0, 0, 2] = False
    save_file({"attn_mask": keep}, tmp_path / "m.safetensors")
    _, figure = pictured(tmp_path / "m.safetensors")
    (axes,) = figure.axes
    blue = np.isclose(axes.images[0].get_array(), to_rgb(LIGHT.cells["attends"])).all(-1)
    assert np.array_equal(blue, keep[0, 0])
    assert outlined(axes) == [(2, 3, 0, 5)]


def test_a_mask_is_read_as_it_was_declared(tmp_path):
    ignored = np.triu(np.ones((5, 5), bool), 1)
    ignored[2] = True
    save_file({"attn_mask": ignored}, tmp_path / "m.safetensors")
    _, figure = pictured(tmp_path / "m.safetensors", convention="mha")
    blue = np.isclose(figure.axes[0].images[0].get_array(), to_rgb(LIGHT.cells["attends"])).all(-1)
    assert np.array_equal(blue, ~ignored)


def test_findings_that_are_not_drawn_are_counted(tmp_path):
    ids = np.array([[5, 6, 7, 0, 0]])
    save_file({"input_ids": ids, "labels": ids}, tmp_path / "b.safetensors")
    findings, figure = pictured(tmp_path / "b.safetensors", pad_id=0)
    assert findings
    assert f"{len(findings)} finding" in figure.legends[0].get_title().get_text()
    assert figure.get_suptitle() == "closing"
    assert not figure.axes[0].images


@pytest.mark.parametrize(("file", "code"), [(SICK, 1), (WELL, 0)])
def test_diagnose_writes_it(tmp_path, file, code):
    run("diagnose", file, "-o", tmp_path / "r.png", "--theme", "dark", "--dpi", "40", check=code)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_three_panels_of_a_difference():
    compared = maskcli.compare(np.tril(np.ones((6, 6), bool)), "sliding:3")
    figure = figure_of_difference(compared, Look())
    q, k = np.indices((6, 6))
    a, b = k <= q, (k <= q) & (q - k < 3)
    cells = LIGHT.cells
    expected = [
        np.where(a, "attends", "ignored"),
        np.where(b, "attends", "ignored"),
        np.select([a & b, a, b], ["attends", "only A", "only B"], "ignored"),
    ]
    for axes, kinds in zip(figure.axes, expected, strict=True):
        wanted = [[to_rgb(cells[kind]) for kind in row] for row in kinds]
        assert np.allclose(axes.images[0].get_array(), wanted)
    assert [axes.texts[0].get_text()[:2] for axes in figure.axes] == ["A:", "B:", "di"]
    assert figure.get_suptitle() == "6 of 36 cells differ"
    assert legend(figure) == ["attends", "ignored", "only A"]
    assert compared.regions[0].meaning in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_weights_have_no_picture_of_a_difference():
    compared = maskcli.compare(str(SICK), str(WELL))
    with pytest.raises(MaskcliError, match="these are weights"):
        figure_of_difference(compared, Look())


def test_diff_writes_it(tmp_path):
    run("diff", "causal", "sliding:2", "--lengths", "5", "-o", tmp_path / "d.svg", check=1)
    assert (tmp_path / "d.svg").read_bytes().startswith(b"<?xml")
