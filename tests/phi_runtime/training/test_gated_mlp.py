"""Gated MLPs that compute act(gate) again in the backward pass, compared with those of transformers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.training.gated_mlp import recomputed_gates  # noqa: E402

TOKENS, INTERMEDIATE, LAYERS = 24, 48, 2


def model(kind: str) -> Any:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "vocab_size": 97}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, **heads, **special)
    return transformers.AutoModelForCausalLM.from_config(config).float()


def trained(kind: str, *, recomputed: bool) -> tuple[int, dict[str, Any]]:
    """Return the bytes that a backward pass finds, and the gradients."""
    found = model(kind)
    weights = {p.untyped_storage().data_ptr() for p in found.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.arange(TOKENS)[None]  # (B, T)
    with recomputed_gates(found) if recomputed else nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = found(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    return sum(s.nbytes() for s in kept.values()), {name: p.grad for name, p in found.named_parameters()}


@pytest.mark.parametrize("kind", ["phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3"])
def test_gradients_have_the_same_bits_and_each_layer_keeps_one_activation_less(kind: str) -> None:
    (before, expected), (after, gradients) = trained(kind, recomputed=False), trained(kind, recomputed=True)
    assert before - after == 4 * TOKENS * INTERMEDIATE * LAYERS
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


def test_an_mlp_that_computes_something_else_stays_as_it_is() -> None:
    found = model("llama")
    first, second = (layer.mlp for layer in found.model.layers)

    class Scaled(type(first)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    second.__class__ = Scaled
    ids = torch.arange(TOKENS)[None]
    expected = found(ids).logits
    with recomputed_gates(found) as count:
        assert count == 1
        assert torch.equal(found(ids).logits, expected)
    with recomputed_gates(model("gpt2")) as count:
        assert count == 0


def test_the_models_forward_functions_are_back_afterwards() -> None:
    found = model("phi3")
    with recomputed_gates(found) as count:
        assert count == LAYERS
    assert not any("forward" in vars(module) for module in found.modules())
