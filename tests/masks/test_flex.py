"""FlexAttention code of every kind, run by torch itself, against the mask of the spec."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from maskcli.masks.arguments import arguments
from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.name import Name
from maskcli.masks.spec import Joined, Named, PerDocument, build, parse, write
from tests.masks.strategies import layouts, operand


def flex(spec, layout):
    scope = {}
    exec(arguments(Name(write(spec), True, layout, ()), "flex").code, scope)
    batch, _, queries, keys = layout.shape
    return create_mask(scope["mask_mod"], batch, layout.heads, queries, keys, device="cpu").numpy()


def whole(mask):
    return np.array([[mask.dense(b, h) for h in range(mask.shape[1])] for b in range(mask.shape[0])])


@pytest.mark.combinations
@pytest.mark.parametrize("name", list(KINDS))
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_flex_code_makes_the_mask_of_every_kind(name, data):
    layout = data.draw(layouts(7))
    spec = data.draw(operand(name, layout))
    assert np.array_equal(flex(spec, layout), whole(build(spec, layout)))


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_flex_code_of_masks_inside_documents(data):
    layout = data.draw(layouts(7))
    layout = dataclasses.replace(layout, documents=np.sort(layout.documents, axis=1))
    outside = ("documents", "tree", "same", "spans", "chunked")
    names = st.sampled_from([name for name in KINDS if name not in outside])
    specs = [data.draw(operand(data.draw(names), None)) for _ in range(2)]
    specs = [Named(s.name, s.numbers[:1]) if KINDS[s.name].reads == "sizes" else s for s in specs]
    spec = Joined("|", (PerDocument(Joined("&", tuple(specs))), Named("causal")))
    assert np.array_equal(flex(spec, layout), whole(build(spec, layout)))


def test_two_tensors_of_one_name_do_not_meet():
    labels = {"a": np.array([[0, 0, 1, 1]]), "b": np.array([[0, 1, 1, 0]]), "c": np.array([[3, 1, 1, 3]])}
    layout = Layout(1, 4, 4, tensors=labels.__getitem__)
    spec = parse("same:a | same:b & same:a=1 | same:c")
    assert np.array_equal(flex(spec, layout), whole(build(spec, layout)))
    code = arguments(Name(write(spec), True, layout, ()), "flex").code
    assert "label_2 = torch.tensor([0, 1, 1, 0])" in code
    assert "label_4 = torch.tensor([3, 1, 1, 3])" in code


@pytest.mark.parametrize("left", [(0,), (3,), (0, 3), (2, 3, 0)])
def test_chunks_are_counted_from_the_first_real_token_of_each_sample(left):
    real = np.arange(10) >= np.array(left)[:, None]
    layout = Layout(len(left), 10, 10, real=real)
    spec = parse("chunked:4")
    found = flex(spec, layout)
    assert np.array_equal(found, whole(build(spec, layout)))
    for item, first in enumerate(left):
        seen = [
            (q, k)
            for q in range(first, 10)
            for k in range(first, q + 1)
            if (q - first) // 4 == (k - first) // 4
        ]
        assert [(q, k) for q, k in np.argwhere(found[item, 0]).tolist() if k >= first <= q] == seen
