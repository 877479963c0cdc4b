"""Rounding in int4-aware training equals that of the export."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")

from phi_runtime.models.builder_source import gets_8_bits  # noqa: E402
from phi_runtime.training.rounding import Int4AwareBase, round_to_int4  # noqa: E402

MODULES = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_it_rounds_as_onnx_runtime_does() -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    quantizer = DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=4))
    packed, scales, _ = quantizer.qbits_block_quant(weight.T.contiguous().numpy())  # (48, 3, 16), two codes in a byte
    codes = torch.stack([torch.tensor(packed & 15), torch.tensor(packed >> 4)], dim=-1).view(48, 3, 32).int() - 8
    read_back = codes * torch.tensor(scales).view(48, 3, 1)
    torch.testing.assert_close(round_to_int4(weight), read_back.view(48, 96))


def test_rounding_is_exact_for_nothing_and_keeps_type_and_zeros() -> None:
    weight = torch.zeros(4, 32, dtype=torch.bfloat16)
    assert torch.equal(round_to_int4(weight), weight)
    assert round_to_int4(weight).dtype == torch.bfloat16


def test_the_sensitive_layers_are_those_of_the_builder() -> None:
    chosen = [i for i in range(30) if gets_8_bits(i, 30, "qkv_proj")]
    assert chosen == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29]
    assert not any(gets_8_bits(i, 30, "o_proj") for i in range(30))


def test_the_base_alternates_and_comes_back_exactly(tiny_phi3: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv_proj", "o_proj"], task_type="CAUSAL_LM"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    base = Int4AwareBase(model)
    base.use_rounded(True)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    rounded = {tuple(re.findall(r"layers\.(\d+)\..*?(\w+_proj)", n)[0]) for n in changed}
    # of the two layers the first is sensitive; of its modules, these two are not
    assert rounded == {("0", "o_proj"), ("0", "gate_up_proj"), *(("1", m) for m in MODULES)}
    assert not any("lora" in n or "lm_head" in n or "embed" in n for n in changed)
    base.use_rounded(False)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
