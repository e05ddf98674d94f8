"""What a notebook shows: the mask as it is, every finding, every text escaped, and nothing that grows."""

import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from nbclient import NotebookClient

import maskcli
from maskcli.displayed import Displayed
from maskcli.masks.mask import Mask
from tests.cli.running import DATA
from tests.masks.strategies import dense_masks
from tests.test_house import modules_of

# Nothing that a page could run or fetch.
TAGS = {"div", "b", "svg", "g", "path", "text", "table", "thead", "tbody", "tr", "th", "td"}
RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-\d+z")
EVIL = '<script>alert("x")</script>&'


class Page(HTMLParser):
    """Its texts, table rows and paths; tags that are open in the end, or unknown, are a fault."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.rows, self.paths, self.maps, self.open = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS
        assert not [name for name, value in attributes if name.startswith("on") or "url(" in value]
        self.open.append(tag)
        if tag == "svg":
            self.maps.append([])
        if tag == "path":
            self.maps[-1].append(dict(attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def drawn(paths):
    """The shares of a map, from its paths: the first says how large it is."""
    base, *shades = [path for path in paths if "fill" in path]
    wide, tall = map(int, re.match(r"M0 0h(\d+)v(\d+)h", base["d"]).groups())
    share = np.zeros((tall, wide))
    for path in shades:
        for start, row, width in RUN.findall(path["d"]):
            share[int(row), int(start) : int(start) + int(width)] = float(path["fill-opacity"])
    return share


def page(result):
    return Page(result._repr_html_())


@settings(max_examples=40)
@given(dense_masks())
def test_the_map_is_the_mask(made):
    shape, (array,) = made
    dense = np.broadcast_to(array, shape)
    planes = dense.reshape(-1, *shape[2:])
    maps = [drawn(paths) for paths in page(Mask.from_dense(dense)).maps]
    assert len(maps) == min(len(planes), 4)
    assert all(np.array_equal(share, plane) for share, plane in zip(maps, planes, strict=False))


def test_shades_are_shares_of_cells():
    dense = np.zeros((128, 128), bool)
    dense[0, :2] = dense[2, 2] = True
    dense[4:6, 4:6] = True
    dense[6:8, 6:8] = [[True, True], [True, False]]
    share = drawn(page(maskcli.show(dense)).maps[0])
    assert share.shape == (64, 64)
    assert {(int(y), int(x)): share[y, x] for y, x in np.argwhere(share)} == {
        (0, 0): 0.5, (1, 1): 0.25, (2, 2): 1, (3, 3): 0.75,
    }  # fmt: skip


def test_a_mask_over_texts_names_its_tokens_and_says_what_is_odd():
    shown = maskcli.show("causal & padding", "The cat sat", "Hello")
    seen = page(shown)
    assert seen.texts[0] == "causal & padding"
    assert [text for text in seen.texts if text in ("The", "cat", "sat", "Hello", "<pad>")] == [
        *["The", "cat", "sat"] * 2, *["Hello", "<pad>", "<pad>"] * 2,
    ]  # fmt: skip
    assert [
        np.array_equal(drawn(paths), dense[0])
        for paths, dense in zip(seen.maps, np.asarray(shown.mask), strict=True)
    ] == [True, True]
    assert "attended 9 of 18 cells (50.00%), empty rows 0" in seen.texts
    assert set(shown.warnings) <= set(seen.texts)


@pytest.mark.parametrize("length", [1_000, 1_000_000])
def test_a_long_mask_is_a_small_page(length):
    shown = maskcli.show("causal & sliding:100", lengths=[length])
    assert len(shown._repr_html_()) < 10_000
    checkers = np.indices((300, 300)).sum(0) % 10 < 5
    assert len(maskcli.show(checkers)._repr_html_()) < 100_000


def test_reports_are_tables_of_their_findings():
    report = maskcli.diagnose(DATA / "minilm_attn_nomask.safetensors")
    assert report.findings
    head, *rows = page(report).rows
    assert head == ["code", "rule", "severity", "what", "where", "fix"]
    assert [row[:3] for row in rows] == [[each.code, each.name, each.severity] for each in report.findings]
    assert "keys 8..26" in rows[0][4]
    assert page(report).texts[0] == str(report).splitlines()[-1]


def test_every_result_is_shown():
    rows = [{"input_ids": [5, 6, 7, 8, 2], "labels": [5, 6, 7, 8, 2]}] * 3
    layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    q = torch.eye(4, 8)[None, None]
    with maskcli.trace(expect="causal") as traced:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    compared = maskcli.compare("causal", "sliding:2", padding=np.ones((1, 6)))
    probed = maskcli.probe(layer, {"src": torch.randn(2, 5, 8)}, expect="causal")
    audited = maskcli.audit(rows, eos_id=2, prompt_length=2)

    for result in (traced, traced.report, compared, probed, audited):
        assert isinstance(result, Displayed)
    for result in (traced, traced.report, probed, audited):
        assert page(result).texts[0] == str(result).splitlines()[-1]
    assert page(traced).rows[1][1] == "future-attended"
    assert page(probed).rows[1][2:] == ["full", "causal", "20 more"]
    assert page(probed).rows[-1][1] == "future-reached"
    assert page(compared).rows[1] == [f"{compared.cells}", compared.regions[0].meaning]
    assert ["tokens", "15", " "] in page(audited).rows
    assert [row[1] for row in page(audited).rows[-len(audited.findings) :]] == [
        each.name for each in audited.findings
    ]


def test_texts_of_users_are_only_texts():
    evil = maskcli.show("causal", EVIL)
    named = maskcli.diagnose({f"{EVIL}.attentions.0": np.full((1, 1, 4, 4), 0.25)}, expect="causal")
    for result in (evil, named):
        assert "script" not in re.findall(r"<(\w+)", result._repr_html_())
    assert any("script" in text for text in page(named).texts)
    assert "\\u202e" in maskcli.show("causal", "a\u202eb")._repr_html_()


def test_a_plot_is_the_mask_too():
    dense = np.tril(np.ones((5, 5), bool))
    figure = maskcli.show(dense).mask.plot()
    cells = figure.axes[0].images[0].get_array()
    assert np.array_equal(np.isclose(cells, cells[0, 0]).all(-1), dense)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "causal" in figure.get_suptitle()


def test_a_page_asks_for_no_heavy_library():
    code = "import maskcli; maskcli.show('causal', 'The cat')._repr_html_()"
    assert not modules_of(code=code) & {"torch", "matplotlib", "IPython", "rich", "transformers"}


def test_a_notebook_shows_them():
    cells = ["import maskcli; shown = maskcli.show('causal', 'The cat sat'); shown", "shown.mask.plot()"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60).execute()
    html, picture = (cell.outputs[0]["data"] for cell in book.cells)
    assert html["text/html"] == maskcli.show("causal", "The cat sat")._repr_html_()
    assert picture["image/png"]
