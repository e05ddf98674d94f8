"""Whole runs that should agree: the same text in another way, for what no mask shows.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared
from maskcli.probing.caches import cache_layers
from maskcli.probing.exact import is_causal
from maskcli.probing.plan import EMPTY_SLOTS, Cached, Plan, Side
from maskcli.probing.runs import Run, UnmeasuredError, new_cache, packed, padded
from maskcli.probing.subject import Subject
from maskcli.probing.whole import by_token, compared, outputs_in, outputs_of, real_outputs

if TYPE_CHECKING:
    from torch import Tensor

# Of the standard deviation of the outputs, in float32: far above rounding and far below the smallest bug.
LIMIT = 1e-4
# Longer texts are compared in their masks; positions and caches go wrong in short ones.
LONGEST = 64


def tolerant(subject: Subject, plan: Plan) -> tuple[list[Compared], list[str], list[str]]:
    """The tests with a tolerance, and in words which could not be made and how the others were."""
    wide, note = in_float32(subject)
    plan = replace(plan, length=min(plan.length, LONGEST))
    tests = [partial(_order, wide, plan)]
    tests += [partial(_alone, wide, plan, side) for side in plan.pads if side != "none"]
    if plan.documents:
        tests.append(partial(_documents, wide, plan))
    if "cache" in plan.parts and not subject.encodes and is_causal(subject, plan):
        tests += [partial(_in_parts, wide, plan, cached) for cached in plan.caches]

    found: list[Compared] = []
    missing: list[str] = []
    for test in tests:
        try:
            found += test()
        except UnmeasuredError as reason:
            missing.append(str(reason))
    return found, missing, [note] if note else []


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
    # NaN and infinities that both have are no difference.
    same = (new == old) | (new.isnan() & old.isnan())
    distance: Array = (new - old).abs().masked_fill(same, 0).amax(-1).float().cpu().numpy()
    return distance / max(spread, 1e-30)


def _order(subject: Subject, plan: Plan) -> Iterator[Compared]:
    run = padded(subject, plan, "none")
    base = outputs_of(subject, run)
    turned = {
        name: value.flip(0)
        for name, value in run.arguments.items()
        if getattr(value, "shape", (0,))[0] == run.rows
    }
    new = outputs_of(subject, run, turned).flip(0)
    yield compared("T1", "rows in another order", run.setting, _gap(new, base), LIMIT)


def _alone(subject: Subject, plan: Plan, side: Side) -> Iterator[Compared]:
    """Each text alone beside its row in the padded batch, with and without positions given."""
    run = padded(subject, plan, side)
    assert run.real is not None
    alone = [_row_alone(subject, run, row) for row in range(run.rows)]
    what = "each text alone, without padding"
    apart = compared("T2", what, run.setting, _gaps_of_rows(run, outputs_of(subject, run), alone), LIMIT)
    yield apart
    if not apart.agrees and subject.takes("position_ids") and not subject.encodes:
        positions = _positions(run, run.arguments[subject.first_argument])
        told = outputs_of(subject, run, {"position_ids": positions})
        gaps = _gaps_of_rows(run, told, alone)
        yield compared("T3", what + ", with position_ids", run.setting, gaps, LIMIT)


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
    return outputs_of(subject, single)[0]


def _gaps_of_rows(run: Run, whole: Tensor, alone: list[Tensor]) -> Array:
    """The differences [B, S] of rows of a padded batch from the same texts alone; 0 at padding."""
    gaps = np.zeros(tuple(whole.shape[:2]))
    real = real_outputs(run, whole)
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
    whole = outputs_of(subject, run)
    if not by_token(run, whole):
        return
    gaps = np.zeros(tuple(whole.shape[:2]))
    start = 0
    for length in plan.documents:
        part = slice(start, start + length)
        arguments = {
            name: value[:, part] if getattr(value, "ndim", 0) == 2 else value
            for name, value in run.arguments.items()
        }
        single = outputs_of(subject, replace(run, arguments=arguments, documents=None))
        gaps[:, part] = _gap(whole[:, part], single)
        start += length
    yield compared("T4", "each packed document alone", run.setting, gaps, LIMIT)


def _in_parts(subject: Subject, plan: Plan, cached: Cached) -> Iterator[Compared]:
    """A text in one run beside the same in steps, read from a cache."""
    run = padded(subject, plan, "none")
    whole = outputs_of(subject, run)
    if not by_token(run, whole):
        return
    size = plan.length
    thirds = [size - 2 * (size * 7 // 24), size * 7 // 24, size * 7 // 24]
    setting = f"{cached} cache"
    if cached == "dynamic":
        steps = _steps(subject, run, cached, [1] * size)
        yield compared("T5", "token by token", setting, _gap(steps, whole), LIMIT)
        chunks = _steps(subject, run, cached, thirds)
        yield compared("T6", "in three chunks", setting, _gap(chunks, whole), LIMIT)
    else:
        chunks = _steps(subject, run, cached, thirds)
        what = "in three chunks, with junk in the empty slots"
        yield compared("T7", what, setting, _gap(chunks, whole), LIMIT)


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
        answer = replace(run, arguments=arguments).answer(subject, keep=cache)
        parts.append(outputs_in(answer, run.batch)[0])
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
