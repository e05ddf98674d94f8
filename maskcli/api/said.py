"""The keywords that say what was meant, as help() lists them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from maskcli.meant.facts import FACTS, Said

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Keywords that are no facts of their own.
OTHERS = {
    "tokenizer": "A tokenizer.json, a folder or a name: special ids, text of tokens and chat template.",
    "template": "A file with another chat template.",
    "turn": "Markers of turns where no template tells them, such as 'end=151645'. One or several.",
    "select": "Codes, names or prefixes of the rules to report.",
    "ignore": "Codes, names or prefixes of rules that are not reported.",
}
WIDTH = 110


def listing_what_is_said(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, whose signature and docstring list the keywords of `Said` for its **said."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    by_name = inspect.Parameter.KEYWORD_ONLY
    said = [inspect.Parameter(name, by_name, default=None) for name in Said.__annotations__]
    vars(function)["__signature__"] = signature.replace(parameters=own + said)
    function.__doc__ = f"{inspect.getdoc(function)}\n\nWhat was meant:\n{_lines()}"
    return function


def _lines() -> str:
    """A keyword and what it says, in the order of `Said`."""
    facts = {fact.name: fact.help.replace("Repeatable.", "One or several.") for fact in FACTS.values()}
    helps = facts | OTHERS
    return "\n".join(
        textwrap.fill(f"{name}: {helps[name]}", WIDTH, initial_indent="  ", subsequent_indent="      ")
        for name in Said.__annotations__
    )
