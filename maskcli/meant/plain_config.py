"""A configuration that is a dataclass, namespace or dict: what it says by the usual names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskcli.meant.model_config import LAYER_COUNTS, Config

# What models call their configuration, and what that calls a window and the special ids.
HELD_AS = ("config", "cfg", "conf", "args", "hparams", "hps", "params")
WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "window_size",
    "attention_window",
    "attention_window_size",
    "attn_window",
    "attn_window_size",
    "local_window",
    "local_window_size",
    "window",
)
PADS, ENDS, BEGINS = ("pad_token_id", "pad_id"), ("eos_token_id", "eos_id"), ("bos_token_id", "bos_id")
# Words of a switch that turns a window off.
SWITCHED = ("use_sliding_window", "use_window", "sliding", "use_local_attention")
# nanochat's `window_pattern` has a letter for each layer, again and again: S sees half the context, L all of
# it, and so does the last layer. Its kernel has windows in whole tiles of so many keys.
PATTERN, CONTEXT, TILE = "window_pattern", ("sequence_len", "block_size", "max_seq_len"), 128
# More layers than any model has.
LAYERS = 1000


@dataclass(frozen=True)
class Plain:
    """A configuration, with the windows of its layers.

    `layers` are specs of what a layer of a causal model may see at most (None: anything), `each` says that
    they were named one by one; otherwise some layers may have none. `keys` is how far a window looks back.
    """

    config: Config
    layers: tuple[str | None, ...] = ()
    each: bool = False
    keys: int = 0


def plain_config(model: Any) -> Plain | None:
    """What an object says by its attribute `config`, or one that is called so; None where it has none.

    Libraries count a window with the query's own key or without it: what may be seen at most is the wider.

    Example::

        plain_config(SimpleNamespace(config={"window_size": 4, "n_layer": 2})).layers  # ("sliding:5",) * 2
    """
    for name in HELD_AS:
        said = _said(getattr(model, name, None))
        if said:
            return _read(said, f"{type(model).__name__}.{name}")
    return None


def _read(said: Mapping[str, Any], source: str) -> Plain:
    count = next(filter(None, (_whole(said.get(name)) for name in LAYER_COUNTS)), 0)
    config = Config(
        path="",
        source=source,
        spec=None,
        layers=(),
        absolute=None,
        pad_id=_id(said, PADS),
        bos_ids=_ids(said, BEGINS),
        eos_ids=_ids(said, ENDS),
        vocab_size=None,
    )
    if any(said.get(name) is False for name in SWITCHED):
        return Plain(config)
    name, window = next(((name, width) for name in WINDOWS if (width := _width(said.get(name)))), ("", 0))
    pattern = said.get(PATTERN)
    if isinstance(pattern, str) and pattern and set(pattern.upper()) <= {"S", "L"}:
        return _patterned(config, said, pattern.upper(), window, count)
    if not window:
        return Plain(config)
    return Plain(_named(config, name, said), (f"sliding:{window + 1}",) * LAYERS, keys=window + 1)


def _patterned(config: Config, said: Mapping[str, Any], pattern: str, window: int, count: int) -> Plain:
    """The layers of a pattern of letters, of which the last sees all."""
    context = next(filter(None, (_whole(said.get(name)) for name in CONTEXT)), 0)
    short = window or -(-(context // 2) // TILE) * TILE
    if not short or not count:
        return Plain(config)
    letters = [pattern[layer % len(pattern)] for layer in range(min(count, LAYERS) - 1)]
    layers = tuple(f"sliding:{short + 1}" if letter == "S" else None for letter in letters)
    return Plain(_named(config, PATTERN, said), (*layers, None), each=True, keys=short + 1)


def _named(config: Config, name: str, said: Mapping[str, Any]) -> Config:
    """A configuration that says which of its values speaks of windows."""
    return Config(**{**vars(config), "source": f"{config.source} ({name} {said[name]})"})


def _said(held: Any) -> Mapping[str, Any]:
    """The values of a dict, or of an object's own attributes; nothing for a module."""
    if isinstance(held, Mapping):
        return held
    said = getattr(held, "__dict__", {})
    return {} if "_parameters" in said else said


def _width(value: Any) -> int:
    """A window, or how far one of (behind, ahead) goes back; 0 for none."""
    if isinstance(value, tuple | list) and len(value) == 2:
        value = value[0]
    return _whole(value)


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _id(said: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((said[name] for name in names if type(said.get(name)) is int and said[name] >= 0), None)


def _ids(said: Mapping[str, Any], names: tuple[str, ...]) -> tuple[int, ...]:
    known = _id(said, names)
    return () if known is None else (known,)
