"""`trace --measure`: what no attention call shows, a measurement of the program's models does."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from tests.cli.running import run

SIZE, VOCABULARY = 32, 100


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.project, self.out = nn.Linear(SIZE, 3 * SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mean(nn.Module):
    """Sees the future without any attention."""

    def forward(self, x):
        return x.mean(1, keepdim=True).expand_as(x)


class Counting(nn.Module):
    """Counts its calls in a buffer, as BatchNorm does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return x


class Decoder(nn.Module):
    def __init__(self, *mixing):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, SIZE), nn.Linear(SIZE, VOCABULARY)
        self.mixing, self.drop, self.count = nn.ModuleList(mixing), nn.Dropout(0.1), Counting()

    def forward(self, ids, labels=None):
        x = self.embed(ids)
        for each in self.mixing:
            x = x + self.drop(each(x))
        logits = self.head(self.count(x))
        if labels is None:
            return logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def train(model, steps=2):
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        ids = torch.randint(3, VOCABULARY, (8, 20))
        loss = model(ids, labels=ids)
        loss.backward()
        losses.append(loss.item())
    return losses, torch.rand(1).item()


def measured(model, **options):
    with maskcli.trace(measure=True, **options) as traced:
        outcome = train(model)
    return traced.report, outcome


def test_a_leak_without_attention_is_found_with_what_the_loss_says():
    report, _ = measured(Decoder(Attention(), Mean()))
    (finding,) = report.findings
    assert (finding.code, finding.severity, finding.tensors) == ("MSK601", "error", ("mixing.1",))
    assert "the loss" in finding.message
    assert finding.see == "maskcli rule MSK601"


def test_a_healthy_twin_is_silent_and_its_masks_are_told():
    report, _ = measured(Decoder(Attention(), Attention()))
    assert report.findings == ()
    (probed,) = report.measured
    masks = {
        seen.module: maskcli.name(seen.reached.dense(0, 0, (0, 20))).spec for seen in probed.behaviour.seen
    }
    assert masks == {"mixing.0": "causal", "mixing.1": "causal"}


def test_the_program_stays_its_own():
    model, twin = Decoder(Attention(), Mean()), Decoder(Attention(), Mean())
    _, outcome = measured(model)
    assert outcome == train(twin)
    assert model.training
    assert model.drop.training
    assert int(model.count.calls) == int(twin.count.calls)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    grads = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in grads)


def test_what_a_call_has_shown_is_told_once():
    class Open(Attention):
        def forward(self, x):
            query, key, value = self.project(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value)
            return self.out(mixed.transpose(1, 2).flatten(2))

    report, _ = measured(Decoder(Attention(), Open()))
    assert [finding.code for finding in report.findings] == ["MSK203"]
    assert report.measured


def test_padding_is_known_by_its_id():
    class MeanSoFar(nn.Module):
        def forward(self, x):
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    class Padded(Decoder):
        def __init__(self, *mixing):
            super().__init__(*mixing)
            self.embed = nn.Embedding(VOCABULARY, SIZE, padding_idx=0)

    ids = torch.randint(3, VOCABULARY, (4, 20))
    ids[1, :7] = ids[2, :12] = 0
    model = Padded(MeanSoFar()).eval()
    with maskcli.trace(measure=True, expect="causal") as traced, torch.no_grad():
        model(ids)
    assert [finding.code for finding in traced.report.findings] == ["MSK602"]


def test_a_model_that_cannot_be_measured_is_told_and_nothing_else_is_lost():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 3)

        def forward(self, pixels):
            return self.inner(pixels)

    with maskcli.trace(measure=True) as traced:
        Images()(torch.randn(2, 3, 8, 8))
    (reason,) = traced.report.unmeasured
    assert "Images" in reason
    assert traced.report.measured == ()


@pytest.mark.long
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_shows_what_was_measured(tmp_path, form):
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n"
        "from tests.tracing.test_measured import Attention, Decoder, Mean, train\n"
        "train(Decoder(Attention(), Mean()))\n"
    )
    done = run("trace", "--measure", "--format", form, "--fail-on", "error", program, check=1)
    if form == "json":
        (probed,) = json.loads(done.stderr)["measured"]
        assert [layer["measured"] for layer in probed["layers"]] == ["causal", "full"]
    else:
        assert "MSK601 future-reached" in done.stderr
        assert "mixing.1" in done.stderr
