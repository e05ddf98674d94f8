"""Whole runs that should agree, for what no mask shows: positions, caches, rows, and what masks leave out.

Exact tests change what some tokens may not see, in runs of one shape, and look for any change beyond
rounding:

- X1: the texts of other rows
- X2: what stands in padding
- X4: the tokens that follow
- X5: another packed document

Tests with a tolerance run the same text in another way:

- T1: rows in another order
- T2: each text alone, without padding
- T3: the same as T2 where that differs, with positions given to the padded batch
- T4: each packed document alone
- T5: token by token, with a cache
- T6: in three chunks, with a cache
- T7: in three chunks, with a static cache whose empty slots hold junk

Two ways of computing the same differ by rounding: over 24 healthy architectures by 7e-6 of the standard
deviation at most in float32, while the smallest of 21 injected bugs made 0.02. In bfloat16 there is no line
between the two, so these tests run in float32, on a copy where the model is of another type.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared
from maskcli.errors import MaskcliError
from maskcli.inputs.user_code import in_words
from maskcli.probing.activations import difference, noise_of, states_of
from maskcli.probing.caches import cache_layers
from maskcli.probing.plan import EMPTY_SLOTS, ROWS, Cached, Plan, Side
from maskcli.probing.runs import Run, UnmeasuredError, new_cache, packed, padded
from maskcli.probing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

# Of the standard deviation of the outputs, in float32: far above rounding and far below the smallest bug.
LIMIT = 1e-4
# Places that are told of those that differ.
TOLD_CELLS = 8


def exact(subject: Subject, plan: Plan, run: Run) -> list[Compared]:
    """The exact tests that a run allows: first several at once, one for each row, and one by one if any
    differs.
    """
    base = _outputs(subject, run)
    causal = _is_causal(subject, plan)
    together = [_changed(subject, run, test, base) for test in _turns(run, base, causal)]
    if all(each.agrees for each in together):
        return together
    return [_changed(subject, run, test, base) for test in _tests(run, base, causal)]


class _Test(NamedTuple):
    """A test: the cells [B, S] of the content to change, and the outputs [B, S] that may not notice.

    `name` says which argument, None for every one of that length.
    """

    test: str
    what: str
    cells: Array
    kept: Array
    name: str | None = None


def _turns(run: Run, base: Tensor, causal: bool) -> Iterator[_Test]:
    """Every row in each part once: all of it changes, what follows a token does, or what stands in padding."""
    size = run.length()
    if run.rows < ROWS or base.shape[1] != size or run.documents is not None or len(run.content) > 1:
        yield from _tests(run, base, causal)
        return
    real = _real(run, base)
    for turn, last in enumerate((0, size // 2, size - 2)):
        whole, later, padding = ((turn + step) % ROWS for step in range(ROWS))
        cells = np.zeros((run.rows, size), bool)
        cells[whole] = True
        cells[padding] = ~real[padding]
        kept = real.copy()
        kept[whole] = False
        if causal:
            cells[later, last + 1 :] = True
            kept[later, last + 1 :] = False
        names = "other rows, padding and the tokens that follow" if causal else "other rows and padding"
        yield _Test("X1+X2+X4" if causal else "X1+X2", f"{names} changed", cells, kept)


def _tests(run: Run, base: Tensor, causal: bool) -> Iterator[_Test]:
    """One test after another."""
    rows, length = base.shape[:2]
    real = _real(run, base)
    everything = slice(None)
    if run.rows > 1:
        for row, others in ((slice(0, 1), slice(1, None)), (slice(1, None), slice(0, 1))):
            for name in run.content:
                cells = _flags(run.rows, run.length(name), row, everything)
                kept = _flags(rows, length, others, everything)
                yield _Test("X1", "the texts of other rows changed", cells, kept & real, name)
    if run.real is not None:
        yield _Test("X2", "what stands in padding changed", ~run.real, real)
    if run.documents is not None:
        first = run.documents == run.documents.min()
        for cells in (first, ~first):
            yield _Test("X5", "another document changed", cells, ~cells)
    if causal:
        name = run.content[-1]
        size = run.length(name)
        for last in dict.fromkeys((0, size // 2, size - 2)):
            cells = _flags(run.rows, size, everything, slice(last + 1, None))
            kept = _flags(rows, length, everything, slice(0, last + 1))
            yield _Test("X4", f"the tokens behind token {last} changed", cells, kept & real, name)


def _is_causal(subject: Subject, plan: Plan) -> bool:
    """Whether nobody may see what follows: by the user's word, else by the configuration."""
    from maskcli.masks.spec import kinds_in

    plain = [each for each in plan.declared.expect if each.pattern is None]
    if plain:
        return bool({"causal", "sliding", "chunked"} & kinds_in(plain[-1].spec))
    return subject.config is not None and subject.config.spec == "causal"


def _flags(rows: int, length: int, some: slice, tokens: slice) -> Array:
    flags = np.zeros((rows, length), bool)
    flags[some, tokens] = True
    return flags


def _real(run: Run, outputs: Tensor) -> Array:
    """The outputs [B, S] that are those of tokens."""
    shape = tuple(outputs.shape[:2])
    return run.real if run.real is not None and run.real.shape == shape else np.ones(shape, bool)


def _changed(subject: Subject, run: Run, test: _Test, base: Tensor) -> Compared:
    """Change some tokens, and compare the outputs that may not notice."""
    length = test.cells.shape[1]
    names = [test.name] if test.name else [each for each in run.content if run.length(each) == length]
    changed: dict[str, Any] = {}
    for each in names:
        changed |= run.moved(subject, test.cells, each)
    gap = difference(_outputs(subject, run, changed), base).cpu().numpy()
    return _compared(test.test, test.what, run.setting, np.where(test.kept, gap, 0), noise_of(base))


def _compared(test: str, what: str, setting: str, gap: Array, limit: float) -> Compared:
    """A comparison of the differences [B, S]; NaN on one side alone is infinitely far."""
    gap = np.nan_to_num(gap, nan=np.inf)
    places = np.argwhere(gap > limit)[:TOLD_CELLS]
    cells = tuple((int(row), int(at)) for row, at in places)
    return Compared(test, what, setting, float(gap.max(initial=0.0)), limit, cells)


def _outputs(subject: Subject, run: Run, changed: dict[str, Any] | None = None) -> Tensor:
    """The last hidden states or logits [B, S, D]."""
    return states_of(run.answer(subject, changed), run.rows)[0]


# -- with a tolerance


def tolerant(subject: Subject, plan: Plan) -> tuple[list[Compared], list[str]]:
    """The tests with a tolerance, and in words which could not be made."""
    wide, note = in_float32(subject)
    tests = [partial(_order, wide, plan)]
    tests += [partial(_alone, wide, plan, side) for side in plan.pads if side != "none"]
    if plan.documents:
        tests.append(partial(_documents, wide, plan))
    if "cache" in plan.parts and not subject.encodes:
        tests += [partial(_in_parts, wide, plan, cached) for cached in plan.caches]

    found: list[Compared] = []
    missing = [note] if note else []
    for test in tests:
        try:
            found += test()
        except UnmeasuredError as reason:
            missing.append(str(reason))
    return found, missing


def in_float32(subject: Subject) -> tuple[Subject, str]:
    """The same model in float32, and what to say of that."""
    import torch

    narrow = (torch.float16, torch.bfloat16)
    if not any(each.dtype in narrow for each in subject.model.parameters()):
        return subject, ""
    model = copy.deepcopy(subject.model).float()
    return replace(subject, model=model), "whole runs were compared in float32, on a copy of the model"


def _gap(new: Tensor, old: Tensor) -> Array:
    """By how much outputs differ [.., S], over the standard deviation of the old ones."""
    spread = float(old.float().std()) if old.numel() > 1 else 1.0
    return (new - old).abs().amax(-1).float().cpu().numpy() / max(spread, 1e-30)


def _order(subject: Subject, plan: Plan) -> Iterator[Compared]:
    run = padded(subject, plan, "none")
    base = _outputs(subject, run)
    turned = {
        name: value.flip(0)
        for name, value in run.arguments.items()
        if getattr(value, "shape", (0,))[0] == run.rows
    }
    new = _outputs(subject, run, turned).flip(0)
    yield _compared("T1", "rows in another order", run.setting, _gap(new, base), LIMIT)


def _alone(subject: Subject, plan: Plan, side: Side) -> Iterator[Compared]:
    """Each text alone beside its row in the padded batch, with and without positions given."""
    run = padded(subject, plan, side)
    assert run.real is not None
    alone = [_row_alone(subject, run, row) for row in range(run.rows)]
    what = "each text alone, without padding"
    apart = _compared("T2", what, run.setting, _gaps_of_rows(run, _outputs(subject, run), alone), LIMIT)
    yield apart
    if not apart.agrees and subject.takes("position_ids") and not subject.encodes:
        positions = _positions(run, run.arguments[subject.first_argument])
        told = _outputs(subject, run, {"position_ids": positions})
        gaps = _gaps_of_rows(run, told, alone)
        yield _compared("T3", what + ", with position_ids", run.setting, gaps, LIMIT)


def _row_alone(subject: Subject, run: Run, row: int) -> Tensor:
    """The outputs [S, D] of one text without its padding."""
    import torch

    assert run.real is not None
    real = torch.from_numpy(np.flatnonzero(run.real[row]))
    name = subject.first_argument
    ids = run.arguments[name][row : row + 1]
    arguments = {key: value for key, value in run.arguments.items() if not hasattr(value, "shape")}
    arguments[name] = ids[:, real.to(ids.device)]
    if "decoder_input_ids" in run.arguments:
        arguments["decoder_input_ids"] = run.arguments["decoder_input_ids"][row : row + 1]
    single = replace(run, arguments=arguments, real=None)
    return _outputs(subject, single)[0]


def _gaps_of_rows(run: Run, whole: Tensor, alone: list[Tensor]) -> Array:
    """The differences [B, S] of rows of a padded batch from the same texts alone; 0 at padding."""
    gaps = np.zeros(tuple(whole.shape[:2]))
    real = _real(run, whole)
    for row, single in enumerate(alone):
        gaps[row, real[row]] = _gap(whole[row][real[row]], single)
    return gaps


def _positions(run: Run, ids: Tensor) -> Tensor:
    """Positions that count from the first real token; padding is given 0."""
    import torch

    assert run.real is not None
    counted = np.maximum(np.cumsum(run.real, axis=1) - 1, 0)
    return torch.from_numpy(counted).to(ids.device)


def _documents(subject: Subject, plan: Plan) -> Iterator[Compared]:
    """Packed documents beside each of them alone."""
    run = packed(subject, plan)
    whole = _outputs(subject, run)
    gaps = np.zeros(tuple(whole.shape[:2]))
    start = 0
    for length in plan.documents:
        part = slice(start, start + length)
        arguments = {
            name: value[:, part] if getattr(value, "ndim", 0) == 2 else value
            for name, value in run.arguments.items()
        }
        single = _outputs(subject, replace(run, arguments=arguments, documents=None))
        gaps[:, part] = _gap(whole[:, part], single)
        start += length
    yield _compared("T4", "each packed document alone", run.setting, gaps, LIMIT)


def _in_parts(subject: Subject, plan: Plan, cached: Cached) -> Iterator[Compared]:
    """A text in one run beside the same in steps, read from a cache."""
    run = padded(subject, plan, "none")
    whole = _outputs(subject, run)
    size = plan.length
    thirds = [size - 2 * (size * 7 // 24), size * 7 // 24, size * 7 // 24]
    setting = f"{cached} cache"
    if cached == "dynamic":
        steps = _steps(subject, run, cached, [1] * size)
        yield _compared("T5", "token by token", setting, _gap(steps, whole), LIMIT)
        chunks = _steps(subject, run, cached, thirds)
        yield _compared("T6", "in three chunks", setting, _gap(chunks, whole), LIMIT)
    else:
        chunks = _steps(subject, run, cached, thirds)
        what = "in three chunks, with junk in the empty slots"
        yield _compared("T7", what, setting, _gap(chunks, whole), LIMIT)


def _steps(subject: Subject, run: Run, cached: Cached, lengths: list[int]) -> Tensor:
    """The outputs of a text given in parts, one after another, to one cache."""
    import torch

    held = subject.cache_argument
    if held is None:
        raise UnmeasuredError(f"{subject.name} takes no cache of transformers")
    cache = new_cache(subject, cached, sum(lengths) + EMPTY_SLOTS)
    name = subject.first_argument
    ids = run.arguments[name]
    parts, start = [], 0
    for length in lengths:
        arguments = {name: ids[:, start : start + length], held: cache, "use_cache": True}
        try:
            with torch.no_grad():
                answer = subject.model(**arguments)
        except MaskcliError:
            raise
        except Exception as error:
            raise UnmeasuredError(f"{subject.name} fails with a {cached} cache: {in_words(error)}") from error
        parts.append(states_of(answer, run.rows)[0])
        start += length
        if cached == "static":
            _fill_empty(cache, start)
    return torch.cat(parts, 1)


def _fill_empty(cache: Any, used: int) -> None:
    """Put junk into the slots behind those in use."""
    for layer in cache_layers(cache):
        if layer is not None and layer.keys.shape[-2] > used:
            layer.keys[..., used:, :] = 3.0
            layer.values[..., used:, :] = 3.0
