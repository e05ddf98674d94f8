"""Healthy models of many architectures, saved as people save them: nothing at error or warning, whatever is said or saved.

A plain pytest takes a share of the architectures; `--share 2` is the next, `--share all` takes all of them.
"""

import collections
from itertools import chain

import pytest
import torch

from tests.diagnostics import zoo
from tests.diagnostics.attention import report
from tests.shares import SHARES, share

SIDES = ["none", "left", "right"]
SIXTEEN = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Nothing but the maps, the maps with what says which tokens are padding in one way or the other, and all of it.
MAPS, IDS, MASKS, ALL = "maps", "maps and ids", "maps and masks", "everything"
# Their own forward has no cache of transformers' kinds, or their static caches fail or (GPT-Neo) are wrong: see test_people.
WITHOUT_CACHE = {"openai-gpt", "minimax"}
WITHOUT_STATIC_CACHE = WITHOUT_CACHE | {"bloom", "gpt_neo", "lfm2"}

decoders = pytest.mark.parametrize("name", zoo.DECODERS)
sides = pytest.mark.parametrize("side", SIDES)


def part(dump, what):
    """What a user saved of a dump."""
    left_out = {MAPS: ("ids", "mask"), IDS: ("mask", "position_ids"), MASKS: ("ids",), ALL: ()}[what]
    return {
        name: array for name, array in dump.items() if "attentions" in name or not name.endswith(left_out)
    }


def silent(dump, what=ALL, expect=(), **declared):
    """Nothing is accused, and the maps were looked at."""
    saved = part(dump, what)
    found = report(saved, expect, **declared)
    assert [
        (each.code, each.tensors, each.message) for each in found.findings if each.severity != "note"
    ] == []
    assert set(found.checked) | set(found.unfit) >= {name for name in saved if "attentions" in name}


@pytest.mark.combinations
@decoders
@sides
def test_decoders(name, side):
    dump = zoo.forward("decoder", name, side)
    model = zoo.config("decoder", name)
    assert model.spec == "causal"
    silent(dump)
    silent(dump, expect="causal", pad_id=zoo.PAD, eos_ids=(zoo.EOS,))
    silent(dump, IDS, model=model)
    silent(dump, MASKS, model=model, exact=True)
    silent(dump, MAPS, "causal")
    silent(dump, MAPS, model=model)


@decoders
def test_decoders_of_nearly_uniform_heads(name):
    dump = zoo.forward("decoder", name, "left", trained=False)
    silent(dump, ALL, model=zoo.config("decoder", name))
    silent(dump, MAPS, "causal")


@pytest.mark.combinations
@decoders
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_decoders_in_sixteen_bits(name, dtype):
    dump = zoo.forward("decoder", name, "left", SIXTEEN[dtype])
    silent(dump, ALL, model=zoo.config("decoder", name))
    if dtype == "float16":
        silent(dump, MAPS, "causal")


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("name", "cache"),
    [(name, "dynamic") for name in zoo.DECODERS if name not in WITHOUT_CACHE]
    + [(name, "static") for name in zoo.DECODERS if name not in WITHOUT_STATIC_CACHE],
)
def test_generation(name, cache):
    """Every call of the model in a file of its own, and all of them as groups of one file."""
    steps = zoo.generation(name, "left", cache == "static")
    model = zoo.config("decoder", name)
    for dump in steps:
        silent(dump, ALL, model=model, pad_id=zoo.PAD, purpose="generate")
    for dump in (steps[0], steps[-1]):
        silent(dump, MASKS, "causal")
        silent(dump, MAPS, model=model)
    together = dict(
        chain(
            *(
                {f"step{n}.{key}": array for key, array in dump.items()}.items()
                for n, dump in enumerate(steps)
            )
        )
    )
    silent(together, ALL, model=model)


# SqueezeBERT returns scores for weights, which is rightly said: see test_people.
encoders = pytest.mark.parametrize("name", [name for name in zoo.ENCODERS if name != "squeezebert"])


@encoders
@sides
def test_encoders(name, side):
    dump = zoo.forward("encoder", name, side)
    model = zoo.config("encoder", name)
    silent(dump)
    silent(dump, ALL, "full", pad_id=zoo.PAD)
    silent(dump, IDS, model=model)
    silent(dump, MASKS, model=model, exact=True)
    silent(dump, MAPS)
    silent(zoo.forward("encoder", name, side, trained=False), ALL, model=model)


@pytest.mark.parametrize("name", [name for name in zoo.ENCODERS if name not in ("squeezebert", "fnet")])
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_encoders_in_sixteen_bits(name, dtype):
    dump = zoo.forward("encoder", name, "right", SIXTEEN[dtype])
    silent(dump, ALL, model=zoo.config("encoder", name))


@pytest.mark.combinations
@pytest.mark.parametrize("name", zoo.PAIRS)
@sides
def test_encoder_decoders(name, side):
    dump = zoo.forward("pair", name, side)
    model = zoo.config("pair", name)
    assert model.spec == "causal"
    silent(dump)
    silent(dump, ALL, "causal", pad_id=zoo.PAD, eos_ids=(zoo.EOS,))
    silent(dump, IDS, model=model)
    silent(dump, MASKS, model=model, exact=True)
    silent(dump, MAPS, "causal")
    silent(zoo.forward("pair", name, side, trained=False), ALL, "causal")


@pytest.mark.parametrize("name", zoo.PAIRS)
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_encoder_decoders_in_sixteen_bits(name, dtype):
    silent(zoo.forward("pair", name, "right", SIXTEEN[dtype]), ALL, model=zoo.config("pair", name))


@pytest.mark.parametrize("name", zoo.IMAGES)
def test_vision_models(name):
    dump = zoo.images(name)
    silent(dump)
    silent(dump, MAPS, "full")
    silent(dump, MAPS, model=zoo.config("image", name))


TABLES = (zoo.DECODERS, zoo.ENCODERS, zoo.PAIRS, zoo.IMAGES)


def test_the_zoo_is_large():
    assert len(set().union(*TABLES)) >= 90


def test_shares_are_fair():
    """Fifteen runs, `--share 1` to `--share 15`, are one of `--share all`."""
    names = set().union(*TABLES)
    counts = collections.Counter(map(share, names))
    assert set(counts) == set(SHARES)
    assert min(counts.values()) >= len(names) // (3 * len(SHARES))


@decoders
def test_absolute_positions_are_those_whose_shift_changes_the_output(name):
    given = zoo.batch("none")
    if not zoo.options("decoder", name, given):
        pytest.skip("takes no position_ids")
    with torch.no_grad():
        here, there = (
            zoo.model("decoder", name)(
                input_ids=given.ids, attention_mask=given.mask, position_ids=given.positions + shift
            ).logits
            for shift in (0, 7)
        )
    changed = bool((here - there).abs().max() > 1e-3)
    assert zoo.config("decoder", name).absolute in (None, changed)
