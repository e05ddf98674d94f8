"""The same on a GPU, where kernels keep their weights to themselves."""

import math

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import maskcli
from tests.tracing.models import batch, model
from tests.tracing.test_doors import Flash, banded, calls, saved
from tests.tracing.test_watch import IDS, loud

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flash_kernels_of_sdpa(dtype, tmp_path):
    q, k, v = torch.randn(3, 2, 4, 64, 64, device="cuda", dtype=dtype)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        before = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        with maskcli.trace(expect="causal", save=str(tmp_path), save_all=True) as traced:
            after = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit, loud(traced)) == (1, {}, [])
    weights = saved(tmp_path)
    expected = (q.float() @ k.float().mT / math.sqrt(64)).masked_fill(
        ~banded(64, 64, True, (-1, -1)).cuda(), -math.inf
    )
    assert torch.allclose(weights, expected.softmax(-1).cpu(), atol=2e-3)


def test_torchs_varlen_attention(tmp_path):
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32, device="cuda")
    net = Flash(
        lambda q, k, v: varlen.varlen_attn(
            q[0], k[0].repeat(1, 2, 1), v[0].repeat(1, 2, 1), bounds, bounds, 4, 4
        )
    )
    net, ids = net.cuda().half(), IDS[:1].cuda()
    before = net(ids)
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        after = net(ids)
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit) == (1, {})
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool()
    assert ((saved(tmp_path) > 0) == apart).all()


@pytest.mark.parametrize("how", ["eager", "sdpa", "flash_attention_2"])
def test_a_model_trains_and_generates(how, tmp_path):
    if how == "flash_attention_2":
        pytest.importorskip("flash_attn")
    made = model("llama", how).cuda().bfloat16()
    inputs = {name: tensor.cuda() for name, tensor in batch("llama").items()}
    before = made(**inputs).logits
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        after = made(**inputs).logits
        made.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], min_new_tokens=3, max_new_tokens=3
        )
    assert torch.equal(before, after)
    assert (traced.report.calls, loud(traced)) == (8, [])
    assert len(calls(tmp_path)) == 8
