"""Arguments for JAX, run by jax.nn.dot_product_attention itself: only it can say which keys they let a query see."""

import numpy as np
import pytest

from maskcli import convert
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse

LENGTH = 24


def seen(arguments):
    """The keys that weigh anything: values are one-hot, so that the output is the weights."""
    jax = pytest.importorskip("jax")
    ones = jax.numpy.ones((1, LENGTH, 1, LENGTH))
    values = jax.numpy.eye(LENGTH)[None, :, None, :]
    if "local_window_size" in arguments:
        arguments["local_window_size"] = tuple(arguments["local_window_size"])
    return np.asarray(jax.nn.dot_product_attention(ones, ones, values, **arguments))[0, :, 0] > 0


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("spec", "window"),
    [
        ("window:10,4", [10, 4]),
        ("causal & window:10 | window:4", [10, 4]),
        ("window:3", [3, 3]),
        ("causal & sliding:4", [3, 0]),
        ("window:0,5", [0, 5]),
        ("causal", None),
    ],
)
def test_jax_sees_what_the_spec_says(spec, window):
    arguments = convert(spec, "jax", keys=LENGTH).arguments
    assert arguments.get("local_window_size") == window
    assert np.array_equal(seen(arguments), build(parse(spec), Layout(1, LENGTH, LENGTH)).dense())


def test_saved_masks_get_windows_with_two_sides():
    p, k = np.arange(LENGTH)[:, None], np.arange(LENGTH)
    mask = (p - k <= 10) & (k - p <= 4)
    assert seen(convert(mask, "jax", convention="sdpa").arguments).tolist() == mask.tolist()
    flash = convert(mask, "flash-attn", convention="sdpa")
    assert (flash.arguments, flash.code) == (
        {"window_size": [10, 4]},
        "flash_attn_func(q, k, v, window_size=(10, 4))",
    )
    assert convert("window:10,-1", "flash-attn").arguments == {"window_size": [10, -1]}


def test_windows_without_a_limit_are_refused_where_there_are_none():
    for to in ("jax", "xformers"):
        assert "limit on both sides" in convert("window:10,-1", to).why
    assert convert("chunked:4,8", "flash-attn", keys=LENGTH).why.startswith(
        "flash-attn has no argument for chunked"
    )
