"""How far rounding takes numbers of each type: the one table of tolerances by dtype.

Healthy row sums err by at most 1.1e-6 (float32), 3.4e-4 (float16) and 2.9e-3 (bfloat16), and log W - S strays
by 0, 0.015 and 0.022 on allowed keys; both measured over models and kernels.
"""

from __future__ import annotations

from typing import NamedTuple


class Tolerances(NamedTuple):
    """What numbers of one type may be off by.

    `sums`: a row sum from 1; beyond it a row is no softmax. `rounding`: what rounding alone takes a healthy
    sum from 1 by. `bias`: log W - S on allowed keys. `logs`: the log of the second of two softmaxes from a
    row of probabilities. `products`: W V from the saved output, as a share of the largest value. `cells`:
    weights that two kernels compute, about the resolution near 1 (2^-23, 2^-10, 2^-7) a few times over.
    """

    sums: float
    rounding: float
    bias: float
    logs: float
    products: float
    cells: float


_OF = {
    "float64": Tolerances(1e-4, 1e-5, bias=1e-3, logs=1e-5, products=1e-3, cells=1e-6),
    "float32": Tolerances(1e-4, 1e-5, bias=1e-3, logs=1e-4, products=1e-3, cells=1e-5),
    "float16": Tolerances(2e-3, 5e-4, bias=0.03, logs=2e-3, products=2e-2, cells=2e-3),
    "bfloat16": Tolerances(1e-2, 4e-3, bias=0.06, logs=1.2e-2, products=5e-2, cells=1.6e-2),
}
# Of eight bits and fewer; such cells, and whole numbers, are compared exactly.
_COARSE = Tolerances(0.1, 0.05, bias=0.2, logs=0.1, products=0.1, cells=0.0)

# Of eight bits: half a step between two numbers, as a share of them, and near 0, where steps are all alike.
_FLOAT8 = {"float8_e4m3fn": (2.0**-4, 2.0**-10), "float8_e5m2": (2.0**-3, 2.0**-17)}

# Of the types that round positions. Up to EXACT every whole number has a value of its own.
SIGNIFICANT_BITS = {"bfloat16": 8, "float16": 11}
EXACT = {dtype: 2**bits for dtype, bits in SIGNIFICANT_BITS.items()}


def tolerances(dtype: str) -> Tolerances:
    """The tolerances of a dtype by its name."""
    return _OF.get(dtype, _COARSE)


def sum_tolerances(dtype: str, keys: int) -> tuple[float, float]:
    """`sums` and `rounding` of rows of so many keys.

    In eight bits both are the worst that rounding can do to equal weights: 1/700 becomes 1/512, and all
    weights below 1/1024 vanish from e4m3, so that a sum over many keys may be anything.
    """
    if dtype in _FLOAT8:
        share, step = _FLOAT8[dtype]
        return share + keys * step, share + keys * step
    known = tolerances(dtype)
    return known.sums, known.rounding


def tells_equal(dtype: str) -> bool:
    """Whether equal weights can show equal scores: in eight bits most of a row is the same number."""
    return dtype in _OF


def has_digits(dtype: str) -> bool:
    """Whether equal numbers are no accident; scores near 0 in sixteen bits can be for want of digits."""
    return dtype in ("float32", "float64")
