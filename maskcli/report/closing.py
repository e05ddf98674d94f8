"""The last lines of a report: what was found, by how many rules, and which options would let more decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from maskcli.diagnostics.diagnose import Summary
from maskcli.masks.words import counted
from maskcli.report.terminal import STYLES, hang

if TYPE_CHECKING:
    from rich.console import Console

# Options that are named, at most.
TRIED = 3


def print_closing(closing: str, total: Summary, console: Console, verbose: bool = False) -> None:
    """What was found, and how much could be decided; with `verbose` what each of the other rules lacks."""
    from rich.text import Text

    console.print(Text(closing, style=_style(total)))
    if total.decided < total.asked or (total.asked and total.worst() is None):
        hang(console, "", could_look(total, verbose))
    if verbose:
        for line in undecided(total.undecided):
            console.print(Text(line))


def _style(total: Summary) -> str:
    """The colour of the counts: that nothing was found is good news where most rules could look."""
    worst = total.worst()
    if worst is not None:
        return STYLES[worst]
    return "bold green" if 2 * len(total.decided) > len(total.asked) else "bold"


def could_look(total: Summary, verbose: bool = False) -> str:
    """How many rules could look, at what, and the options that would let more of them."""
    decided, asked = len(total.decided), len(total.asked)
    told = f"{decided} of {counted(asked, 'rule')} could look"
    if total.worst() is None and total.roles:
        told += f", at {_roles(total)}"
    if decided < asked and not verbose:
        told += "; -v says what the others lack"
    tried = ", ".join(f"{option} ({more} more)" for option, more in hints(total))
    return f"{told}. try: {tried}" if tried else told


def hints(total: Summary) -> list[tuple[str, int]]:
    """Options and how many more rules each would let decide, those that one named before would not."""
    left = {option: codes - total.decided for option, codes in total.options.items()}
    tried: list[tuple[str, int]] = []
    while left and len(tried) < TRIED:
        best = max(left, key=lambda option: len(left[option]))
        codes, name = left.pop(best), best.partition(" ")[0]
        if not codes:
            break
        tried.append((best, len(codes)))
        # Of the values of one option one is meant.
        left = {each: more - codes for each, more in left.items() if each.partition(" ")[0] != name}
    return tried


def _roles(total: Summary) -> str:
    """How many tensors of each role were checked, in words."""
    return ", ".join(
        f"{count} {role if role.endswith('s') else role.replace('_', ' ')}"
        for role, count in total.roles.items()
    )


def undecided(
    missing: Mapping[tuple[str, ...], frozenset[str]], title: str = "could not be decided, for want of:"
) -> list[str]:
    """What could not be decided: for each set of needs, the codes of the rules."""
    needs: dict[str, set[str]] = {}
    for group, codes in missing.items():
        needs.setdefault(" and ".join(group), set()).update(codes)
    lines = [f"  {need}: {', '.join(_ranges(sorted(codes)))}" for need, codes in needs.items()]
    return [title, *lines] if lines else []


def _ranges(codes: list[str]) -> Iterator[str]:
    """Codes with neighbours folded: MSK101, "MSK103 to MSK108"."""
    parts: list[list[str]] = []
    for code in codes:
        if parts and int(code[3:]) == int(parts[-1][-1][3:]) + 1:
            parts[-1].append(code)
        else:
            parts.append([code])
    for part in parts:
        yield f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(part)
