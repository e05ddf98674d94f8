"""Element types: what each library calls them, how they lie in a file, and how their bits become numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array

# Writes the numbers that raw elements stand for into an array of the same shape.
Decoder = Callable[[Array, Array], None]


class Bits(NamedTuple):
    """What the bits of a float type tell without being decoded.

    Seen as `unsigned` integers, elements below `infinity` are the numbers from 0 up, in their order; at or
    above it lie infinity, NaN and everything with a sign. `shift` to the left makes float32 of them, `scale`
    times too small; None: they have that size already, or need a table.
    """

    unsigned: str
    infinity: int
    shift: int | None = None
    scale: float = 1.0


def copy(raw: Array, out: Array) -> None:
    """Elements as they are, in another byte order at most."""
    np.copyto(out, raw)


def _decode_bool(raw: Array, out: Array) -> None:
    """Any byte but 0 is True, so that no other byte reaches numpy as a bool."""
    np.not_equal(raw, 0, out=out)


def _decode_bfloat16(raw: Array, out: Array) -> None:
    """A bfloat16 is the upper half of a float32."""
    bits = out.view(np.uint32)
    np.copyto(bits, raw)
    np.left_shift(bits, 16, out=bits)


def _decode_float16(raw: Array, out: Array) -> None:
    """Times 2^112 moves the exponent from bias 15 to 127, exactly; six times faster than numpy's cast."""
    if not raw.dtype.isnative or raw.size == 0:
        np.copyto(out, raw)
        return

    half = raw.view(np.uint16)
    signed = int(half.max()) >= 0x7C00
    if signed and int((half & 0x7FFF).max()) >= 0x7C00:  # Inf and NaN
        np.copyto(out, raw)
        return

    if signed:
        wide = out.view(np.int32)
        np.copyto(wide, raw.view(np.int16))
        np.left_shift(wide, 13, out=wide)
        np.bitwise_and(wide, -0x70002000, out=wide)
    else:
        bits = out.view(np.uint32)
        np.copyto(bits, half)
        np.left_shift(bits, 13, out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)


def _float8_table(mantissa_bits: int, infinities: bool) -> Array:
    """The 256 values of a float8: IEEE with infinities (e5m2), or finite with a NaN for each sign (e4m3)."""
    exponent_bits = 7 - mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = codes & (2**mantissa_bits - 1)
    fraction = mantissa / 2.0**mantissa_bits + (exponent > 0)
    value = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    if infinities:
        top = exponent == 2**exponent_bits - 1
        value[top & (mantissa == 0)] = np.inf
        value[top & (mantissa != 0)] = np.nan
    else:
        value[(codes & 0x7F) == 0x7F] = np.nan
    table: Array = np.where(codes >> 7, -value, value).astype(np.float32)
    return table


def _decode_float8(mantissa_bits: int, infinities: bool) -> Decoder:
    table = _float8_table(mantissa_bits, infinities)

    def decode(raw: Array, out: Array) -> None:
        np.take(table, raw, out=out, mode="clip")

    return decode


_E4M3 = _decode_float8(3, infinities=False)
_E5M2 = _decode_float8(2, infinities=True)


class DType(NamedTuple):
    """One element type, called `name` by numpy (ml_dtypes) and torch.

    `raw` is how it is stored (None: not readable, only named), `wide` what rows become, `safetensors` its
    word there, `storage` that of torch's typed storages, which every type had before torch 2.0.
    """

    name: str
    bits: int
    raw: str | None
    wide: str
    safetensors: str | None
    storage: str | None = None
    pattern: Bits | None = None
    decode: Decoder = copy


_HALF = Bits("uint16", 0x7C00, 13, 2.0**112)
_TABLE = (
    DType("bool", 8, "<u1", "bool", "BOOL", "Bool", None, _decode_bool),
    DType("uint8", 8, "<u1", "uint8", "U8", "Byte"),
    DType("int8", 8, "<i1", "int8", "I8", "Char"),
    DType("uint16", 16, "<u2", "uint16", "U16"),
    DType("int16", 16, "<i2", "int16", "I16", "Short"),
    DType("uint32", 32, "<u4", "uint32", "U32"),
    DType("int32", 32, "<i4", "int32", "I32", "Int"),
    DType("uint64", 64, "<u8", "uint64", "U64"),
    DType("int64", 64, "<i8", "int64", "I64", "Long"),
    DType("float16", 16, "<f2", "float32", "F16", "Half", _HALF, _decode_float16),
    DType("bfloat16", 16, "<u2", "float32", "BF16", "BFloat16", Bits("uint16", 0x7F80, 16), _decode_bfloat16),
    DType("float32", 32, "<f4", "float32", "F32", "Float", Bits("uint32", 0x7F80_0000)),
    DType("float64", 64, "<f8", "float64", "F64", "Double", Bits("uint64", 0x7FF0_0000_0000_0000)),
    DType("float8_e4m3fn", 8, "<u1", "float32", "F8_E4M3", None, Bits("uint8", 0x7F), _E4M3),
    DType("float8_e5m2", 8, "<u1", "float32", "F8_E5M2", None, Bits("uint8", 0x7C), _E5M2),
    DType("float8_e4m3fnuz", 8, None, "float32", "F8_E4M3FNUZ"),
    DType("float8_e5m2fnuz", 8, None, "float32", "F8_E5M2FNUZ"),
    DType("float8_e8m0fnu", 8, None, "float32", "F8_E8M0"),
    DType("float4_e2m1fn_x2", 8, None, "float32", None),
    DType("F4", 4, None, "float32", "F4"),
    DType("F6_E2M3", 6, None, "float32", "F6_E2M3"),
    DType("F6_E3M2", 6, None, "float32", "F6_E3M2"),
    DType("complex32", 32, None, "float32", None),
    DType("complex64", 64, None, "float32", "C64", "ComplexFloat"),
    DType("complex128", 128, None, "float64", None, "ComplexDouble"),
)
DTYPES = {dtype.name: dtype for dtype in _TABLE}
BITS = {dtype.name: dtype.pattern for dtype in _TABLE if dtype.pattern is not None}
READABLE = tuple(dtype.name for dtype in _TABLE if dtype.raw is not None)
WRITABLE = tuple(name for name in READABLE if not name.startswith("float8"))


def decoder(name: str) -> Decoder:
    """How raw elements of this type become numbers."""
    return DTYPES[name].decode if name in DTYPES else copy


def decoded(name: str, raw: Array) -> Array:
    """Raw elements as numbers: bfloat16 and float8 as float32 of equal value, others in their own type."""
    dtype = DTYPES[name]
    if dtype.decode is copy or name == "float16":
        return raw.astype(np.dtype(name), copy=False)
    out: Array = np.empty(raw.shape, dtype.wide)
    dtype.decode(raw, out)
    return out


def numpy_dtype(dtype: np.dtype[Any]) -> tuple[str, np.dtype[Any] | None]:
    """The name of a numpy type and the type to read its elements as; None where they cannot be read.

    Two anonymous bytes (`<V2`) are bfloat16: that is what np.save makes of one, and nothing else in use.
    """
    anonymous = dtype.str[1:] == "V2" and dtype.names is None
    name = "bfloat16" if anonymous else dtype.name
    known = DTYPES.get(name)
    if known is None or known.raw is None:
        return name, None
    if dtype.kind in "iuf":
        return name, dtype
    return name, np.dtype(known.raw).newbyteorder("=")


def unreadable(name: str, dtype: str) -> str:
    """The sentence for a tensor whose type has no reader."""
    types = ", ".join(READABLE)
    return f"tensor {name!r} is of type {dtype[:80]}, not one of {types}; convert it before saving"
