"""Rules on whole runs of a model that should agree: MSK606, MSK607 and MSK613."""

from __future__ import annotations

from collections.abc import Iterator

from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import probed
from maskcli.diagnostics.rules.measured import compared, differing_in, said
from maskcli.diagnostics.verdicts.measured import Judged

# Findings on masks that make runs differ which should agree.
MASKS = ("MSK601", "MSK602", "MSK604", "MSK605", "MSK608", "MSK609", "MSK610", "MSK611")


@probed("MSK607", "cache-changes-output", "error", explained_by=(*MASKS, "MSK603"), option="--cache")
def cache_changes_output(judged: Judged) -> Iterator[Found]:
    """With a cache, token by token or in chunks, the model says something else than in one pass.

    What is generated is then not what the model was trained to say. All masks are as they should be, so that
    it is positions, or what the cache holds, that differ.

    In code: positions that restart at 0 for each new token; keys that are cached before they are rotated; a
    cache that is written at the wrong slots, or shared by layers.

    Fix: pass positions that count on from the cache (`cache_position`), and compare one step with one pass.
    """
    differing = differing_in(judged, "T5", "T6", "T7", "S-decode", "S-cache")
    if differing:
        yield compared(
            differing,
            f"with a cache the outputs differ from those of one pass ({said(differing)}), and no mask says "
            "why: positions, or what the cache holds",
            "count positions on from the cache, and write each layer's keys at their own slots",
        )


@probed("MSK606", "padding-changes-output", "error", explained_by=MASKS)
def padding_changes_output(judged: Judged) -> Iterator[Found]:
    """A text in a padded batch gives other results than alone, though nobody sees the padding.

    Answers then depend on how long the longest text of the batch is. What is left are positions that count
    the padding. When only left padding without position_ids does it, that is so in every model with absolute
    positions, and a note.

    In code: `torch.arange(S)` as positions under left padding; positions from a mask that is off by one
    (`cumsum` without `- 1`); a table of positions with an offset that depends on the mask.

    Fix: pass `position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.
    """
    differing = differing_in(judged, "T2")
    if not differing:
        return
    given = [each for each in judged.behaviour.compared if each.test == "T3"]
    only_left = all("left" in each.setting for each in differing)
    helps = bool(given) and all(each.agrees for each in given)
    why = (
        "with position_ids given it does not, so it is positions" if helps else "positions, or what is pooled"
    )
    if only_left:
        why = f"only left padding does it: absolute positions count the padding; {why}" if helps else why
    yield compared(
        differing,
        f"a text gives other outputs in a padded batch than alone ({said(differing)}): {why}",
        "pass position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)",
        severity="note" if only_left and (helps or not given) else None,
    )


@probed("MSK613", "not-covered", "note")
def not_covered(judged: Judged) -> Iterator[Found]:
    """Part of what the model does could not be measured.

    What is said of the rest holds; of this part nothing is known.

    In code: functions that mix positions outside of any module, another set of calls for other texts, a
    library that is not there.

    Fix: wrap what mixes positions in an `nn.Module`, and probe again; of a server, probe its model.
    """
    if judged.behaviour.unmeasured:
        fix = "wrap what mixes positions in a module of its own; what the model does not have needs nothing"
        yield Found(
            (),
            f"not measured: {'; '.join(judged.behaviour.unmeasured)}",
            "probe the model that is served" if judged.behaviour.is_black_box else fix,
            evidence={"parts": len(judged.behaviour.unmeasured)},
        )
