"""Windows that a program's own configuration names: a dataclass, a namespace, a dict."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from tests.tracing.families import PAD, WORDS, sharpened, stepped, texts


@dataclass
class Config:
    window_size: int = 4
    n_layer: int = 2


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out, self.width = nn.Linear(32, 96), nn.Linear(32, 32), width

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        keep = (back >= 0) & (back < (self.width or x.shape[1]))
        out = functional.scaled_dot_product_attention(q, k, v, keep)
        return x + self.out(out.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, config, widths, name):
        super().__init__()
        torch.manual_seed(0)
        setattr(self, name, config)
        self.embed, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, WORDS)
        self.h = nn.ModuleList([Block(width) for width in widths])

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.h:
            x = block(x)
        return self.head(x)


def traced(config, widths, length=20, name="config"):
    """The findings at error and warning; a width of 0 is no window."""
    model, ids = sharpened(Model(config, widths, name)), texts([length + 1] * 3, seed=4)

    def loss():
        return functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    with maskcli.trace() as watching:
        stepped(model, loss)
    assert watching.report.unfit == {}
    return [finding for finding in watching.findings if finding.severity != "note"]


NAMED = [
    (Config(), "config"),
    (SimpleNamespace(attn_window=(4, 0)), "args"),
    ({"sliding_window": 4, "hidden": 32}, "cfg"),
]


@pytest.mark.combinations
@pytest.mark.parametrize(("config", "name"), NAMED)
@pytest.mark.parametrize("widths", [(4, 4), (5, 5), (3, 3), (4, 0), (0, 4)])
def test_windows_that_are_kept_by_either_way_to_count_or_by_some_layers_are_fine(config, name, widths):
    assert traced(config, widths, name=name) == []


@pytest.mark.parametrize(("config", "name"), NAMED)
def test_a_window_that_no_layer_keeps_is_told_with_who_names_it(config, name):
    (finding,) = traced(config, (0, 0), name=name)
    assert finding.code in ("MSK111", "MSK213")
    assert finding.traced.modules == ("h.0", "h.1")
    (known,) = finding.known
    assert known.startswith(f"what may be seen: Model.{name} (")
    assert "4" in known


@pytest.mark.combinations
@pytest.mark.parametrize(
    "config",
    [
        {"sliding_window": 4, "use_sliding_window": False},
        {"window_size": None},
        {"window_size": -1},
        {"window_size": 64},
        {"window": "hann"},
        {"hidden": 32},
        None,
    ],
)
def test_windows_that_are_off_say_nothing(config):
    assert traced(config, (0, 0)) == []


def test_a_window_says_nothing_of_fewer_tokens():
    assert traced(Config(), (0, 0), length=4) == []


PATTERN = SimpleNamespace(window_pattern="SL", sequence_len=256, n_layer=3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "widths", "length", "modules"),
    [
        (PATTERN, (128, 0, 0), 200, ()),
        (PATTERN, (129, 0, 0), 200, ()),
        (PATTERN, (0, 0, 0), 200, ("h.0",)),
        # Windows come in tiles of 128 keys: half of this context is less.
        (SimpleNamespace(window_pattern="SL", sequence_len=64, n_layer=3), (0, 0, 0), 60, ()),
    ],
)
def test_a_pattern_names_the_layers_that_see_half_the_context(config, widths, length, modules):
    findings = traced(config, widths, length)
    assert [finding.traced.modules for finding in findings] == [modules] * bool(modules)


def test_the_padding_of_a_configuration_is_known():
    model, ids = (
        sharpened(Model(SimpleNamespace(pad_token_id=PAD), (0, 0), "config")),
        texts([9, 5, 7], "left", seed=1),
    )
    with maskcli.trace() as watching:
        stepped(model, lambda: functional.cross_entropy(model(ids)[:, -1], torch.tensor([1, 2, 3])))
    findings = [finding for finding in watching.findings if finding.severity != "note"]
    assert [finding.code for finding in findings] == ["MSK202"]
    assert "pad id 0: pad id of Model.config" in findings[0].known
