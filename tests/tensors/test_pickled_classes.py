"""What libraries save beside plain tensors, in .pt, is read without them; what stays refused names the line that helps."""

import argparse
import re
from collections import Counter, defaultdict, deque
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BatchEncoding, BatchFeature, DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from maskcli.errors import MaskcliError
from maskcli.tensors import open_tensors, torch_file
from tests.cli.running import run

MAPS = (torch.rand(2, 3, 4, 4).softmax(-1), torch.rand(2, 3, 4, 4).softmax(-1))


def read(path, saved, **options):
    """The tensors of a saved object by name, read without torch and without the library that made it."""
    torch.save(saved, path, **options)
    with mock.patch.object(torch_file, "_load", side_effect=AssertionError("torch was asked")):
        return {tensor.name: tensor.read() for tensor in open_tensors(path).tensors}


def cache_of(layers):
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(torch.full((1, 2, 3, 4), layer), torch.full((1, 2, 3, 4), -layer), layer)
    return cache


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_outputs_of_models_are_their_fields(tmp_path, protocol):
    found = read(
        tmp_path / "x.pt",
        BaseModelOutput(last_hidden_state=torch.ones(2, 4, 8), attentions=MAPS),
        pickle_protocol=protocol,
    )
    assert list(found) == ["last_hidden_state", "attentions.0", "attentions.1"]
    np.testing.assert_array_equal(found["attentions.1"], MAPS[1])
    both = Seq2SeqLMOutput(decoder_attentions=MAPS, cross_attentions=MAPS, encoder_attentions=MAPS)
    assert len(read(tmp_path / "y.pt", {"out": both, "more": [both]})) == 12


def test_batches_are_their_data(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    rows = {"input_ids": torch.tensor([[0, 1]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    for batch in (
        BatchEncoding(rows, encoding=[tokenizer.encode("a b")]),
        BatchEncoding({name: value.numpy() for name, value in rows.items()}),
        BatchFeature({"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}),
    ):
        found = read(tmp_path / "x.pt", batch)
        assert list(found) == ["input_ids", "attention_mask"]
        assert found["input_ids"].tolist() == [[0, 1]]


def test_caches_are_their_layers(tmp_path):
    found = read(tmp_path / "x.pt", cache_of(2))
    assert list(found) == ["layers.0.keys", "layers.0.values", "layers.1.keys", "layers.1.values"]
    assert (found["layers.1.values"] == -1).all()
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    )
    static = StaticCache(config=config, max_cache_len=6)
    static.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    assert read(tmp_path / "y.pt", {"past": static})["past.layers.0.keys"].shape == (1, 2, 6, 4)


def test_a_real_output_with_its_cache_is_checked(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(3, 32, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    for seen, code in ((mask, 0), (None, 1)):
        with torch.no_grad():
            out = model(ids, attention_mask=seen, output_attentions=True)
        torch.save({"outputs": out, "attention_mask": mask}, tmp_path / "x.pt")
        assert ("MSK202" in run("diagnose", tmp_path / "x.pt", check=code).stdout) == bool(code)


def test_containers_of_python_are_their_contents(tmp_path):
    maps = torch.ones(2)
    saved = {
        "space": SimpleNamespace(a=maps, b=[maps]),
        "arguments": argparse.Namespace(c=maps),
        "default": defaultdict(list, {"d": maps}),
        "queue": deque([maps]),
        "passed over": [{1, 2}, frozenset("a"), Counter("ab"), slice(3), 1j, b"ab", bytearray(b"a"), b""],
    }
    for protocol in (2, 4):
        names = list(read(tmp_path / "x.pt", saved, pickle_protocol=protocol))
        assert names == ["space.a", "space.b.0", "arguments.c", "default.d", "queue.0"]


DTYPES = st.one_of(
    arrays.boolean_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(sizes=(16, 32, 64)),
)  # fmt: skip


@given(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, max_side=4)),
    st.sampled_from([2, 3, 4, 5]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_numpy_arrays_are_read_as_they_were(tmp_path_factory, array, protocol, turned):
    kept = np.asfortranarray(array) if turned else array
    path = tmp_path_factory.mktemp("saved") / "x.pt"
    found = read(path, {"x": kept, "again": kept, "scalar": kept.reshape(-1)[0]}, pickle_protocol=protocol)
    for name in ("x", "again"):
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["scalar"], array.reshape(-1)[0])


def test_arrays_of_text_and_objects_are_passed_over(tmp_path):
    odd = [
        np.array(["x"]),
        np.array([object, None], dtype=object),
        np.zeros(2, "i4,f4"),
        np.array("2020", "M8[Y]"),
    ]
    for each in odd[:1] + odd[2:]:
        assert list(read(tmp_path / "x.pt", {"odd": each, "good": np.ones(2)})) == ["good"]


@pytest.mark.long
def test_large_arrays_of_numpy_say_what_to_save(tmp_path):
    array = np.random.default_rng(0).random((80, 1024, 128))
    torch.save({"x": array}, tmp_path / "x.pt")
    with pytest.raises(MaskcliError, match=r"torch\.from_numpy\(array\)"):
        open_tensors(tmp_path / "x.pt")
    assert read(tmp_path / "y.pt", {"x": torch.from_numpy(array)})["x"].shape == array.shape


# Refused, and the advice


class Dump:
    """A class of the user's, as hooks are kept in."""

    def __init__(self, **values):
        self.__dict__.update(values)


class Slotted(dict):
    """A dict of the user's."""


@pytest.mark.parametrize(
    "obj",
    [
        Dump(attentions=list(MAPS), attention_mask=torch.ones(2, 4, dtype=torch.long), step=3, name="x"),
        {
            "run": Dump(inner=Dump(attentions=MAPS), count=np.ones(3)),
            "attention_mask": torch.ones(2, 4).long(),
        },
        Slotted(attentions=MAPS, attention_mask=torch.ones(2, 4).long()),
        [Dump(attentions=MAPS), torch.ones(2, 4)],
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_advised_line_helps(tmp_path, monkeypatch, obj, zipped):
    torch.save(obj, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(MaskcliError) as refused:
        open_tensors(tmp_path / "x.pt")
    if zipped:
        assert "test_pickled_classes" in str(refused.value)
    (line,) = re.findall(r"`(.*)`", str(refused.value))
    monkeypatch.chdir(tmp_path)
    scope = {"torch": torch, "obj": obj}
    exec(line, scope)
    names = [tensor.name for tensor in open_tensors(tmp_path / "dump.pt").tensors]
    assert len([name for name in names if "attentions" in name]) == 2


def test_only_what_is_not_known_is_named(tmp_path):
    torch.save({"out": BaseModelOutput(attentions=MAPS), "mine": Dump(a=1)}, tmp_path / "x.pt")
    with pytest.raises(MaskcliError) as refused:
        open_tensors(tmp_path / "x.pt")
    assert "Dump" in str(refused.value)
    assert "BaseModelOutput" not in str(refused.value)
