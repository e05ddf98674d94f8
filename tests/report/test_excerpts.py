"""The finding on the map: the cells of the file, red where they are wrong, at any length and width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from safetensors.numpy import save_file

from maskcli import diagnose
from maskcli.diagnostics.excerpt import KEYS, QUERIES
from tests.cli.running import DATA, run

SICK = DATA / "minilm_attn_nomask.safetensors"
WORDS = ["the", "cat", "sat", "on", "a", "mat"]


def softmax(allowed, seed):
    """Weights of random scores, 0 where a key is not allowed."""
    scores = np.random.default_rng(seed).normal(size=allowed.shape)
    powers = np.where(allowed, np.exp(scores), 0)
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def lines(text):
    """The map of the first finding: its names of keys, its queries, its legend."""
    part = text[: text.index("  see:")].splitlines()
    return part[next(at for at, line in enumerate(part) if line.startswith(" " * 10)) :]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    heads=st.integers(1, 2),
    sees_ahead=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_cell_is_that_of_the_file(lengths, heads, sees_ahead, seed):
    size = max(lengths)
    real = np.arange(size) < np.array(lengths)[:, None]
    shape = (len(lengths), heads, size, size)
    causal = np.tril(np.ones((size, size), bool))
    meant = np.broadcast_to(causal & real[:, None, None], shape)
    used = np.broadcast_to(real[:, None, None] if sees_ahead else causal, shape)
    weights = softmax(used, seed)
    report = diagnose({"attentions.0": weights, "attention_mask": real.astype(np.int64)}, expect="causal")
    for finding in report.findings:
        if finding.excerpt is None:
            continue
        part = finding.excerpt
        assert len(part.queries) <= QUERIES
        assert len(part.keys) <= KEYS
        wrong = False
        for attends, should, query in zip(part.attends, part.should, part.queries, strict=True):
            for told, right, key in zip(attends, should, part.keys, strict=True):
                place = (part.batch, part.head, slice(*query[:2]), slice(*key[:2]))
                assert ((weights[place] > 0) == told).all()
                assert (meant[place] == right).all()
                wrong |= told != right
        assert wrong
    if sees_ahead and size > 1:
        assert any(finding.excerpt for finding in report.findings)


def test_a_mask_is_shown_beside_what_was_declared_of_it(tmp_path):
    keep = np.tril(np.ones((1, 1, 6, 6), bool), 1)
    save_file({"attn_mask": keep}, tmp_path / "m.safetensors")
    text = run("diagnose", tmp_path / "m.safetensors", "--expect", "causal", check=1).stdout
    assert lines(text)[1].split() == ["0", "■", "!", "·", "·", "·", "·", "■", "·", "·", "·", "·", "·"]


def test_keys_that_are_missing_are_marked_too(tmp_path):
    keep = np.tril(np.ones((1, 1, 5, 5), bool))
    keep[..., 3:, 0] = False
    save_file({"attn_mask": keep}, tmp_path / "m.safetensors")
    text = run("diagnose", tmp_path / "m.safetensors", "--expect", "causal", check=1).stdout
    _, *rows, legend = lines(text)
    assert [row.split()[1] for row in rows] == ["?", "?"]
    assert "? should attend and does not" in legend


def test_tokens_are_named_and_equal_ones_folded(tmp_path):
    ids = np.array([[5, 6, 7, 0, 0, 0]])
    file = tmp_path / "a.npz"
    np.savez(
        file,
        attentions=softmax(np.ones((1, 1, 6, 6), bool), 1),
        input_ids=ids,
        attention_mask=(ids > 0).astype(int),
    )
    vocabulary = tmp_path / "tokenizer.json"
    words(vocabulary)
    head, *rows = lines(run("diagnose", file, "-t", vocabulary, check=1).stdout)
    assert head.split() == ["the", "cat", "sat", "<pad>", "x3"] * 2
    assert rows[0].split() == ["the", "■", "■", "■", "!", "■", "■", "■", "·"]


def words(path):
    """A tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = {"<pad>": 0, "<unk>": 1} | {word: at + 5 for at, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_it_fits_into_the_terminal(width):
    text = run("diagnose", SICK, "--expect", "causal", check=1, COLUMNS=str(width)).stdout
    shown = lines(text)
    assert 3 <= len(shown) <= 12
    assert all(cell_len(line) <= width for line in shown)
    # Beside it stands what should be, where there is room.
    assert ("at the right what should be" in " ".join(text.split())) == (width >= 60)


def test_without_anything_wrong_in_the_matrix_there_is_no_map(tmp_path):
    save_file({"attentions.0": np.full((1, 1, 4, 4), np.nan, np.float32)}, tmp_path / "n.safetensors")
    text = run("diagnose", tmp_path / "n.safetensors", "--expect", "causal", check=1).stdout
    assert "attends" not in text


def test_wrong_cells_are_bright():
    painted = run("diagnose", SICK, "--select", "MSK202", check=1, FORCE_COLOR="1").stdout
    cells = next(line for line in painted.splitlines() if "■" in line and "!" in line)
    assert "\x1b[1;31m!" in cells
    assert "\x1b[2;" not in cells.replace("\x1b[2m", "")
