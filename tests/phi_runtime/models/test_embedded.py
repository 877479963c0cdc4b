"""Models from a wheel of the package registry: their conversion."""

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.models.embedded import llama_gguf_to_phi3

LAYERS, HEADS, KV_HEADS = 2, 4, 2


def tiny_llama(*, tied: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def write_gguf(model: Any, path: Path) -> None:
    """Write a Llama model as llama.cpp does: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py."""
    from gguf import GGUFWriter

    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(50_000.0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    if not model.config.tie_word_embeddings:
        writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(LAYERS):
        for name, in_gguf in names.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            if in_gguf in ("attn_q", "attn_k"):
                heads = HEADS if in_gguf == "attn_q" else KV_HEADS
                weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).copy()
            writer.add_tensor(f"blk.{layer}.{in_gguf}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_of_a_gguf_file_has_the_same_logits_as_a_phi3(tmp_path: Path, *, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    llama = tiny_llama(tied=tied)
    write_gguf(llama, tmp_path / "llama.gguf")
    out = tmp_path / "phi3"
    out.mkdir()
    llama_gguf_to_phi3(tmp_path / "llama.gguf", out)
    phi3 = AutoModelForCausalLM.from_pretrained(out).eval()
    assert type(phi3).__name__ == "Phi3ForCausalLM"
    assert (phi3.config.bos_token_id, phi3.generation_config.eos_token_id, phi3.config.tie_word_embeddings) == (
        1,
        2,
        tied,
    )
    tokens = torch.arange(3, 63)[None]
    with torch.inference_mode():
        assert torch.allclose(phi3(tokens).logits, llama(tokens).logits, atol=1e-4)
