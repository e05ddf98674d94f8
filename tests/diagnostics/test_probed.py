"""Every rule of behaviour on the bug that it names, and on what only looks like it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from maskcli.diagnostics.probed import findings_of, report_of
from maskcli.diagnostics.verdicts.called import called_by
from maskcli.masks.mask import Mask
from maskcli.report.probed import as_json
from tests.diagnostics.behaviours import LAYER, behaviour, compared, layout, mask, rows, seen

SIDES = ("no padding", "right padding", "left padding")


def found(*layers, **more):
    return findings_of(behaviour(*layers, **more), "my.py:make")


def codes(*layers, **more):
    return [each.code for each in found(*layers, **more)]


def with_padding(spec, setting):
    return spec if setting == "no padding" else f"{spec} & padding"


def in_all(measured, expected, **more):
    """A layer that has one mask with every padding."""
    return [seen(with_padding(measured, side), with_padding(expected, side), side, **more) for side in SIDES]


def decoding(measured, past=20, queries=4, slots=24, expected="causal", **more):
    over = layout(past=past, queries=queries, keys=slots)
    return seen(measured, expected, f"{queries} after {past}", over=over, keys="cache", **more)


def shared(cells):
    """A mask [3, 1, S, S] of cells [S, S] that is the same in every row of the batch."""
    return Mask.from_dense(np.broadcast_to(cells, (3, 1, *cells.shape)))


@pytest.mark.parametrize(
    "spec", ["causal", "full", "sliding:5", "chunked:5", "window:2", "prefix-lm:4", "causal & dilated:8,2"]
)
def test_layers_as_expected_are_silent(spec):
    assert codes(*in_all(spec, spec)) == []


def test_decoding_as_expected_is_silent():
    assert codes(decoding("causal"), decoding("causal", 23, 1), decoding("causal", slots=30)) == []
    assert codes(decoding("sliding:5", expected="sliding:5", slots=30)) == []


def test_padding_behind_a_causal_layer_harms_nobody():
    assert codes(seen("causal", "causal & padding", "right padding")) == []


def test_rows_of_padding_say_nothing():
    over = layout("left padding")
    pads = Mask.from_intervals(over.shape, 0, np.where(rows("left")[:, None], 0, over.keys))
    assert codes(seen(mask("causal & padding", over) | pads, "causal & padding", "left padding")) == []


def test_no_mask_in_a_decoder_is_one_finding_of_all_layers_and_runs():
    layers = [
        seen(
            "full" if side == "no padding" else "full & padding",
            with_padding("causal", side),
            side,
            LAYER.format(at),
        )
        for at in range(2)
        for side in SIDES
    ]
    (finding,) = found(*layers)
    assert (finding.code, finding.severity, finding.tensors) == (
        "MSK601",
        "error",
        (LAYER.format(0), LAYER.format(1)),
    )
    assert "config.json says causal" in finding.message
    assert finding.evidence["settings"] == "no padding; right padding; left padding"
    assert finding.evidence["cells"] == 3 * 24 * 23 // 2


def test_not_even_padding_is_masked_and_that_is_one_finding():
    layers = [seen("full", with_padding("causal", side), side) for side in SIDES]
    (finding,) = found(*layers)
    assert finding.code == "MSK601"
    assert "as if nothing were causal" in finding.message


def test_a_cell_that_rounding_hides_leaves_one_finding():
    whole = np.ones((24, 24), bool)
    whole[23, 2] = False
    assert codes(seen(shared(whole), "causal & padding", "left padding")) == ["MSK601"]


def test_one_key_ahead_is_off_by_one():
    (finding,) = found(*in_all("window:-1,1", "causal"))
    assert finding.code == "MSK601"
    assert "off by one" in finding.message
    assert finding.evidence["cells"] == 3 * 23


def test_summaries_of_ones_own_block_are_the_future():
    blocks = np.arange(24) // 4
    own = blocks[:, None] == blocks
    (finding,) = found(seen(shared(np.tril(np.ones((24, 24), bool)) | own), "causal"))
    assert finding.code == "MSK601"
    assert "off by one" not in finding.message


@pytest.mark.parametrize("side", ["right padding", "left padding"])
def test_padding_that_an_encoder_sees(side):
    (finding,) = found(seen("full", "padding", side))
    assert (finding.code, finding.severity) == ("MSK602", "error")
    assert finding.evidence["cells"] == 16 * 8 + 8 * 16
    assert "inverted" not in finding.message
    assert "another sample" not in finding.message


def test_left_padding_that_a_decoder_sees():
    (finding,) = found(seen("causal", "causal & padding", "left padding"))
    assert finding.code == "MSK602"
    assert finding.where.batch == (1, 2)
    assert finding.where.keys == ((0, 16),)


@pytest.mark.parametrize(
    ("expected", "side"),
    [("padding", "right padding"), ("padding", "left padding"), ("causal & padding", "left padding")],
)
def test_an_inverted_mask_is_called_so(expected, side):
    over = layout(side)
    opposite = mask(expected, replace(over, real=~over.real))
    # Rows that it leaves empty see all, by a finite fill.
    empty = np.broadcast_to(opposite.keys_per_query == 0, over.shape[:3])
    measured = opposite | Mask.from_intervals(over.shape, 0, np.where(empty, over.keys, 0))
    (finding,) = found(seen(measured, expected, side), seen("full", "causal", "no padding"))
    assert finding.code == "MSK602"
    assert "the mask is inverted" in finding.message


@pytest.mark.parametrize("expected", ["padding", "causal & padding"])
def test_the_padding_of_another_sample_is_called_so(expected):
    over = layout("left padding")
    measured = mask(expected, replace(over, real=np.roll(over.real, 1, 0)))
    (finding,) = found(seen(measured, expected, "left padding"))
    assert finding.code == "MSK602"
    assert "another sample" in finding.message


def test_a_norm_over_the_sequence_is_named_as_what_sees_padding():
    norm = {
        "module": "encoder.layer.0.output.LayerNorm",
        "kind": "LayerNorm",
        "attention": False,
        "whole": False,
    }
    (finding,) = found(
        seen("full", "padding", "right padding", **norm), seen("padding", "padding", "right padding")
    )
    assert (finding.code, finding.tensors) == ("MSK602", ("encoder.layer.0.output.LayerNorm",))


def test_what_is_no_attention_has_one_fault():
    norm = {"module": "blocks.0.norm", "kind": "Norm", "attention": False, "whole": False}
    layers = [seen("full", with_padding("causal", side), side, **norm) for side in SIDES]
    assert codes(*layers) == ["MSK601"]


def test_a_window_of_one_more():
    layers = [each for at in range(2) for each in in_all("sliding:6", "sliding:5", module=LAYER.format(at))]
    (finding,) = found(*layers)
    assert finding.code == "MSK603"
    assert finding.message.startswith("queries see 6 keys: measured sliding:6, config.json says sliding:5")
    assert len(finding.tensors) == 2
    assert (finding.evidence["keys"], finding.evidence["expected_keys"]) == (6, 5)
    assert finding.see == f"maskcli diff measured.safetensors:{LAYER.format(0)} sliding:5"


def test_a_window_of_one_less():
    (finding,) = found(*in_all("sliding:4", "sliding:5"))
    assert finding.code == "MSK603"
    assert finding.message.startswith("queries see 4 keys")


def test_a_dropped_window():
    (finding,) = found(*in_all("causal", "sliding:5"))
    assert finding.code == "MSK603"
    assert finding.message.startswith("queries see 24 keys: measured causal")


def test_a_window_that_looks_ahead_is_no_future():
    assert codes(seen("window:3", "window:2")) == ["MSK603"]


def test_other_chunks_are_one_finding():
    assert codes(seen("chunked:6", "chunked:5")) == ["MSK603"]


def test_layers_with_other_windows_are_told_apart():
    layers = [seen("sliding:6", "sliding:5"), seen("sliding:9", "sliding:8", module=LAYER.format(1))]
    assert codes(*layers) == ["MSK603", "MSK603"]


def test_documents_that_see_each_other():
    over = layout(documents=(7, 9, 8))
    (finding,) = found(seen("causal", "causal & documents", "packed", over=over), *in_all("causal", "causal"))
    assert finding.code == "MSK604"
    assert finding.evidence["cells"] == 3 * (9 * 7 + 8 * 16)
    assert codes(seen("causal & documents", "causal & documents", "packed", over=over)) == []


def test_rows_that_change_each_other_are_the_one_cause():
    norm = {
        "module": "blocks.0.bn",
        "kind": "BatchNorm1d",
        "attention": False,
        "whole": False,
        "rows": ((0, 1),),
    }
    layers = [seen("full", with_padding("causal", side), side, **norm) for side in SIDES]
    differing = [compared(test, 0.2) for test in ("X1", "X2", "X4", "T1", "T2", "T5")]
    (finding,) = found(*layers, compared=tuple(differing))
    assert (finding.code, finding.tensors) == ("MSK605", ("blocks.0.bn",))
    assert "row 0" in finding.message


def test_empty_slots_that_a_query_sees():
    (finding,) = found(decoding("full", 23, 1, 30), compared=(compared("T7", 0.3),))
    assert finding.code == "MSK608"
    assert finding.evidence["cells"] == 3 * 6
    assert codes(decoding("full", 23, 1, 30, expected=None)) == ["MSK608"]


def test_empty_slots_that_the_layout_tells_as_padding_are_slots():
    over = layout(past=23, queries=1, keys=30)
    told = replace(over, real=np.broadcast_to(np.arange(30) < 24, (3, 30)))
    run = {"setting": "1 after 23", "over": told, "keys": "cache"}
    (finding,) = found(seen("full", "causal & padding", **run))
    assert finding.code == "MSK608"
    assert "config.json says causal (" in finding.message
    assert codes(seen("causal & padding", "causal & padding", **run)) == []


def test_causal_from_the_top_left_with_a_cache():
    (finding,) = found(decoding("causal-top-left"), decoding("causal-top-left", 23, 1))
    assert finding.code == "MSK611"
    assert "causal from the top left" in finding.message
    assert finding.evidence["settings"] == "4 after 20; 1 after 23"


def test_a_window_from_the_top_left_is_the_same():
    (finding,) = found(decoding("causal-top-left", expected="sliding:5"))
    assert finding.code == "MSK611"
    assert finding.evidence["measured"] == "causal-top-left"


def test_a_cache_that_is_not_joined():
    over = layout(past=20, queries=4, keys=24)
    own = Mask.from_intervals(over.shape, 20, over.positions + 1)
    (finding,) = found(decoding(own))
    assert finding.code == "MSK611"
    assert "top left" not in finding.message


def test_a_window_where_none_was_expected_hides_keys():
    (finding,) = found(*in_all("sliding:5", "causal"))
    assert finding.code == "MSK611"
    assert "measured sliding:5" in finding.message


@pytest.mark.parametrize(
    "more",
    [{"whole": False, "attention": False}, {"noise": 100}, {"soft": "causal"}],
    ids=["decay", "noise", "soft"],
)
def test_what_rounding_hides_is_not_missing(more):
    over = layout()
    near = mask("causal", over) - Mask.from_intervals(over.shape, 0, over.positions - 20)
    assert codes(seen(near, "causal", **more), only_attention=False) == []


def test_a_few_cells_of_many_are_not_missing():
    whole = np.tril(np.ones((24, 24), bool))
    whole[20, 3] = whole[21, 5] = False
    assert codes(seen(shared(whole), "causal")) == []


def test_a_weak_fill_lets_some_keys_through():
    over = layout()
    some = mask("causal", over) | mask("window:0,4", over)
    (finding,) = found(seen(some, "causal", soft="full"))
    assert (finding.code, finding.severity) == ("MSK609", "error")


def test_a_fill_that_only_huge_scores_overcome_is_a_note():
    (finding,) = found(seen("causal", "causal", soft="full"), compared=(compared("X4", 0.0, limit=0),))
    assert (finding.code, finding.severity) == ("MSK609", "note")


def test_an_unmasked_layer_with_some_soft_cells_has_no_fill():
    whole = np.ones((24, 24), bool)
    whole[0, 23] = False
    assert codes(seen(shared(whole), "causal", soft="full")) == ["MSK601"]


def test_padding_of_a_source():
    over = layout("right padding", queries=21, cross=True)
    (finding,) = found(seen("full", "padding", "right padding", over=over))
    assert finding.code == "MSK610"
    assert codes(seen("padding", "padding", "right padding", over=over)) == []


def test_without_an_expectation_only_what_is_wrong_in_every_model_is_accused():
    assert codes(*(seen(with_padding("full", side), None, side) for side in SIDES)) == []
    assert codes(seen("causal", None, "left padding")) == ["MSK602"]
    assert codes(seen("full", None, "right padding")) == ["MSK602"]


def test_a_convolution_that_stays_inside_is_a_note_where_only_attention_was_declared():
    conv = seen("sliding:3", "causal", module="blocks.0.conv", kind="Conv1d", attention=False, whole=False)
    (finding,) = found(conv)
    assert (finding.code, finding.severity, finding.tensors) == ("MSK612", "note", ("blocks.0.conv",))
    assert codes(conv, only_attention=False) == []


def test_what_could_not_be_measured_is_a_note():
    (finding,) = found(seen("causal"), unmeasured=("it takes no attention_mask",))
    assert (finding.code, finding.severity) == ("MSK613", "note")
    assert "it takes no attention_mask" in finding.message


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("X1", "MSK605"),
        ("T1", "MSK605"),
        ("X2", "MSK602"),
        ("X3", "MSK611"),
        ("X4", "MSK601"),
        ("X5", "MSK604"),
        ("T4", "MSK604"),
        ("T2", "MSK606"),
        ("T5", "MSK607"),
        ("T6", "MSK607"),
        ("T7", "MSK607"),
        ("S-future", "MSK601"),
        ("S-prefix", "MSK601"),
        ("S-neighbours", "MSK605"),
        ("S-longer", "MSK602"),
        ("S-decode", "MSK607"),
        ("S-cache", "MSK607"),
        ("S-window", "MSK603"),
    ],
)
def test_a_comparison_speaks_where_no_mask_does(test, code):
    (finding,) = found(*in_all("causal", "causal"), compared=(compared(test, 0.3),))
    assert (finding.code, finding.severity, finding.tensors) == (code, "error", ())
    assert codes(*in_all("causal", "causal"), compared=(compared(test, 5e-5),)) == []


def test_nan_in_one_of_two_runs_is_told_in_words():
    b = behaviour(*in_all("causal", "causal"), compared=(compared("T5", float("inf"), "dynamic cache"),))
    report = report_of(b, "model")
    (finding,) = report.findings
    assert "NaN or infinity in one of them" in finding.message
    told = json.loads("".join(as_json(report)))
    assert told["compared"][0]["difference"] is None
    assert told["findings"][0]["evidence"]["difference"] == "infinite"


def test_comparisons_are_silent_where_a_mask_says_why():
    differing = tuple(compared(test, 0.3) for test in ("X2", "X4", "T2", "T5", "T6", "T7"))
    assert codes(seen("full", "causal & padding", "left padding"), compared=differing) == ["MSK601"]
    differing = tuple(compared(test, 0.3) for test in ("X2", "T2"))
    assert codes(seen("causal", "causal & padding", "left padding"), compared=differing) == ["MSK602"]
    differing = tuple(compared(test, 0.3) for test in ("T5", "T6", "T7"))
    assert codes(decoding("causal-top-left"), compared=differing) == ["MSK611"]


def test_ids_of_padding_that_only_tell_positions_harm_nobody():
    changed, alone = compared("X2", 0.3, "left padding"), compared("T2", 1e-6, "left padding")
    assert codes(*in_all("causal", "causal"), compared=(changed, alone)) == []
    assert codes(*in_all("causal", "causal"), compared=(changed, compared("T2", 0.3, "left padding"))) == [
        "MSK602"
    ]
    assert codes(*in_all("causal", "causal"), compared=(changed, compared("T2", 1e-6))) == ["MSK602"]


def test_what_holds_an_accused_module_is_not_accused_of_the_same():
    inner = {"module": "layer.attention.conv", "kind": "Conv1d", "attention": False, "whole": False}
    layers = [
        seen("window:1", "padding", "right padding", **inner),
        seen("full", "padding", "right padding", module="layer.attention"),
    ]
    (finding,) = found(*layers)
    assert finding.tensors == ("layer.attention.conv",)


def test_a_note_on_a_mask_explains_no_comparison():
    soft = seen("causal", "causal", soft="full")
    assert sorted(codes(soft, compared=(compared("T5", 0.3),))) == ["MSK607", "MSK609"]


def test_positions_that_count_left_padding_are_a_note():
    differing = (
        compared("T2", 0.4, "left padding"),
        compared("T2", 1e-6),
        compared("T3", 1e-6, "left padding"),
    )
    (finding,) = found(*in_all("causal", "causal"), compared=differing)
    assert (finding.code, finding.severity) == ("MSK606", "note")
    assert "absolute positions count the padding" in finding.message


def test_positions_that_are_wrong_with_right_padding_too_are_an_error():
    differing = (compared("T2", 0.4, "left padding"), compared("T2", 0.4), compared("T3", 1e-6))
    (finding,) = found(*in_all("causal", "causal"), compared=differing)
    assert (finding.code, finding.severity) == ("MSK606", "error")
    assert "so it is positions" in finding.message


def test_only_the_deepest_modules_are_named():
    layers = [
        seen("full", "padding", "right padding", module=module)
        for module in ("encoder.layers.0", "encoder.layers.0.self_attn", "encoder.layers.1")
    ]
    (finding,) = found(*layers)
    assert finding.tensors == ("encoder.layers.0.self_attn", "encoder.layers.1")


def test_the_command_to_see_it_names_the_run_that_shows_it():
    layers = [seen("causal"), decoding("causal-top-left")]
    (finding,) = found(*layers)
    assert finding.see == f"maskcli diff measured.safetensors:{LAYER.format(0)}@4-after-20 causal"
    (finding,) = found(seen("full", "padding", "right padding"))
    assert finding.see == "", "a single text has no padding to show"


def test_findings_come_worst_first_and_are_counted():
    conv = seen("sliding:3", "causal", module="conv", kind="Conv1d", attention=False, whole=False)
    report = report_of(behaviour(conv, *in_all("sliding:6", "sliding:5")), "model")
    assert [each.severity for each in report.findings] == ["error", "note"]
    assert report.counts() == {"error": 1, "warning": 0, "note": 1}
    assert report.worst() == "error"


@pytest.mark.parametrize("spec", ["causal", "sliding:6", "causal-top-left"])
def test_the_mask_of_a_single_token_is_named_by_its_reach(spec):
    assert called_by(decoding(spec, 23, 1, expected="sliding:3")).spec == spec


@pytest.mark.parametrize("spec", ["causal", "sliding:6", "full", "window:2,0"])
def test_a_mask_is_named_from_some_of_its_columns(spec):
    over = layout()
    columns = (0, 1, 4, 5, 6, 12, 13, 22, 23)
    some = np.zeros((1, 1, 1, 24), bool)
    some[..., list(columns)] = True
    kept = Mask.from_dense(some).broadcast_to(over.shape)
    measured = mask(spec, over) & kept
    called = called_by(seen(measured, "sliding:5", columns=columns))
    assert mask(called.spec, over) == mask(spec, over)
    assert codes(seen(mask("sliding:5", over) & kept, "sliding:5", columns=columns)) == []
