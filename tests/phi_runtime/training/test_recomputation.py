"""Activations that are computed again in the backward pass: the same gradients from less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.training import recomputation  # noqa: E402
from phi_runtime.training.recomputation import recomputed_activations  # noqa: E402

TOKENS, HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 24, 32, 4, 2, 8, 48, 2
KINDS = ["phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "gpt2"]


def model(kind: str, *, targets: str = "all-linear") -> Any:
    """Return a small model with a LoRA adapter; targets "": all its weights are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "vocab_size": 97}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HEAD_DIM}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {}
    config = transformers.AutoConfig.for_model(kind, **sizes, **heads, **special, **no_dropout)
    found = transformers.AutoModelForCausalLM.from_config(config).float()
    if not targets:
        return found.train()
    adapter = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(found, adapter).train()


@contextmanager
def kept_bytes(found: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Measure the bytes that forward passes keep for their backward passes, without weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*found.parameters(), *found.buffers())}
    counted: list[int] = []

    @contextmanager
    def counting(pack: Any, unpack: Any) -> Iterator[None]:
        kept: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            result = pack(tensor)
            held = result.tensor if hasattr(result, "tensor") else result
            if isinstance(held, torch.Tensor) and held.untyped_storage().data_ptr() not in weights:
                kept[held.untyped_storage().data_ptr()] = held.untyped_storage()
            return result

        with torch.autograd.graph.saved_tensors_hooks(keep, unpack):
            yield
        counted.append(sum(storage.nbytes() for storage in kept.values()))

    monkeypatch.setattr(recomputation, "saved_tensors_hooks", counting)
    yield counted


def gradients(found: Any, ids: Any, **inputs: Any) -> dict[str, Any]:
    found.zero_grad()
    found(input_ids=ids, labels=ids, use_cache=False, **inputs).loss.backward()
    return {name: p.grad for name, p in found.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(actual[name], gradient), name


def tokens(rows: int = 1) -> Any:
    return torch.arange(rows * TOKENS).view(rows, TOKENS) % 97  # (B, T)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_an_adapter_have_the_same_bits(kind: str) -> None:
    found = model(kind)
    expected = gradients(found, tokens())
    with recomputed_activations(found) as count:
        assert count >= 2 * LAYERS + 1  # norms
        assert_same(gradients(found, tokens()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_all_weights_are_the_same_up_to_the_order_of_sums(kind: str) -> None:
    found = model(kind, targets="")
    expected = gradients(found, tokens())
    with recomputed_activations(found):
        torch.testing.assert_close(gradients(found, tokens()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_under_autocast_are_the_same_up_to_the_order_of_sums(kind: str) -> None:
    found = model(kind)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(found, tokens())
        with recomputed_activations(found):
            torch.testing.assert_close(gradients(found, tokens()), expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_bfloat16_are_the_same_up_to_the_order_of_sums(kind: str) -> None:
    found = model(kind, targets="").bfloat16()
    expected = gradients(found, tokens())
    with recomputed_activations(found):
        torch.testing.assert_close(gradients(found, tokens()), expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", ["phi3", "llama"])
def test_gradients_have_the_same_bits_with_padding_and_dropout(kind: str) -> None:
    found = model(kind)
    for module in found.modules():
        if isinstance(module, torch.nn.Identity):
            module.__class__ = torch.nn.Dropout
            module.p, module.inplace = 0.2, False
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, 5:] = 0
    torch.manual_seed(0)
    expected = gradients(found, tokens(2), attention_mask=mask)
    with recomputed_activations(found):
        torch.manual_seed(0)
        assert_same(gradients(found, tokens(2), attention_mask=mask), expected)


def test_a_layer_keeps_its_states_and_the_inputs_of_attention_and_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model("phi3")
    with kept_bytes(found, monkeypatch) as counted:
        for layers in (1, 2):
            found.base_model.model.config.num_hidden_layers = layers
            with recomputed_activations(found):
                gradients(found, tokens())
    states = 2 * HIDDEN
    attention = 3 * HEADS * HEAD_DIM + 2 * KEY_VALUE_HEADS * HEAD_DIM  # query, output in two orders, key and value
    adapters, small = (
        4 * 4,
        2 + HEADS,
    )  # outputs of the first matrices; norms, and the logarithms of the sums of attention
    assert counted[1] - counted[0] == 4 * TOKENS * (states + attention + 2 * INTERMEDIATE + adapters + small)


@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept_by_every_architecture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(kind)
    with kept_bytes(found, monkeypatch) as counted:
        with recomputation.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            gradients(found, tokens())
        with recomputed_activations(found):
            gradients(found, tokens())
    before, after = counted
    assert after < before


def test_an_mlp_that_computes_something_else_stays_as_it_is() -> None:
    found = model("llama", targets="")
    first, second = (layer.mlp for layer in found.model.layers)

    class Scaled(type(first)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    second.__class__ = Scaled
    expected = found(tokens()).logits
    with recomputed_activations(found):
        assert "forward" in vars(first)
        assert "forward" not in vars(second)
        assert torch.equal(found(tokens()).logits, expected)


def test_mlps_of_a_class_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []

    def compare(mlp: Any, _: Any) -> bool:
        compared.append(mlp)
        return True

    monkeypatch.setattr(recomputation, "_computes_the_same", compare)
    found = model("llama", targets="")
    with recomputed_activations(found):
        assert all("forward" in vars(layer.mlp) for layer in found.model.layers)
    assert len(compared) == 1


class RMSNorm(torch.nn.Module):
    def forward(self, hidden: Any) -> Any:
        return hidden / hidden.pow(2).mean(-1, keepdim=True).sqrt()


class Changing(torch.nn.Module):
    """Changes a tensor in place, before or after the norm of it has been used."""

    def __init__(self, changed: str) -> None:
        super().__init__()
        self.norm, self.matrix, self.changed = RMSNorm(), torch.nn.Linear(4, 4), changed

    def forward(self, hidden: Any) -> Any:
        hidden = hidden * 1
        normalized = self.norm(hidden)
        if self.changed == "result":
            normalized.add_(1)
        result = self.matrix(normalized)
        if self.changed == "input":
            with torch.no_grad():
                hidden.add_(1)
        return result


def test_a_tensor_that_was_changed_in_place_is_kept_as_it_was_used() -> None:
    found, hidden = Changing("result"), torch.arange(8.0).view(2, 4).requires_grad_()
    found(hidden).sum().backward()
    expected = found.matrix.weight.grad
    found.zero_grad()
    with recomputed_activations(found):
        found(hidden).sum().backward()
    assert torch.equal(found.matrix.weight.grad, expected)


def test_an_input_that_was_changed_in_place_is_an_error_as_in_pytorch() -> None:
    found, hidden = Changing("input"), torch.arange(8.0).view(2, 4).requires_grad_()
    with recomputed_activations(found), pytest.raises(RuntimeError, match="changed in place"):
        found(hidden).sum().backward()


def test_the_models_forward_functions_are_back_afterwards() -> None:
    found = model("phi3")
    with recomputed_activations(found):
        assert "forward" in vars(found)
    assert not any("forward" in vars(module) for module in found.modules())


def test_nothing_is_remembered_without_gradients() -> None:
    found = model("llama")
    memory = recomputation.Recomputation(found)
    with torch.no_grad(), memory.forward_pass():
        hidden = torch.ones(1, 2, HIDDEN)
        memory.can_compute(hidden * 2, lambda x: x * 2, hidden)
        assert not memory._recipes
