"""Losses that are written by hand: targets that are not moved, moved twice, or on padding are told as those of torch's losses."""

import pytest
import torch
from torch.nn import functional

import maskcli
from tests.tracing.families import PAD, WORDS, NanoGPT, sharpened, stepped, texts

LENGTH = 18


def gathered(logits, labels):
    return -logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)


def gathered_from_logits(logits, labels):
    return logits.logsumexp(-1) - torch.gather(logits, 2, labels.unsqueeze(-1))[..., 0]


def taken(logits, labels):
    return -torch.take_along_dim(logits.log_softmax(-1), labels[..., None], dim=-1)[..., 0]


def indexed(logits, labels):
    rows, columns = torch.arange(len(labels))[:, None], torch.arange(labels.shape[1])
    return -logits.log_softmax(-1)[rows, columns, labels]


def indexed_flat(logits, labels):
    logs = logits.log_softmax(-1).flatten(0, 1)
    return -logs[range(labels.numel()), labels.flatten()].view_as(labels)


def one_hot(logits, labels):
    return -(functional.one_hot(labels, WORDS) * logits.log_softmax(-1)).sum(-1)


def scattered(logits, labels):
    logs = logits.log_softmax(-1)
    return -(logs * torch.zeros_like(logs).scatter_(-1, labels[..., None], 1.0)).sum(-1)


def selected(logits, labels):
    logs = logits.log_softmax(-1).flatten()
    places = torch.arange(labels.numel()) * WORDS + labels.flatten()
    return -logs.index_select(0, places).view_as(labels)


def taken_flat(logits, labels):
    places = torch.arange(labels.numel()) * WORDS + labels.flatten()
    return -torch.take(logits.log_softmax(-1).flatten(), places).view_as(labels)


def einsummed(logits, labels):
    targets = functional.one_hot(labels, WORDS).float()
    return -torch.einsum("blv,blv->bl", logits.log_softmax(-1), targets)


def each_alone(logits, labels):
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")


def flat_alone(logits, labels):
    logs = logits.log_softmax(-1).flatten(0, 1)
    return functional.nll_loss(logs, labels.flatten(), reduction="none").view_as(labels)


LOSSES = [
    gathered, gathered_from_logits, taken, indexed, indexed_flat, one_hot, scattered, each_alone, flat_alone,
    selected, taken_flat, einsummed,
]  # fmt: skip


def everything(losses, labels):
    return losses.mean()


def text(losses, labels):
    real = labels != PAD
    return (losses * real).sum() / real.sum()


def text_by_rows(losses, labels):
    real = labels != PAD
    return ((losses * real).sum(1) / real.sum(1)).mean()


def answers(losses, labels):
    return losses[:, 5:].mean()


def rewarded(losses, labels):
    return (losses * torch.tensor([[1.0], [0.0], [-0.5]])).mean()


def clipped(losses, labels):
    return (losses * torch.linspace(1, 2, LENGTH) * (losses > losses.median())).mean()


def weighed(losses, labels):
    return (losses * torch.linspace(1, 2, LENGTH)).mean()


def found(loss, reduced, moved=1, lengths=(20, 14, 11), bug=None):
    model = NanoGPT(bug)
    model.transformer["wte"].padding_idx = PAD
    model, ids = sharpened(model), texts(lengths, seed=4)
    asked = ids[:, moved : moved + LENGTH]
    with maskcli.trace() as traced:
        stepped(model, lambda: reduced(loss(model(ids[:, :LENGTH])[0], asked), asked))
    assert traced.report.unfit == {}
    return {finding.code for finding in traced.findings if finding.severity != "note"}


@pytest.mark.combinations
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduced", [everything, text, text_by_rows, answers, weighed])
def test_labels_that_ask_for_the_next_token_are_fine(loss, reduced):
    assert found(loss, reduced, lengths=(20, 20, 20)) == set()


@pytest.mark.combinations
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduced", [text, text_by_rows, answers, rewarded, clipped])
def test_what_is_masked_behind_the_loss_does_not_count(loss, reduced):
    assert found(loss, reduced) == ({"MSK503"} if reduced is answers else set())


@pytest.mark.combinations
@pytest.mark.parametrize("loss", LOSSES)
def test_padding_that_is_counted_is_told(loss):
    assert found(loss, everything) == {"MSK503"}


@pytest.mark.combinations
@pytest.mark.parametrize("moved", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduced", [everything, weighed, text])
def test_labels_that_are_not_moved_once_are_told(loss, reduced, moved):
    assert found(loss, reduced, moved, lengths=(20, 20, 20)) == {"MSK505"}


@pytest.mark.combinations
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_says_that_attention_is_causal(loss):
    assert found(loss, everything, lengths=(20, 20, 20), bug="mask forgotten") == {"MSK203"}


@pytest.mark.combinations
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_and_losses_are_the_programs_own(loss):
    """Bit for bit, with a hook of the trace on what the loss goes on with."""

    def run():
        model, ids = NanoGPT(None), texts([20, 14, 11], seed=4)
        value = text(loss(model(ids[:, :LENGTH])[0], ids[:, 1 : LENGTH + 1]), ids[:, 1 : LENGTH + 1])
        value.backward()
        return [value, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]

    alone = run()
    with maskcli.trace():
        traced = run()
    assert all(torch.equal(one, other) for one, other in zip(alone, traced, strict=True))


def test_what_is_sampled_is_no_label():
    """The id that a generation picks is looked up among logits without any loss."""
    model, ids = NanoGPT(None), texts([18, 18], seed=4)
    with torch.no_grad(), maskcli.trace() as traced:
        for _ in range(3):
            logits = model(ids)[0]
            logits.gather(-1, ids[..., None])
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert [finding.code for finding in traced.findings if finding.severity != "note"] == []
