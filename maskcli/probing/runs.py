"""Runs: the ways in which a model is given texts, and what is known of the tokens in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.inputs.user_code import in_words
from maskcli.probing.activations import Batch
from maskcli.probing.caches import copy_cache, is_cache
from maskcli.probing.calls import moved_states, other_states
from maskcli.probing.columns import generator_for
from maskcli.probing.plan import EMPTY_SLOTS, ROWS, Cached, Plan, Side
from maskcli.probing.subject import Subject, other_ids, random_ids

if TYPE_CHECKING:
    from torch import Tensor

# Arguments that name documents of a packed row; transformers tells them by positions that begin anew.
DOCUMENT_NAMES = ("document_ids", "segment_ids", "seq_idx", "doc_ids")
PADDING_NAMES = ("key_padding_mask", "src_key_padding_mask", "padding_mask")


class UnmeasuredError(Exception):
    """A run that the model cannot make; the message says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class Run:
    """One way to run a model.

    `setting` says which in words, `arguments` are what it is given, `content` the names of those that can
    be moved: ids [B, S] or states [B, S, D]. `real` bool [B, S] tells tokens from padding and `documents`
    int [B, S] which packed text they belong to, both None where all are one; `source_real` is for the keys
    of cross-attention. `past` tokens are in a cache.
    """

    setting: str
    arguments: Mapping[str, Any]
    content: tuple[str, ...]
    real: Array | None = None
    documents: Array | None = None
    source_real: Array | None = None
    past: int = 0

    @property
    def rows(self) -> int:
        """B."""
        return int(self.arguments[self.content[0]].shape[0])

    @property
    def batch(self) -> Batch:
        """What tells the axes of hidden states."""
        return Batch(self.rows, tuple(self.length(name) for name in self.content))

    def length(self, name: str | None = None) -> int:
        """S, of one of the content's arguments."""
        return int(self.arguments[name or self.content[0]].shape[1])

    def answer(self, subject: Subject, changed: Mapping[str, Any] | None = None, keep: Any = None) -> Any:
        """Run the model with its arguments, but for those `changed`; UnmeasuredError says what it refuses.

        Caches stay as they are, but for one to `keep` what is written to it.
        """
        import torch

        given = {**self.arguments, **(changed or {})}
        if subject.sequence_first:
            given |= {name: given[name].transpose(0, 1) for name in self.content}
        fresh = {
            name: copy_cache(value) if is_cache(value) and value is not keep else value
            for name, value in given.items()
        }
        try:
            with torch.no_grad():
                return subject.call(fresh)
        except Exception as error:
            shapes = ", ".join(f"{name} {_shape(value)}" for name, value in given.items())
            raise UnmeasuredError(f"{subject.name} fails on {shapes}: {in_words(error)}") from error

    def moved(self, subject: Subject, cells: Array, name: str | None = None, seed: int = 0) -> dict[str, Any]:
        """The argument `name` with other content where `cells` [B, S] says so."""
        import torch

        name = name or self.content[0]
        value = self.arguments[name]
        where = torch.from_numpy(np.ascontiguousarray(cells)).to(value.device)
        if value.is_floating_point():
            return {name: moved_states(value, other_states(value, generator_for(seed)), where, 1)}
        return {name: other_ids(subject, value, where)}

    def everywhere(self, subject: Subject, name: str) -> dict[str, Any]:
        """An argument with other content everywhere but in padding."""
        shape = self.arguments[name].shape[:2]
        real = self.real if self.real is not None and self.real.shape == shape else np.ones(shape, bool)
        return self.moved(subject, real, name)


def _shape(value: Any) -> str:
    return str(list(value.shape)) if hasattr(value, "shape") else type(value).__name__


def given(subject: Subject) -> Run:
    """The run with the arguments that a user gave."""
    arguments = dict(subject.given or {})
    content = tuple(name for name, value in arguments.items() if is_content(name, value))
    if not content:
        raise MaskcliError(
            f"{subject.name!r}: none of {', '.join(map(repr, arguments)) or 'no arguments'} are ids "
            "[B, S] or hidden states [B, S, D], so nothing can be moved"
        )
    if subject.sequence_first:
        arguments |= {name: arguments[name].transpose(0, 1) for name in content}
    first = arguments[content[0]].shape[:2]
    real = subject.real if subject.real is not None else _real_among(arguments, tuple(first))
    documents = next((_numbers(arguments[name]) for name in DOCUMENT_NAMES if name in arguments), None)
    run = Run("as given", arguments, content, real, documents)
    return replace(run, source_real=real) if len(content) > 1 else run


def is_content(name: str, value: Any) -> bool:
    """Whether an argument can be moved: ids of tokens, or states."""
    import torch

    if not torch.is_tensor(value):
        return False
    whole = not value.is_floating_point() and value.dtype != torch.bool and value.dim() == 2
    about_tokens = ("position", "token_type", "mask", "segment", "document", "doc_ids", "seq_idx", "label")
    ids = whole and not any(word in name for word in about_tokens)
    states = value.is_floating_point() and value.dim() == 3 and "mask" not in name
    return ids or states


def _real_among(arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Array | None:
    """Which tokens are real, by a padding mask among the arguments."""
    for name, value in arguments.items():
        if tuple(getattr(value, "shape", ())) != shape:
            continue
        if name in PADDING_NAMES:
            return ~_numbers(value).astype(bool)
        if name == "attention_mask":
            return _numbers(value).astype(bool)
    return None


def _numbers(value: Tensor) -> Array:
    return value.detach().cpu().numpy()


def padded(subject: Subject, plan: Plan, side: Side, length: int | None = None) -> Run:
    """Rows of three lengths, padded on one side; without padding, whole ones."""
    import torch

    size = length or plan.length
    ids = random_ids(subject, (ROWS, size), plan.seed)
    real = np.ones((ROWS, size), bool)
    arguments: dict[str, Any] = {}
    if side != "none":
        at = np.arange(size)
        lengths = np.array([size, size * 2 // 3, size // 3])[:, None]
        real = at < lengths if side == "right" else at >= size - lengths
        arguments |= _told_padding(subject, torch.from_numpy(real).to(ids.device))
        ids = torch.where(torch.from_numpy(real).to(ids.device), ids, _pad_id(subject))

    arguments = {subject.first_argument: ids, **arguments, **_usual(subject)}
    content: tuple[str, ...] = (subject.first_argument,)
    setting = "no padding" if side == "none" else f"{side} padding"
    run = Run(setting, arguments, content, None if side == "none" else real)
    if not subject.encodes:
        return run
    target = random_ids(subject, (ROWS, size - 3), plan.seed + 1)
    both = {**arguments, "decoder_input_ids": target}
    return replace(run, arguments=both, content=(*content, "decoder_input_ids"), source_real=run.real)


def _usual(subject: Subject) -> dict[str, Any]:
    return {"use_cache": False} if subject.takes("use_cache") else {}


def _pad_id(subject: Subject) -> int:
    pad = subject.said.get("pad_token_id")
    return pad if isinstance(pad, int) and 0 <= pad < (subject.vocabulary or 0) else 0


def takes_padding(subject: Subject) -> bool:
    """Whether a model can be told which tokens are padding."""
    return any(subject.takes(name) for name in ("attention_mask", *PADDING_NAMES))


def _told_padding(subject: Subject, real: Tensor) -> dict[str, Any]:
    """The argument that tells a model of padding: 1 for a token, or True for padding, by its name."""
    if subject.takes("attention_mask"):
        return {"attention_mask": real.long()}
    for name in PADDING_NAMES:
        if subject.takes(name):
            return {name: ~real}
    raise UnmeasuredError(f"{subject.name} takes no attention_mask or other mask of padding")


def packed(subject: Subject, plan: Plan) -> Run:
    """Rows of several texts, told by positions that begin anew or by the name of the text."""
    import torch

    lengths = plan.documents
    ids = random_ids(subject, (ROWS, sum(lengths)), plan.seed)
    names = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.concatenate([np.arange(each) for each in lengths])
    documents = np.broadcast_to(names, (ROWS, len(names)))

    def as_rows(row: Array) -> Tensor:
        return torch.from_numpy(np.tile(row, (ROWS, 1))).to(ids.device)

    told = {name: as_rows(names) for name in DOCUMENT_NAMES if subject.takes(name)}
    if subject.takes("position_ids"):
        told["position_ids"] = as_rows(positions)
    if not told or subject.encodes:
        raise UnmeasuredError(f"{subject.name} takes nothing that tells packed documents apart")
    arguments = {subject.first_argument: ids, **told, **_usual(subject)}
    return Run("packed", arguments, (subject.first_argument,), None, documents)


def decoding(subject: Subject, plan: Plan, cached: Cached, queries: int) -> Run:
    """The last tokens of a text whose others are in a cache."""

    held = subject.cache_argument
    if held is None or subject.encodes:
        raise UnmeasuredError(f"{subject.name} takes no cache of transformers")
    if subject.sees_all and not plan.declared.expect:
        raise UnmeasuredError(f"{subject.name} is an encoder by its configuration, and decodes nothing")
    whole = padded(subject, plan, "none")
    name = subject.first_argument
    ids = whole.arguments[name]
    past = plan.length - queries
    cache = new_cache(subject, cached, plan.length + EMPTY_SLOTS)
    arguments = {name: ids[:, :past], held: cache, "use_cache": True}
    replace(whole, arguments=arguments).answer(subject, keep=cache)
    tokens = "1 token" if queries == 1 else f"{queries} tokens"
    setting = f"{tokens} after {past}, {cached} cache"
    return Run(setting, {**arguments, name: ids[:, past:]}, whole.content, past=past)


def new_cache(subject: Subject, cached: Cached, size: int) -> Any:
    """An empty cache of transformers, for the layers of a model."""
    from transformers import DynamicCache, StaticCache

    config = getattr(subject.model, "config", None)
    try:
        if cached == "dynamic":
            return DynamicCache(config=config)
        return StaticCache(config=config, max_cache_len=size)
    except Exception as error:
        raise UnmeasuredError(f"there is no {cached} cache for {subject.name}: {in_words(error)}") from error
