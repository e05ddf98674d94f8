"""inspect, diff and convert on real files."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from maskcli.masks.conventions import CONVENTIONS, attended, checked_fill, written
from maskcli.scene.saved_mask import read_mask
from maskcli.tensors import from_arrays
from tests.cli.running import DATA, read, refused, run

SICK, HEALTHY = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"


def saved(path, spec, lengths="12,9", **options):
    run(
        "show",
        "--lengths",
        lengths,
        "-m",
        spec,
        "-o",
        path,
        *[x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)],
        check=0,
    )
    return path


def test_inspect_lists_roles_values_and_names(tmp_path):
    (file,) = read("inspect", HEALTHY)["files"]
    found = {each["name"]: each for each in file["tensors"]}
    assert (found["attentions.0"]["role"], found["attentions.0"]["shape"], found["attentions.0"]["mask"]) == (
        "weights",
        [3, 12, 26, 26],
        None,
    )
    assert "rows sum to 1 within" in found["attentions.0"]["summary"]
    mask = found["attention_mask"]["mask"]
    assert (mask["spec"], mask["exact"], mask["convention"]) == ("padding", True, "hf")
    assert [each["right"] for each in mask["padding"]] == [14, 18, 0]
    path = saved(
        tmp_path / "m.safetensors", "causal & sliding:4 & padding", padding_side="left", to="additive"
    )
    (tensor,) = read("inspect", f"{path}:mask")["files"][0]["tensors"]
    assert (tensor["mask"]["spec"], tensor["mask"]["fill"], tensor["mask"]["empty_rows"]) == (
        "sliding:4 & padding",
        "-inf",
        3,
    )
    assert [each["left"] for each in tensor["mask"]["padding"]] == [0, 3]
    text = run("inspect", HEALTHY, path, check=0, COLUMNS="60").stdout
    assert "sliding:4 & padding; padding none, left 3" in text
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 60


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.tri(6), "causal"),
        (np.tri(6) * [1, 1, 1, 1, 0, 0], "causal & padding; padding right 2"),
        (np.tri(6).T, "~window:0,-1 (causal without its diagonal: torch.tril(ones, diagonal=-1), or ~torch.triu(ones))"),
        (np.tri(6, k=-1), "~window:0,-1 (causal without its diagonal: torch.tril(ones, diagonal=-1), or ~torch.triu(ones))"),
        (np.tri(6, k=1), "window:-1,1 (causal and one key more: torch.tril(ones, diagonal=1))"),
    ],
)  # fmt: skip
def test_inspect_calls_a_square_of_bools_a_mask_and_says_which(mask, told, tmp_path):
    np.save(tmp_path / "m.npy", mask.astype(bool))
    lines = run("inspect", tmp_path / "m.npy", check=0).stdout.splitlines()
    assert lines[1] == "m  bool [6, 6]  mask (shape)"
    assert lines[2].startswith(f"  {told}")


def test_inspect_looks_into_a_tensor(tmp_path):
    numbers = run(
        "inspect",
        f"{SICK}:attentions.0",
        "--sample",
        "1",
        "--head",
        "3",
        "--rows",
        "0:2",
        "--keys",
        "4:7",
        check=0,
    ).stdout
    want = load_file(SICK)["attentions.0"][1, 3, :2, 4:7].numpy()
    got = [[float(x) for x in line.split()[1:]] for line in numbers.splitlines()[-2:]]
    assert np.allclose(got, want, rtol=6e-3)
    assert (
        "blank 0.00132"
        in run("inspect", f"{SICK}:attentions.0", "--sample", "0", check=0, COLUMNS="40").stdout
    )
    run("inspect", f"{SICK}:attentions.0", "-o", tmp_path / "w.png", check=0)
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    assert "lies outside" in refused("inspect", f"{SICK}:attentions.0", "--sample", "3")
    assert "lies outside" in refused("inspect", f"{SICK}:attentions.0", "--rows", "40:50")
    assert "is no range" in refused("inspect", f"{SICK}:attentions.0", "--rows", "a")
    assert "say which to look into" in refused("inspect", SICK, "--rows", "0:2")
    assert "did you mean 'attentions.0'" in refused("inspect", f"{SICK}:attentins.0")


def test_the_command_that_a_finding_names_works():
    (finding,) = read("diagnose", SICK, check=1)["findings"]
    import shlex

    program, *rest = shlex.split(finding["see"])
    assert program == "maskcli"
    assert "keys 12..26" in run(*rest, check=0).stdout


def test_diff_is_a_mask_assertion(tmp_path):
    path = saved(tmp_path / "m.npy", "causal & padding", padding_side="left")
    tell = ("--lengths", "12,9", "--padding-side", "left")
    assert read("diff", path, "causal & padding", *tell)["equal"] is True
    found = read("diff", path, "causal", *tell, check=1)
    assert found["cells"] == sum(range(1, 4)) + 9 * 3
    (region,) = found["regions"]
    assert (region["batch"], region["attends"], region["what"], region["keys"]) == (
        [1],
        "B",
        "padding",
        [[0, 3]],
    )
    assert "A ignores padding keys 0..3 of sample 1" in region["meaning"]
    assert "pass --lengths" in refused("diff", path, "causal & padding")
    assert "write their lengths" in refused("diff", path, "causal & documents")
    assert "does not fit" in refused("diff", path, saved(tmp_path / "n.npy", "causal", "7"))
    future = read("diff", "causal", "full", "--lengths", "6", check=1)["regions"]
    assert [(r["attends"], r["what"], r["queries"], r["cells"]) for r in future] == [
        ("B", "future", [[0, 5]], 15)
    ]
    past = read("diff", "causal", "sliding:3", "--lengths", "6", check=1)["regions"]
    assert [(r["attends"], r["what"], r["queries"], r["keys"]) for r in past] == [
        ("A", "past", [[3, 6]], [[0, 3]])
    ]
    assert run("diff", path, path, check=0).stdout.startswith("equal: ")
    assert "A only A attends" in run("diff", path, "causal", *tell, check=1).stdout


def test_masks_stand_beside_their_difference_where_there_is_room():
    def rows(**environment):
        out = run("diff", "causal", "causal & sliding:2", "--lengths", "4", check=1, **environment).stdout
        return [line.split()[1:] for line in out.splitlines() if re.match(r" +\d [A■·]", line)]

    alone = [["■···"], ["■■··"], ["A■■·"], ["AA■■"]]
    assert rows() == rows(COLUMNS="99") == alone
    a, b = ["■···", "■■··", "■■■·", "■■■■"], ["■···", "■■··", "·■■·", "··■■"]
    assert rows(COLUMNS="100") == [[*each, *last] for *each, last in zip(a, b, alone, strict=True)]
    long = run("diff", "causal", "causal & sliding:99", "--lengths", "5000", check=1, COLUMNS="120").stdout
    assert max(map(len, long.splitlines())) <= 120


def test_padding_and_documents_come_from_the_file_and_never_from_the_mask(tmp_path):
    real = np.ones((2, 8), np.int64)
    real[0, 5:] = 0
    causal = np.broadcast_to(np.tril(np.ones((8, 8), bool)), (2, 1, 8, 8))
    save_file(
        {"attn_mask": torch.from_numpy(causal.copy()), "attention_mask": torch.from_numpy(real)},
        tmp_path / "a.safetensors",
    )
    found = read("diff", f"{tmp_path}/a.safetensors:attn_mask", "causal & padding", check=1)
    assert [(r["batch"], r["what"], r["attends"]) for r in found["regions"]] == [([0], "padding", "A")]
    packed = np.tril(np.ones((8, 8), bool))
    save_file(
        {"attn_mask": torch.from_numpy(packed), "cu_seqlens": torch.tensor([0, 3, 8])},
        tmp_path / "b.safetensors",
    )
    found = read("diff", f"{tmp_path}/b.safetensors:attn_mask", "causal & documents", check=1)
    assert [(r["what"], r["queries"], r["keys"], r["cells"]) for r in found["regions"]] == [
        ("document", [[3, 8]], [[0, 3]], 15)
    ]


def test_polarity_and_fill_are_translated_before_masks_are_compared(tmp_path):
    a = saved(tmp_path / "a.safetensors", "causal & sliding:3", "9", to="additive", dtype="bfloat16")
    b = saved(tmp_path / "b.npy", "causal & sliding:3", "9", to="mha")
    assert read("diff", a, b)["equal"] is True


def test_both_orders_of_a_comparison_say_the_same(tmp_path):
    causal = torch.from_numpy(np.tril(np.ones((8, 8), bool)))
    real = torch.ones(1, 8, dtype=torch.int64)
    real[0, 6:] = 0
    save_file({"attn_mask": causal, "cu_seqlens": torch.tensor([0, 3, 8])}, tmp_path / "a.safetensors")
    save_file(
        {"attn_mask": causal & (torch.arange(8) < 2), "attention_mask": real}, tmp_path / "b.safetensors"
    )
    a, b = f"{tmp_path}/a.safetensors:attn_mask", f"{tmp_path}/b.safetensors:attn_mask"
    there, back = (read("diff", *pair, check=1)["regions"] for pair in ((a, b), (b, a)))
    assert [(r["what"], r["queries"], r["keys"], r["cells"]) for r in there] == [
        (r["what"], r["queries"], r["keys"], r["cells"]) for r in back
    ]
    assert {"padding", "document"} <= {r["what"] for r in there}


def test_a_bool_mask_and_its_additive_form_are_one_mask(tmp_path):
    keep = np.tril(np.ones((8, 8), bool))
    np.save(tmp_path / "a.npy", keep)
    np.save(tmp_path / "b.npy", np.where(keep, 0, -np.inf).astype(np.float32))
    assert read("diff", tmp_path / "a.npy", tmp_path / "b.npy")["equal"] is True


def test_the_pad_token_that_ends_a_text_is_real(tmp_path):
    told = ("--ids", "5 2 2 2", "--pad-id", "2", "--eos-id", "2")
    regions = read("diff", "full", "padding", *told, check=1)["regions"]
    assert [r["keys"] for r in regions] == [[[2, 4]]]
    assert "pass one of them" in refused("diff", "full", "padding", *told, "--lengths", "4")


def test_weights_are_compared_by_layer(tmp_path):
    found = read("diff", HEALTHY, SICK, check=1)
    assert [each["a"] for each in found["tensors"]] == [f"attentions.{n}" for n in range(6)]
    x, y = load_file(HEALTHY)["attentions.0"], load_file(SICK)["attentions.0"]
    first = found["tensors"][0]
    assert first["largest"] == pytest.approx(float((x - y).abs().max()))
    assert float((x - y).abs()[tuple(first["index"])]) == pytest.approx(first["largest"])
    assert first["cells"] == int(((x.double() - y.double()).abs() > first["tolerance"]).sum())
    assert read("diff", HEALTHY, HEALTHY)["equal"] is True
    assert (
        run("diff", HEALTHY, SICK, check=1).stdout.splitlines()[-1]
        == "the first that differs is attentions.0"
    )
    assert read("diff", f"{HEALTHY}:attentions.0", f"{HEALTHY}:attentions.0")["equal"] is True


masks = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 6), st.integers(2, 7)).flatmap(
    lambda s: st.lists(st.booleans(), min_size=int(np.prod(s)), max_size=int(np.prod(s))).map(
        lambda v: np.array(v).reshape(s)
    )
)


@given(
    masks,
    st.sampled_from(["sdpa", "mha", "megatron", "additive", "binary"]),
    st.sampled_from(["float32", "float16"]),
)
@settings(deadline=None)
def test_writing_and_reading_is_the_identity(dense, convention, dtype):
    kind = dtype if convention in ("additive", "binary") else CONVENTIONS[convention].dtype
    for fill in (-np.inf, checked_fill("min", dtype), -1e4):
        values = written(dense, convention, kind, fill)
        assert np.array_equal(attended(values, convention), dense)
    given = read_mask(
        from_arrays({"m": written(dense, convention, kind)}).tensors[0], dense.shape, convention, None, None
    )
    mask = given.keep.compact()
    b, h, q, k = dense.shape
    laid = CONVENTIONS[convention].target(mask.stored, mask.shape, False)
    again = np.concatenate([mask.dense(item, head, (0, laid.rows)) for item, head in laid.planes]).reshape(
        laid.shape
    )
    if laid.shape == (b * h, q, k):
        assert np.array_equal(again.reshape(dense.shape), dense)
    elif len(laid.shape) == 4:
        assert np.array_equal(np.broadcast_to(again, dense.shape), dense)


@pytest.mark.combinations
@pytest.mark.parametrize("via", ["mha", "megatron", "additive", "binary"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".npz", ".pt"])
def test_round_trips_through_files(tmp_path, via, suffix):
    first = saved(tmp_path / f"a{suffix}", "causal & padding", padding_side="left")
    heads = ("--heads", "1") if via == "mha" else ()
    run("convert", first, "--from", "sdpa", "--to", via, *heads, "-o", tmp_path / f"b{suffix}", check=0)
    run(
        "convert",
        tmp_path / f"b{suffix}",
        "--from",
        via,
        *heads,
        "--to",
        "sdpa",
        "-o",
        tmp_path / f"c{suffix}",
        check=0,
    )
    assert read("diff", first, tmp_path / f"c{suffix}", "--from", "sdpa")["equal"] is True


@pytest.mark.parametrize(
    ("make", "arguments_", "sentence"),
    [
        (lambda: np.ones((4, 4), bool), ["--to", "additive"], "say which with --from sdpa or --from mha"),
        (lambda: np.zeros((4, 4), np.float32), ["--to", "sdpa"], "is all zeros"),
        (
            lambda: np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32),
            ["--to", "sdpa"],
            "a bias",
        ),
        (
            lambda: np.array([[0.0, -1.0, -np.inf]] * 4, np.float32),
            ["--to", "sdpa"],
            "other values than 0 and one fill",
        ),
        (lambda: np.array([[0, 1, 2]] * 4), ["--to", "sdpa"], "expected 0 and 1"),
        (lambda: np.full((4, 4), np.nan, np.float32), ["--to", "sdpa"], "holds NaN"),
        (lambda: np.tril(np.ones((4, 4), bool)), ["--to", "hf"], "varies along queries"),
        (
            lambda: np.tril(np.ones((4, 4), bool)),
            ["--to", "additive", "--fill", "-1e9", "--dtype", "float16"],
            "overflows float16",
        ),
        (lambda: np.tril(np.ones((4, 4), bool)), ["--to", "additive", "--fill", "-1"], "cannot silence"),
        (
            lambda: np.tril(np.ones((4, 4), bool)),
            ["--to", "additive", "--dtype", "bfloat16"],
            "numpy has no bfloat16",
        ),
        (lambda: np.tril(np.ones((4, 4), bool)), ["--to", "torch"], "is not a convention"),
        (lambda: np.tril(np.ones((2, 4, 4), bool)), ["--to", "additive"], "three axes"),
        (
            lambda: np.tril(np.ones((3, 8), bool), 5),
            ["--from", "mha", "--to", "flex"],
            "key_padding_mask) or [Q, K]",
        ),
        (
            lambda: np.tril(np.ones((6, 4, 4), bool)),
            ["--from", "mha", "--to", "sdpa"],
            "say how many heads with --heads",
        ),
        (
            lambda: (
                np.stack([np.eye(4, dtype=bool)] * 2)[:, None] | np.array([0, 1], bool)[:, None, None, None]
            ),
            ["--from", "sdpa", "--to", "mha"],
            "takes [B*H, Q, K]",
        ),
        (lambda: np.zeros((0, 5), bool), ["--from", "sdpa", "--to", "megatron"], "without any element"),
        (
            lambda: np.tril(np.ones((4, 4), bool)),
            ["--to", "flex", "--fill", "min"],
            "leave --dtype, --fill and --heads out",
        ),
        (lambda: np.ones((1, 1, 1, 4, 4), bool), ["--to", "additive"], "expected one to four axes"),
        (lambda: np.float32(1), ["--to", "additive"], "expected one to four axes"),
    ],
)
def test_loss_and_doubt_are_refused(tmp_path, make, arguments_, sentence):
    np.save(tmp_path / "in.npy", make())
    assert sentence in refused("convert", tmp_path / "in.npy", *arguments_, "-o", tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("make", "options", "shape"),
    [
        (lambda: np.array([[1, 1, 0], [1, 1, 1]]), ["--to", "sdpa"], (2, 1, 1, 3)),
        (lambda: np.array([[1, 1, 0], [1, 1, 1]]), ["--to", "mha"], (2, 3)),
        (lambda: np.array([[1, 1, 0], [1, 1, 1]])[:, None], ["--to", "additive"], (2, 1, 1, 3)),
        (lambda: np.tril(np.ones((4, 4), bool)), ["--to", "additive"], (4, 4)),
        (lambda: np.tril(np.ones((2, 4, 4), bool)), ["--from", "sdpa", "--to", "additive"], (2, 1, 4, 4)),
        (lambda: ~np.tril(np.ones((6, 4, 4), bool)), ["--from", "mha", "--heads", "3", "--to", "sdpa"], (2, 3, 4, 4)),
        (lambda: np.stack([np.tril(np.ones((1, 4, 4), bool)), np.ones((1, 4, 4), bool)]), ["--from", "sdpa", "--heads", "3", "--to", "mha"], (6, 4, 4)),
        (lambda: np.stack([np.tril(np.ones((4, 4), bool)), np.ones((4, 4), bool)]), ["--from", "sdpa", "--heads", "2", "--to", "mha"], (4, 4, 4)),
        (lambda: np.arange(4) < np.full((4, 1), 3), ["--from", "sdpa", "--to", "mha"], (4, 4)),
    ],
)  # fmt: skip
def test_shapes_are_what_the_target_wants(tmp_path, make, options, shape):
    # The name tells a padding mask [B, K] from a mask [Q, K].
    path = tmp_path / ("attn_mask.npy" if make().dtype == bool else "attention_mask.npy")
    np.save(path, make())
    run("convert", path, *options, "-o", tmp_path / "out.npy", check=0)
    assert np.load(tmp_path / "out.npy").shape == shape


def test_converted_masks_give_the_same_attention(tmp_path):
    """The same queries and keys through torch's two APIs, each with its own form of one mask."""
    import torch.nn.functional as F

    path = saved(tmp_path / "m.safetensors", "causal & padding", padding_side="right")
    run(
        "convert",
        path,
        "--from",
        "sdpa",
        "--to",
        "mha",
        "--heads",
        "2",
        "-o",
        tmp_path / "mha.safetensors",
        check=0,
    )
    run("convert", path, "--from", "sdpa", "--to", "additive", "-o", tmp_path / "add.safetensors", check=0)
    keep, ignore, bias = (
        load_file(tmp_path / name)["mask"] for name in ("m.safetensors", "mha.safetensors", "add.safetensors")
    )
    torch.manual_seed(0)
    x = torch.randn(2, 12, 8)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    _, weights = layer(x, x, x, attn_mask=ignore, average_attn_weights=False)
    assert weights[~keep.expand(2, 2, 12, 12)].abs().max() == 0
    assert (weights[keep.expand(2, 2, 12, 12)] > 0).all()
    q = x.view(2, 12, 2, 4).transpose(1, 2)
    assert torch.allclose(
        F.scaled_dot_product_attention(q, q, q, attn_mask=keep),
        F.scaled_dot_product_attention(q, q, q, attn_mask=bias),
    )


def test_weights_are_no_mask(tmp_path):
    save_file({"attentions.0": torch.tril(torch.ones(1, 1, 4, 4)) / 4}, tmp_path / "w.safetensors")
    assert "holds weights" in refused("diff", tmp_path / "w.safetensors", "causal")
    assert "holds weights" in refused("show", "--lengths", "4", "-m", f"{tmp_path}/w.safetensors")


def test_a_mask_over_more_keys_than_queries_is_no_padding(tmp_path):
    np.save(tmp_path / "kv.npy", np.arange(9) <= np.arange(6)[:, None] + 3)
    (tensor,) = read("inspect", tmp_path / "kv.npy", "--from", "sdpa")["files"][0]["tensors"]
    assert (tensor["role"], tensor["mask"]["spec"]) == ("mask", "causal")
    assert read("diff", tmp_path / "kv.npy", "causal", "--from", "sdpa")["equal"] is True


def test_arguments_from_the_command_line(tmp_path):
    path = saved(tmp_path / "m.npy", "sliding:4", "12")
    assert "window_size=(3, 0)" in run("convert", path, "--to", "flash-attn", check=0).stdout
    assert read("convert", path, "--to", "jax")["arguments"] == {"local_window_size": [3, 0]}
    odd = saved(tmp_path / "o.npy", "prefix-lm:3", "12")
    assert "cannot express 'prefix-lm:3'" in refused("convert", odd, "--from", "sdpa", "--to", "jax")
    assert read("convert", odd, "--from", "sdpa", "--to", "jax")["expressible"] is False
    causal = saved(tmp_path / "c.npy", "causal", "12")
    done = run("convert", causal, "--to", "sdpa", "-o", tmp_path / "d.npy", check=0)
    assert "is_causal=True" in done.stderr
    json.loads(run("convert", path, "--to", "flex", "--format", "json", check=0).stdout)


def test_a_spec_is_converted_without_a_file(tmp_path):
    def told(spec, to, *more):
        return read("convert", spec, "--to", to, *more)["arguments"]

    assert told("causal & sliding:4", "flash-attn") == {"causal": True, "window_size": [3, 0]}
    assert told("sliding:100000", "flash-attn", "--past", "3")["window_size"] == [99_999, 0]
    assert told("causal", "xformers", "--past", "3") == {"attn_bias": "LowerTriangularFromBottomRightMask"}
    assert told("blocks:4", "flex", "--past", "2")["tensors"] == {}
    packed = told("causal & documents:5,3", "flash-attn", "--lengths", "12")
    assert packed["cu_seqlens_q"] == [0, 5, 8, 12]
    lengths = ("--lengths", "3,5")
    assert told("causal & padding", "jax", *lengths)["key_value_seq_lengths"] == [3, 5]
    assert "on the left" in refused(
        "convert", "causal & padding", "--to", "jax", *lengths, "--padding-side", "left"
    )
    for spec, to in (("padding", "flash-attn"), ("documents:5", "flex"), ("causal", "additive")):
        assert "pass --lengths" in refused("convert", spec, "--to", to, "-o", tmp_path / "x.npy")
    run(
        "convert",
        "causal & padding",
        "--to",
        "additive",
        *lengths,
        "--past",
        "2",
        "-o",
        tmp_path / "a.npy",
        check=0,
    )
    rows, keys = np.mgrid[:5, :7]
    keep = (keys <= rows + 2) & (keys < np.array([5, 7])[:, None, None])
    assert np.array_equal(np.load(tmp_path / "a.npy")[:, 0] == 0, keep)


@pytest.mark.long
def test_conversion_keeps_memory_flat(tmp_path):
    import subprocess
    import sys

    size = 12_000
    rows = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", bool, (size, size))
    for row in range(size):
        rows[row, : row + 1] = True
    rows.flush()
    script = (
        "import sys\nsys.argv = ['maskcli', 'convert', sys.argv[1], '--to', 'additive', '--dtype', 'float16', '-o', sys.argv[2]]\n"
        "from maskcli.cli import _run\nassert _run() == 0\nprint(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "big.npy", tmp_path / "out.safetensors"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 250
    assert (tmp_path / "out.safetensors").stat().st_size > 2 * size * size


def test_saved_masks_in_a_spec_are_read_as_declared(tmp_path):
    ignored = ~np.tril(np.ones((4, 4), bool))
    np.save(tmp_path / "m.npy", ignored)
    run(
        "convert", f"causal & {tmp_path}/m.npy", "--from", "mha", "--lengths", "4", "--to", "sdpa",
        "-o", tmp_path / "out.npy", check=0,
    )  # fmt: skip
    assert (np.load(tmp_path / "out.npy").reshape(4, 4) == ~ignored).all()


def test_a_saved_mask_has_its_own_size(tmp_path):
    np.save(tmp_path / "m.npy", np.tril(np.ones((4, 4), bool)))
    told = refused("convert", tmp_path / "m.npy", "--from", "sdpa", "--lengths", "3", "--to", "flash-attn")
    assert "has a size of its own" in told
