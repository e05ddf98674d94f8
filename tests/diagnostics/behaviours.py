"""Behaviours made by hand, of masks that a layer has and should have."""

import numpy as np

from maskcli.diagnostics.behaviour import Behaviour, Compared, Expected, Seen
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse

LENGTH, LENGTHS = 24, (24, 16, 8)
LAYER = "model.layers.{}.self_attn"
FIRST = LAYER.format(0)


def rows(side, lengths=LENGTHS, length=LENGTH):
    """Real tokens [B, S] of texts padded on one side."""
    at = np.arange(length)
    return np.array([at < n if side == "right" else at >= length - n for n in lengths])


def layout(setting="no padding", past=0, queries=LENGTH, keys=LENGTH, documents=None, cross=False):
    """The layout of a run of three rows; a setting that names a side is padded there."""
    side = setting.partition(" ")[0]
    real = rows(side, length=keys) if side in ("right", "left") else None
    texts = None if documents is None else np.tile(np.repeat(np.arange(len(documents)), documents), (3, 1))
    return Layout(3, queries, keys, past=past, real=real, documents=texts, cross=cross)


def mask(what, over):
    """The mask of a spec over a layout, or a mask as it is."""
    return build(parse(what), over) if isinstance(what, str) else what


def seen(
    measured,
    expected="causal",
    setting="no padding",
    module=FIRST,
    told="config.json",
    soft=None,
    whole=True,
    over=None,
    **more,
):
    """Whom a layer sees and should see, each a spec or a mask over the layout of the setting.

    The cell of a query itself is always reached, as in a model.
    """
    over = over or layout(setting)
    none = Mask.from_intervals(over.shape, 0, 0)
    own = none
    if not over.cross:
        own = Mask.from_intervals(over.shape, over.own[:, None], over.own[:, None] + 1)
    meant = None if expected is None else Expected(expected, told, mask(expected, over), whole)
    facts = {
        "kind": "Attention",
        "keys": "cross" if over.cross else "self",
        "noise": 0,
        "columns": None,
    } | more
    reached = mask(measured, over) | own
    return Seen(
        module,
        setting=setting,
        reached=reached,
        soft=none if soft is None else mask(soft, over) - reached,
        layout=over,
        expected=meant,
        **facts,
    )


def behaviour(*layers, **more):
    """A model with these layers and comparisons."""
    facts = {"model": "TinyForCausalLM", "calls": 32, "forwards": 5} | more
    return Behaviour(mixing=tuple(dict.fromkeys(each.module for each in layers)), seen=layers, **facts)


def compared(test, difference, setting="right padding", limit=1e-4):
    """Two runs that differ by so much."""
    return Compared(test, f"what {test} compares", setting, difference, limit, ((1, 3),))
