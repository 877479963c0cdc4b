"""The fused loss, compared with torch's cross-entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.training import loss as module  # noqa: E402
from phi_runtime.training.batches import pad_batch  # noqa: E402
from phi_runtime.training.loss import TokenLoss, linear_cross_entropy  # noqa: E402


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_torch_over_several_chunks(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 300 * 7)  # seven rows at a time
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 16), torch.randn(300, 16)
    targets = torch.randint(300, (50,))
    found = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            loss = linear_cross_entropy(h, w, targets, smoothing)
        else:
            loss = torch.nn.functional.cross_entropy(h @ w.T, targets, reduction="sum", label_smoothing=smoothing)
        (3 * loss).backward()
        found.append((loss, h.grad, w.grad))
    for have, want in zip(*found, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)


def test_a_frozen_head_gets_no_gradient_and_without_gradients_none_is_computed() -> None:
    hidden, weight, targets = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4), torch.randint(9, (5,))
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).requires_grad


def model(kind: str, **settings: Any) -> Any:
    torch.manual_seed(1)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 97,
    }
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 97}
    config = transformers.AutoConfig.for_model(
        kind, **(sizes | settings), pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    return transformers.AutoModelForCausalLM.from_config(config).float()


ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]},
    {"input_ids": [15, 16, 17], "labels": [-100, 16, 17]},
]


@pytest.mark.parametrize(
    ("kind", "settings", "fused"),
    [
        ("phi3", {"tie_word_embeddings": True}, True),
        ("llama", {}, True),
        ("qwen2", {"num_key_value_heads": 2}, True),
        ("gpt2", {}, True),
        ("gemma2", {"head_dim": 16, "num_key_value_heads": 2, "final_logit_softcapping": 2.0}, False),
        ("granite", {"logits_scaling": 3.0}, False),
    ],
)
def test_the_head_is_fused_only_if_nothing_comes_after_it(kind: str, settings: Any, fused: bool) -> None:
    made = model(kind, **settings)
    made.eval()  # without dropout
    loss = TokenLoss(made)
    assert loss.fused is fused
    batch = pad_batch(ROWS, 0)
    total = loss.total(made, batch)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in made.named_parameters()}
    made.zero_grad()
    logits = made(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    plain.backward()
    torch.testing.assert_close(total, plain, rtol=1e-5, atol=1e-5)
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert made(input_ids=batch["input_ids"]).logits.shape[-1] == 97  # the head is restored


def test_a_head_with_an_adapter_is_not_fused(tiny_phi3: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for settings, fused in (
        ({"target_modules": ["qkv_proj"]}, True),
        ({"target_modules": ["lm_head"]}, False),
        ({"target_modules": ["qkv_proj"], "modules_to_save": ["lm_head"]}, False),
    ):
        made = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, tie_word_embeddings=False)
        assert TokenLoss(get_peft_model(made, LoraConfig(task_type="CAUSAL_LM", **settings))).fused is fused


@pytest.mark.parametrize("kind", ["phi3", "llama", "qwen2", "gpt2", "gemma2"])
def test_the_last_mlp_computes_the_positions_before_trained_tokens_alone(kind: str) -> None:
    made = model(kind, num_key_value_heads=2, head_dim=16) if kind != "gpt2" else model(kind)
    made.eval()
    loss = TokenLoss(made)
    assert loss.last_layer is not None
    mlp, positions = loss.last_layer.mlp, []
    for module_of_it in mlp.children():
        module_of_it.register_forward_hook(lambda _, args, __: positions.append(args[0].shape[:-1].numel()))
    loss.total(made, pad_batch(ROWS, 0)).backward()
    assert set(positions) == {5}  # trained tokens of both rows
    assert "forward" not in vars(mlp)


def test_a_model_whose_last_mlp_is_read_at_other_positions_computes_them_all() -> None:
    made = model("llama")
    made.eval()
    norm = type(made.model.norm)

    class Mixing(norm):  # type: ignore[misc, valid-type]
        def forward(self, hidden: Any) -> Any:
            return super().forward(hidden + hidden.cumsum(dim=-2))

    made.model.norm.__class__ = Mixing
    loss = TokenLoss(made)
    assert loss.last_layer is None
    batch = pad_batch(ROWS, 0)
    logits = made(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    torch.testing.assert_close(loss.total(made, batch), plain)


def test_layers_that_are_computed_again_in_the_backward_pass_compute_all_positions() -> None:
    made = model("llama").train()
    loss = TokenLoss(made)
    assert loss.last_layer is not None
    batch = pad_batch(ROWS, 0)
    loss.total(made, batch).backward()
    expected = {name: p.grad.clone() for name, p in made.named_parameters()}
    made.zero_grad()
    made.gradient_checkpointing_enable()
    loss.total(made, batch).backward()
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)
