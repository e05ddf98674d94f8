"""A rule: its identity, its needs, and the function that checks a scene; made by decorating that."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Generic, TypeVar

from maskcli.diagnostics.finding import Contrary, Found, Undecided
from maskcli.diagnostics.needs import needed
from maskcli.diagnostics.verdicts.measured import Judged
from maskcli.scene.scene import Saved, Scene
from maskcli.scene.tokens import Tokens

Item = TypeVar("Item")
Evidence = TypeVar("Evidence")
Answer = Found | Undecided | Contrary
Check = Callable[[Scene], Iterable[Answer]]
Probe = Callable[[Judged], Iterable[Found]]

# Up to the first stop that ends a sentence.
_SENTENCE = re.compile(r".+?[.](?= [-A-Z`]|$)")
# Rules whose findings say that the numbers are no weights of a softmax over keys: they say nothing about a
# mask.
NOT_WEIGHTS = ("MSK216", "MSK208", "MSK106")
# Causes of leaks that need no second word on where they go.
LEAKS = (*NOT_WEIGHTS, "MSK107", "MSK109", "MSK113", "MSK219")
# Findings on weights that say what a mask that they obey shows too much.
SEEN = ("MSK201", "MSK202", "MSK203", "MSK213", "MSK214", "MSK215", "MSK218", "MSK220")


@dataclass(frozen=True)
class Rule(Generic[Evidence]):
    """A row of the catalogue: a rule of `diagnose` checks a Scene, one of `probe` what was Judged.

    `needs` holds groups of alternatives: one of each group must be there (the words of needs.NEEDS). A
    finding is dropped when one of `explained_by`, looked for earlier, was found at the same place. The
    docstring of `check` documents the rule.
    """

    code: str
    name: str
    severity: str
    needs: tuple[tuple[str, ...], ...]
    check: Callable[[Evidence], Iterable[Answer]]
    explained_by: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it means, why it matters, how it looks in code and how to fix it."""
        return inspect.cleandoc(self.check.__doc__ or "")

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.text.partition("\n")[0]

    @property
    def why(self) -> str:
        """What comes of it: the first sentence of the second paragraph."""
        paragraph = " ".join(self.text.split("\n\n")[1].split())
        return _SENTENCE.match(paragraph)[0]  # type: ignore[index]


def rule(
    code: str,
    name: str,
    severity: str,
    needs: tuple[str | tuple[str, ...], ...],
    explained_by: tuple[str, ...] = (),
) -> Callable[[Check], Rule[Scene]]:
    """Make a function the check of a rule. Each of `needs` is a word of needs.NEEDS, or a tuple of which one
    will do.

    Example::

        @rule("MSK106", "nan-mask", "error", needs=("mask",))
        def nan_mask(scene: Scene) -> Iterator[Found]: ...
    """
    groups = needed(needs)
    return lambda check: Rule(code, name, severity, groups, check, explained_by)


def probed(
    code: str, name: str, severity: str, explained_by: tuple[str, ...] = (), option: str | None = None
) -> Callable[[Probe], Rule[Judged]]:
    """Make a function the check of a rule of `probe`; it needs a model that runs, and maybe an option.

    Where modules differ from what is expected, each cell already has its one reason: `explained_by` is for
    comparisons of the whole model, which speak of nothing that the mask of a layer explains.
    """
    needs = (("a model that runs",), *([(option,)] if option else []))
    return lambda check: Rule(code, name, severity, needs, check, explained_by)


def for_each(
    items: Callable[[Scene], Iterable[Item | Undecided]],
) -> Callable[[Callable[[Item, Scene], Answer | None]], Check]:
    """Make a function of one mask, map or text (and its scene) a check of all in the scene; it answers None
    to be silent.

    An item that already is Undecided is passed on.
    """

    def over_all(check: Callable[[Item, Scene], Answer | None]) -> Check:
        @wraps(check)
        def checked(scene: Scene) -> Iterator[Answer]:
            for item in items(scene):
                answer = item if isinstance(item, Undecided) else check(item, scene)
                if answer is not None:
                    yield answer

        return checked

    return over_all


def masks(scene: Scene) -> tuple[Saved, ...]:
    """The saved masks, for `for_each`."""
    return scene.masks


def sides(scene: Scene) -> tuple[Tokens, ...]:
    """The token tensors of each side of the batch, for `for_each`."""
    return scene.tokens
