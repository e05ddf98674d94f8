"""Labels, positions, NaN, gradients and saved tensors under trace."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from maskcli.tensors import open_tensors
from maskcli.tracing.checker import Checker
from maskcli.tracing.results import Options
from maskcli.tracing.trace import Trace
from tests.tracing.test_watch import IDS, LOWER, REAL, Net, fused, loud, masked_fill, matmul, unmasked


class Recorded(Trace):
    """A trace that keeps what the rules were given at the end of each step."""

    def __init__(self, **options):
        super().__init__(Options(**options))
        self.given, whole = [], Checker._diagnose

        def diagnose(checker, tensors, declared, rules):
            if not any(each.role in ("query", "output") for each in tensors):
                self.given.append(({each.role: each.tensor.read() for each in tensors}, declared))
            return whole(checker, tensors, declared, rules)

        self._checker._diagnose = diagnose.__get__(self._checker)


IGNORED = torch.full((2, 1), -100)


@pytest.mark.parametrize(
    ("logits", "labels", "seen"),
    [
        (slice(None), IDS, IDS),
        (slice(None), torch.cat([IDS[:, 1:], IGNORED], 1), torch.cat([IDS[:, 1:], IGNORED], 1)),
        (slice(0, -1), IDS[:, 1:], torch.cat([IDS[:, 1:], IGNORED], 1)),
    ],
)
@pytest.mark.parametrize("as_module", [True, False])
def test_labels_at_the_loss_stand_beside_the_logits_that_predict_them(logits, labels, seen, as_module):
    net = Net(fused)
    with Recorded() as traced:
        out = net(IDS, REAL)[:, logits]
        loss = nn.CrossEntropyLoss() if as_module else functional.cross_entropy
        loss(out.flatten(0, 1), labels.flatten())
    ((given, declared),) = traced.given
    assert (given["labels"] == seen.numpy()).all()
    assert (given["input_ids"] == IDS.numpy()).all()
    assert declared.loss_shift == "data"
    assert traced.report.steps == 1


def test_labels_of_an_encoder_are_not_said_to_be_moved():
    class Encoder(Net):
        def forward(self, ids, attention_mask):
            x = self.tokens(ids)
            return self.head(
                x + self.layers[1](x, attention_mask.bool()[:, None, None, :].expand(-1, 1, 6, -1))
            )

    with Recorded() as traced:
        functional.cross_entropy(Encoder(fused)(IDS, REAL).flatten(0, 1), IDS.flatten())
    ((_, declared),) = traced.given
    assert declared.loss_shift is None


def test_labels_that_break_the_loss_are_still_looked_at():
    with Recorded() as traced, pytest.raises(IndexError):
        functional.cross_entropy(Net(fused)(IDS, REAL).flatten(0, 1), IDS.flatten() + 60)
    ((given, _),) = traced.given
    assert given["labels"].max() == 69


def test_a_classifiers_target_is_no_label_of_a_token():
    with Recorded() as traced:
        functional.cross_entropy(Net(fused)(IDS, REAL).mean(1), torch.tensor([1, 2]))
    ((given, _),) = traced.given
    assert "labels" not in given


class Positioned(Net):
    """Positions that are looked up in a table of their own."""

    def __init__(self, positions):
        super().__init__(fused)
        self.position_embedding, self.positions = nn.Embedding(12, 16), positions

    def forward(self, ids, attention_mask):
        x = self.tokens(ids) + self.position_embedding(self.positions)
        keep = attention_mask.bool()[:, None, None, :] & LOWER
        for layer in self.layers:
            x = x + layer(x, keep)
        return self.head(x)


def test_positions_are_seen_where_they_are_looked_up():
    positions = torch.arange(6).expand(2, -1)
    with Recorded() as traced:
        Positioned(positions)(IDS, REAL)
    ((given, _),) = traced.given
    assert (given["position_ids"] == positions.numpy()).all()
    assert (given["input_ids"] == IDS.numpy()).all()


LEFT = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def test_nan_is_traced_to_the_first_call_that_had_it():
    """Left padding leaves the first rows no key; the next layer only inherits what they become."""
    with maskcli.trace() as traced:
        Net(matmul)(IDS, LEFT)
    found = [finding for finding in traced.findings if finding.code.startswith("MSK30")]
    assert [(finding.code, finding.traced.modules) for finding in found] == [("MSK301", ("layers.0",))]
    assert (found[0].where.batch, found[0].where.queries) == ((0,), ((0, 2),))


def test_nan_that_comes_in_is_traced_to_its_tensor_at_a_later_step():
    net = Net(fused)
    with maskcli.trace() as traced:
        for step in range(9):
            if step == 7:
                with torch.no_grad():
                    net.layers[1].qkv.weight[3, 3] = math.nan
            net(IDS, REAL)
    found = [finding for finding in traced.findings if finding.severity == "error"]
    assert [(finding.code, finding.traced.modules, finding.traced.step) for finding in found] == [
        ("MSK302", ("layers.1",), 7)
    ]
    assert found[0].tensors == ("layers.1.query",)


def hidden(scores, keep):
    """Rows without a key are NaN, and what hides that."""
    return scores + torch.zeros(keep.shape).masked_fill(~keep, -math.inf)


def cured(q, k, v, keep, mask):
    weights = mask(q @ k.mT, keep).softmax(-1)
    return weights.nan_to_num(0.0) @ v


def test_a_gradient_that_turns_nan_names_its_call():
    net = Net(cured, hidden)
    net.layers[0].how, net.layers[0].mask = fused, masked_fill
    with maskcli.trace() as traced:
        for _ in range(3):
            out = net(IDS, LEFT)
            assert out.isfinite().all()
            out.sum().backward()
    assert net.layers[1].qkv.weight.grad.isnan().any()
    found = [finding for finding in traced.findings if "gradient" in finding.evidence]
    assert [(finding.code, finding.severity, finding.traced.modules) for finding in found] == [
        ("MSK301", "error", ("layers.1",))
    ]


def test_a_gradient_that_arrives_as_nan_is_not_the_attentions_fault():
    with maskcli.trace() as traced:
        out = Net(fused)(IDS, REAL)
        (out * math.nan).sum().backward()
    (finding,) = [finding for finding in traced.findings if "gradient" in finding.evidence]
    assert (finding.code, finding.severity, finding.traced.modules) == ("MSK305", "warning", ("layers.1",))


def test_a_gradient_that_overflows_inside_a_kernel_names_its_call():
    query, key, value = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    with maskcli.trace() as traced:
        out = functional.scaled_dot_product_attention(query * 1, key * 1, value * 1e30)
        assert type(out.grad_fn).__name__.startswith("ScaledDotProduct")
        (out * 1e20).sum().backward()
    assert out.isfinite().all()
    assert query.grad.isnan().any()
    (finding,) = [finding for finding in traced.findings if "gradient" in finding.evidence]
    assert (finding.code, finding.severity, finding.evidence) == ("MSK305", "error", {"gradient": "query"})


def test_what_is_saved_shows_the_finding_again(tmp_path):
    net = Net(fused, unmasked)
    with maskcli.trace(save=str(tmp_path / "saved")) as traced:
        for _ in range(3):
            net(IDS, REAL)
    (finding,) = [finding for finding in traced.findings if finding.code == "MSK202"]
    files = sorted((tmp_path / "saved").iterdir())
    assert len(files) == len(traced.findings)
    (path,) = [file for file in files if "MSK202" in file.name]
    assert str(path) in finding.see
    again = maskcli.diagnose({each.name: each.read() for each in open_tensors(str(path)).tensors})
    assert [(each.code, each.where) for each in again.findings if each.severity == "error"] == [
        ("MSK202", finding.where)
    ]
    assert {each.partition(".")[2] for each in again.checked} >= {"1.weights"}


def test_all_calls_can_be_saved(tmp_path):
    net = Net(matmul)
    with maskcli.trace(save=str(tmp_path), save_all=True, modules="layers.1") as traced:
        for _ in range(5):
            net(IDS, REAL)
    files = sorted(tmp_path.iterdir())
    assert len(files) == traced.report.calls == 5
    weights = next(each for each in open_tensors(str(files[4])).tensors if each.name.endswith("weights"))
    rows = weights.read()
    assert rows.shape == (2, 2, 6, 6)
    assert (abs(rows.sum(-1) - 1) < 1e-5).all()
    assert loud(traced) == []


def test_weights_of_a_large_call_are_read_in_tiles(monkeypatch):
    """The same findings, tile by tile."""
    from maskcli.tracing import calls

    net = Net(fused, unmasked)
    whole = maskcli.trace(expect="causal")
    with whole:
        net(IDS, REAL)
    monkeypatch.setattr(calls, "KEPT_CELLS", 0)
    tiled = maskcli.trace(expect="causal")
    with tiled:
        net(IDS, REAL)
    assert [(f.code, f.where, f.evidence) for f in tiled.findings] == [
        (f.code, f.where, f.evidence) for f in whole.findings
    ]
    assert loud(whole) == ["MSK202", "MSK203"]


@pytest.mark.combinations
@pytest.mark.parametrize("queries", [1, 3, 6])
@pytest.mark.parametrize("kind", ["bool", "additive", "heads", "causal", "grouped", "flat"])
def test_recomputed_weights_times_values_are_the_output(kind, queries):
    """The weights that rules see are those that the kernel used: W V is what it returned."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, queries, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    keep = torch.rand(2, 1, queries, 6) > 0.3
    options = {
        "bool": {"attn_mask": keep},
        "additive": {"attn_mask": torch.randn(queries, 6)},
        "heads": {"attn_mask": torch.rand(4, queries, 6) > 0.3, "scale": 0.7},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True, "attn_mask": keep},
        "flat": {"attn_mask": torch.rand(8, queries, 6) > 0.3},
    }[kind]
    if kind == "grouped":
        k, v = k[:, :2], v[:, :2]
    if kind == "flat":
        q, k, v = (each.flatten(0, 1) for each in (q, k, v))
    held = []

    class Holding(Checker):
        def attention(self, call, place, step, padding):
            held.append(call)

    watching = Trace(Options())
    watching._watch.watcher = Holding("", Options())
    with watching:
        out = functional.scaled_dot_product_attention(q, k, v, **options)
    from maskcli.tracing.calls import Place, roled

    tensors = {each.role: each.tensor for each in roled(held[0], Place("m", "self", 0, None), None)}
    weights = torch.from_numpy(tensors["weights"].read())
    values = torch.from_numpy(tensors["value"].read()).repeat_interleave(
        4 // 2 if kind == "grouped" else 1, 1
    )
    assert torch.allclose(
        weights @ values, out.reshape(weights.shape[0], weights.shape[1], queries, 8), atol=1e-6
    )


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=99, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    )


def test_labels_that_the_caller_moves_and_the_model_again_are_an_error(llama):
    """The loss is watched: that it asks for the token after the next is seen, not supposed."""
    ids = torch.randint(5, 99, (2, 16), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    moved = torch.cat([ids[:, 1:], IGNORED], 1)
    for labels, codes in ((ids, []), (moved, ["MSK505"])):
        with maskcli.trace() as trace:
            llama(input_ids=ids, labels=labels).loss.backward()
        found = [each for each in trace.report.findings if each.severity == "error"]
        assert [each.code for each in found] == codes
        assert all(each.evidence["places"] == 2 for each in found)


def test_a_first_token_that_the_packed_text_before_it_is_asked_for(llama):
    ids = torch.randint(5, 99, (1, 16), generator=torch.Generator().manual_seed(0))
    ids[:, [7, 15]] = 2
    positions = torch.arange(8).repeat(2)[None]
    for labels, codes in ((torch.where(positions == 0, -100, ids), []), (ids, ["MSK516"])):
        with maskcli.trace() as trace:
            llama(input_ids=ids, position_ids=positions, labels=labels).loss.backward()
        assert [each.code for each in trace.report.findings if each.severity != "note"] == codes
