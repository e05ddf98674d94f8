import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.spec import (
    MAX_LENGTH,
    File,
    Joined,
    Named,
    Not,
    PerDocument,
    axes,
    build,
    kinds_in,
    needs,
    parse,
    write,
)
from tests.masks.strategies import kinds

LAYOUT = Layout(
    2, 6, 6, real=np.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool), documents=np.array([[0, 0, 1, 1, 2, 2]] * 2),
    cross=True, tensors=lambda name: np.array([[0, 1, 1, 0, 1, 2], [-1, 0, 0, 2, 2, 2]]),
)  # fmt: skip

names = st.one_of(
    st.sampled_from(
        [Named("causal"), Named("padding"), Named("sliding", (4,)), Named("documents", (2, 3)), Named("full")]
    ),
    kinds(LAYOUT),
)
specs = st.recursive(
    names,
    lambda inner: st.one_of(
        inner.map(Not),
        st.tuples(inner, st.sampled_from([(), (2, 3)])).map(lambda t: PerDocument(*t)),
        st.tuples(st.sampled_from("&|"), st.lists(inner, min_size=2, max_size=3)).map(
            lambda t: Joined(t[0], tuple(t[1]))
        ),
    ),
    max_leaves=6,
)


def flat(spec):
    """Nested joins of one sign are one join: a & (b & c) is a & b & c."""
    if isinstance(spec, Not):
        return Not(flat(spec.operand))
    if isinstance(spec, PerDocument):
        return PerDocument(flat(spec.operand), spec.lengths)
    if isinstance(spec, Joined):
        parts = [flat(operand) for operand in spec.operands]
        return Joined(spec.sign, tuple(
            leaf for part in parts
            for leaf in (part.operands if isinstance(part, Joined) and part.sign == spec.sign else (part,))
        ))  # fmt: skip
    return spec


@given(specs)
def test_what_is_written_parses_to_the_same(spec):
    assert parse(write(flat(spec))) == flat(spec)


plain = st.recursive(
    names,
    lambda inner: st.one_of(
        inner.map(Not), st.lists(inner, min_size=2, max_size=3).map(lambda t: Joined("|", tuple(t)))
    ),
    max_leaves=5,
)


@given(plain)
def test_specs_mean_what_python_means(spec):
    def value(node):
        if isinstance(node, Named):
            mask = build(node, LAYOUT)
            return np.array([mask.dense(b) for b in range(2)])
        if isinstance(node, Not):
            return ~value(node.operand)
        parts = [value(operand) for operand in node.operands]
        return np.logical_and.reduce(parts) if node.sign == "&" else np.logical_or.reduce(parts)

    assert np.array_equal(np.array([build(spec, LAYOUT).dense(b) for b in range(2)]), value(spec))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("causal and padding", "causal & padding"),
        ("not causal or padding", "~causal | padding"),
        ("a.npy", "a.npy"),
        ("causal&sliding:4", "causal & sliding:4"),
        ("causal & padding | prefix:2", "(causal & padding) | prefix:2"),
        ("~causal & padding", "(~causal) & padding"),
        ("~(causal | padding)", "!(causal || padding)"),
        ("CAUSAL & Prefix_LM:3", "causal & prefix-lm:3"),
        ("causal & (padding & full)", "causal & padding & full"),
        ("Per_Document ( causal|prefix:2 )", "per-document(causal | prefix:2)"),
        ("PREFIX_LM:lengths", "prefix-lm:lengths"),
    ],
)
def test_spellings_of_one_spec(text, same):
    assert parse(text) == parse(same)


def test_files_are_operands():
    assert parse("causal & dir/mask.npy:a | my.py:NAME") == Joined(
        "|", (Joined("&", (Named("causal"), File("dir/mask.npy:a"))), File("my.py:NAME"))
    )
    with pytest.raises(MaskcliError, match="names a file"):
        build(parse("m.npy"), LAYOUT)


@pytest.mark.parametrize(
    ("text", "is_file"),
    [
        ("same:step.npy", False), ("spans:run/types=1", False), ("prefix-lm:a/lengths", False), ("same.npy", True),
        ("causal.pt", True), ("causal:x.npy", True), ("sliding:dir/x", True), ("./same:ids", True), ("new:x.npy", True),
    ],
)  # fmt: skip
def test_words_that_name_a_file_or_a_tensor(text, is_file):
    """A kind that reads tensors takes whatever name stands behind its colon."""
    assert isinstance(parse(text), File) == is_file


def test_the_longest_spec():
    spec = "causal" + " & causal" * ((MAX_LENGTH - 6) // 9)
    padded = spec + " " * (MAX_LENGTH - len(spec))
    assert len(kinds_in(parse(padded))) == 1
    with pytest.raises(MaskcliError, match=f"has {MAX_LENGTH + 1:,} characters, more than the limit"):
        parse(padded + " ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the mask spec is empty"),
        ("window", "window needs a size: window:4"),
        ("dilated", "dilated needs 2 numbers: dilated:4,2"),
        ("dilated:4", "dilated takes 2 number(s), but dilated:4 has 1; write dilated:4,2"),
        ("sliding:0", "'0' where a whole number of at least 1 belongs; write sliding:4"),
        ("sliding:x", "'x' where a whole number"),
        ("sliding:-1", "'-1' where a whole number"),
        ("sliding:" + "9" * 30, "where a whole number"),
        ("causal:3", "'causal' takes no number"),
        ("casual", "did you mean 'causal'?"),
        ("look-ahead", "did you mean 'causal'?"),
        ("Block_Diagonal", "did you mean 'documents'?"),
        ("banded", "did you mean 'window'?"),
        ("bidirectional:4", "did you mean 'full'?"),
        ("causal &", "lacks a mask at the end"),
        ("& causal", "lacks a mask before '&'"),
        ("(causal", "add )"),
        ("causal)", "')' follows a whole mask"),
        ("causal padding", "join masks with & or |"),
        ("window:1,2,3", "window takes 1 or 2 number(s), but window:1,2,3 has 3; write window:4"),
        ("chunked:0,3", "'0' where a whole number of at least 1 belongs"),
        ("chunked:3,-1", "'-1' where a whole number of at least 0 belongs"),
        ("tree", "tree needs its numbers: tree:-1,0,0,1,1"),
        ("tree:-2", "'-2' where a whole number of at least -1"),
        ("same", "same needs a tensor of labels: same:token_type_ids"),
        ("spans:", "spans needs a tensor of labels: spans:token_type_ids=1"),
        ("spans:ids=" + "9" * 30, "a label of more than 15 digits"),
        ("keys", "keys needs ranges START:STOP: keys:0:4,10:12"),
        ("keys:0-4", "write 0:5 (0-4, both included)"),
        ("keys:0:4,7", "'7' where a range START:STOP belongs"),
        ("rows:4:4", "'4:4' where a range START:STOP belongs"),
        ("rows:" + "9" * 40 + ":" + "9" * 50, "where a range START:STOP belongs"),
        ("prefix-lm:4,x", "'x' where a whole number"),
        ("causal(padding)", "'causal' stands before a parenthesis"),
        ("per-document", "per-document takes a mask in parentheses: per-document(causal)"),
        ("per-document(", "lacks a mask at the end"),
        ("per-document:x(causal)", "documents:x has 'x' where a whole number"),
        ("~" * 99 + "causal", "nests more than 50 levels"),
        ("(" * 99_999, "nests more than 50 levels"),
        ("causal" * 100_000, "more than the limit"),
    ],
)
def test_errors_say_what_to_write(text, sentence):
    with pytest.raises(MaskcliError, match=re.escape(sentence)):
        parse(text)


def test_facts_about_a_spec():
    spec = parse("causal & padding | documents:3 & ~documents")
    assert kinds_in(spec) == {"causal", "padding", "documents"}
    assert needs(spec) == {"padding", "documents"}
    assert (axes(parse("padding")), axes(parse("causal")), axes(parse("combined"))) == ("b", "q", "bq")


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_one_sentence(text):
    try:
        spec = parse(text)
    except MaskcliError as error:
        assert str(error)
    else:
        assert parse(write(spec)) == spec


def test_every_kind_is_documented():
    assert all(kind.build.__doc__ for kind in KINDS.values())
