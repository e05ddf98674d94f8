"""NaN gradients of attention calls, followed to the call that they come through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from maskcli.diagnostics.catalogue import named
from maskcli.diagnostics.finding import Finding, Where
from maskcli.tracing.calls import Call, Place, Torch, has_nan, quietly

# What makes the masks of a call.
Masks = Callable[[], dict[str, Any]]


@dataclass(eq=False)
class Gradients:
    """Looks at gradients as they come back, until one is NaN: the first names the call that it came through.

    Nothing here may hold on to a call's own tensors, or their graph would never be freed.
    """

    program: str
    add: Callable[[Finding, Place], None]
    trouble: Callable[[Exception], None]
    broken: bool = False

    def follow(self, call: Call, place: Place) -> None:
        """Wait for the gradients of a call."""
        output = call.graph["output"]
        if self.broken or not output.requires_grad:
            return
        place = place.here()
        given = {name: tensor for name, tensor in call.graph.items() if tensor.requires_grad}
        inputs = _of_one_operator(output.grad_fn, given)
        if inputs is not None:
            # One look at all that passes through: a hook on every tensor costs several times as much.
            passed = partial(self._passed, output.output_nr, inputs, call.masks, place)
            output.grad_fn.register_hook(passed)
            return
        arrived: list[bool] = []
        for name, tensor in given.items():
            tensor.register_hook(partial(self._came, name, arrived, call.masks, place))

    def _passed(
        self,
        output: int,
        inputs: dict[str, int],
        masks: Masks,
        place: Place,
        behind: tuple[Torch | None, ...],
        before: tuple[Torch | None, ...],
    ) -> None:
        """Gradients went through an operator, from that of its output to those of its inputs."""
        arrived: list[bool] = []
        self._came("output", arrived, masks, place, before[output])
        for name, at in inputs.items():
            self._came(name, arrived, masks, place, behind[at])

    def _came(
        self, name: str, arrived: list[bool], masks: Masks, place: Place, gradient: Torch | None
    ) -> None:
        """A gradient came back; `arrived` tells whether that of the output was NaN."""
        if self.broken or gradient is None:
            return
        try:
            nan = has_nan(gradient)
            if name == "output":
                arrived.append(nan)
            if nan:
                self.broken = True
                self.add(self._finding(name, any(arrived), masks, place), place)
        except Exception as error:
            self.trouble(error)

    def _finding(self, name: str, arrived: bool, masks: Masks, place: Place) -> Finding:
        code, severity = "MSK305", "error"
        message = f"the gradient of {name} turns NaN in this attention, while that of its output is finite"
        fix = (
            "look for values that overflow on the way back: very large scores, or a square root or logarithm "
            "of 0 behind the softmax"
        )
        if arrived:
            severity = "warning"
            message = (
                "the gradient that reaches the output of this attention is NaN already: it comes from what "
                "follows, a layer or the loss"
            )
            fix = "look at what computes with this output, down to the loss"
        elif _empty_rows(masks()):
            code = "MSK301"
            message = (
                f"the gradient of {name} turns NaN in this attention, whose mask leaves some query no key"
            )
            fix = (
                "keep one key a row or use a finite fill; nan_to_num behind the softmax hides the NaN on the "
                "way forward only"
            )
        return Finding(
            code=code,
            name=named(code).name,
            severity=severity,
            file=self.program,
            tensors=(f"{place.module}.{name}",),
            message=message,
            fix=fix,
            see=f"maskcli rule {code}",
            where=Where(),
            evidence={"gradient": name},
        )


def _of_one_operator(operator: Any, graph: dict[str, Torch]) -> dict[str, int] | None:
    """Where an operator that made the output takes each of the other tensors; None where it takes not all."""
    taken = {source: at for at, source in enumerate(operator.next_functions)}
    places = {
        name: taken.get((tensor.grad_fn, tensor.output_nr))
        for name, tensor in graph.items()
        if name != "output"
    }
    known = {name: at for name, at in places.items() if at is not None}
    return known if len(known) == len(places) else None


def _empty_rows(masks: dict[str, Any]) -> bool:
    """Whether a mask leaves a query no key."""
    import torch

    with quietly():
        given = [mask for mask in masks.values() if isinstance(mask, torch.Tensor)]
        closed = [~mask if mask.dtype == torch.bool else mask == -np.inf for mask in given]
        return any(bool(cells.all(-1).any()) for cells in closed)
