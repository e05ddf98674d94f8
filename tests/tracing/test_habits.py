"""What happens again and again is looked at until it has ended alike twice, and equal findings are one."""

from maskcli.diagnostics.finding import Finding, Where
from maskcli.tracing.calls import Place
from maskcli.tracing.folded import Folded
from maskcli.tracing.habits import SAMPLED, Habit, Habits


def test_what_ends_alike_is_sampled_and_what_changes_is_looked_at_again():
    habit, looked = Habit(), []
    for time in range(1, 3 * SAMPLED):
        if habit.due():
            looked.append(time)
            habit.ended("sick" if time >= 2 * SAMPLED else "well")
    assert looked == [1, 2, SAMPLED, 2 * SAMPLED, 2 * SAMPLED + 1]


def test_what_ended_as_another_kind_as_well_is_looked_at_as_neither_again():
    habits, layers = Habits(), ("layers.0", "layers.1")
    assert [habits.due(layer, "before the loss") for layer in layers] == [True, True]
    for layer in layers:
        for like in ("before the loss", "behind it"):
            habits.ended(layer, like, "well")
    assert [habits.due(layer, "behind it") for layer in (*layers, "layers.2")] == [False, False, True]


def finding(code, severity="error", tensor="layers.0.weights"):
    return Finding(code, "", severity, "", (tensor,), "", "", "", Where(), {})


def test_equal_findings_of_one_line_fold_and_the_worst_come_first():
    folded, line = Folded(), ("train.py", 3)
    first, again = Place("layers.0", "self", 2, line), Place("layers.1", "self", 4, line)
    folded.add(finding("MSK401", "warning", "ids"), Place("", "self", 2, None))
    assert not folded.holds(finding("MSK202"), first)
    for place in (first, first, again):
        folded.add(finding("MSK202", tensor=f"{place.module}.weights"), place)
    assert folded.holds(finding("MSK202", tensor="layers.7.weights"), again)
    folded.add(finding("MSK202", tensor="layers.1.attn_mask"), again)
    assert [(one.code, one.tensors, one.traced) for one in folded.findings()] == [
        ("MSK202", ("layers.0.weights",), (("layers.0", "layers.1"), 2, 3, line)),
        ("MSK202", ("layers.1.attn_mask",), (("layers.1",), 4, 1, line)),
        ("MSK401", ("ids",), ((), 2, 1, None)),
    ]
