"""A classifier that reads its first token alone, told by the gradients of its attention."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from maskcli.meant.facts import FULL
from maskcli.tracing.calls import Call, Torch, quietly
from maskcli.tracing.facts import Facts
from maskcli.tracing.steps import Step

# Who says that attention is to see the whole text.
READS_FIRST = "{}, which reads what attention made of the first token alone,"
# Queries of a text of which the first could have seen something.
A_TEXT = 3


@dataclass(eq=False)
class Pooled:
    """Which models read their first token alone: no gradient of a class comes back to another query.

    That token has to see the whole text: under a causal mask it sees itself, and nothing of the text counts.
    What one other gradient shows is settled for the model; cross-attention brings the text in another way.
    """

    trouble: Callable[[Exception], None]
    _others: weakref.WeakSet[Facts] = field(default_factory=weakref.WeakSet)

    def follow(self, call: Call, kind: str, step: Step) -> None:
        """Wait for the gradient of a call."""
        output, queries = call.graph["output"], call.weights.shape[-2]
        if step.facts in self._others or not output.requires_grad:
            return
        if kind not in ("self", "encoder") or call.operands["output"].shape != output.shape:
            self._others.add(step.facts)
        elif queries >= A_TEXT:
            output.register_hook(partial(self._came, step))

    def _came(self, step: Step, gradient: Torch) -> None:
        """A gradient [.., Q, D] has come back."""
        if step.facts in self._others:
            return
        try:
            with quietly():
                others = step.two_sided or bool((gradient[..., 1:, :] != 0).any())
        except Exception as error:
            self.trouble(error)
            others = True
        if others:
            self._others.add(step.facts)
        step.first_alone = not others

    def step_ends(self, step: Step) -> None:
        """All gradients of a step have come."""
        told = step.first_alone and step.facts not in self._others
        if told and step.classes is not None and step.facts.at_most is None:
            step.facts.at_most = FULL, READS_FIRST.format(step.classes.source)
