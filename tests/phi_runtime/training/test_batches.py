"""Padded and packed batches: the cheaper layout is chosen, and both give the same loss and gradient."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.data.sequences import Example

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.training import batches  # noqa: E402
from phi_runtime.training.batches import choose_layout, isolates_packed_rows, pack_batch, pad_batch  # noqa: E402
from phi_runtime.training.trainer import SelectiveTrainer  # noqa: E402

LENGTHS = (9, 3, 14, 6, 2, 11, 5)


def examples(lengths: tuple[int, ...] = LENGTHS, prompt: int = 1) -> list[Example]:
    chance = np.random.default_rng(0)
    rows = [chance.integers(3, 250, size=n) for n in lengths]
    return [{"input_ids": row, "labels": np.where(np.arange(len(row)) < prompt, -100, row)} for row in rows]


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    if family == "gpt2":
        config: Any = transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    else:
        kind = {"phi3": "Phi3Config", "llama": "LlamaConfig", "qwen2": "Qwen2Config"}[family]
        config = getattr(transformers, kind)(**shape)
    return transformers.AutoModelForCausalLM.from_config(config).float().train()


def loss_and_gradients(model: Any, batch: dict[str, Any], tmp_path: Path) -> tuple[float, dict[str, Any]]:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = SelectiveTrainer(model=model, args=arguments)
    model.zero_grad()
    loss = trainer.compute_loss(model.eval(), batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lines", [1, 2, 7])
@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2", "gpt2"])
def test_packed_rows_have_the_loss_and_gradient_of_padded_ones(family: str, lines: int, tmp_path: Path) -> None:
    model = model_of(family)
    padded, apart = loss_and_gradients(model, pad_batch(examples(), 0), tmp_path)
    packed, together = loss_and_gradients(model, pack_batch(examples(), 0, lines), tmp_path)
    assert packed == pytest.approx(padded, rel=1e-5)
    for name, gradient in apart.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_packed_batch_contains_each_row_once_with_its_own_positions() -> None:
    given = examples(prompt=0)
    batch = pack_batch(given, 0, 1)
    found = []
    for ids, labels, positions in zip(batch["input_ids"], batch["labels"], batch["position_ids"], strict=True):
        borders = [*(positions == 0).nonzero().flatten().tolist(), len(positions)]
        for start, stop in pairwise(borders):
            assert labels[start] == -100
            if (labels[start:stop] != -100).any():
                found.append(ids[start:stop].tolist())
    assert sorted(found) == sorted(row["input_ids"].tolist() for row in given)
    assert batch["input_ids"].shape[1] == max(LENGTHS)


def test_a_model_that_mixes_packed_rows_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("phi3")
    assert isolates_packed_rows(model, 0)
    assert model.training

    def without_positions(*given: Any) -> dict[str, Any]:
        batch = pack_batch(*given)
        width = batch["input_ids"].shape[1]
        return {**batch, "position_ids": torch.arange(width).expand_as(batch["input_ids"])}

    monkeypatch.setattr(batches, "pack_batch", without_positions)
    assert not isolates_packed_rows(model, 0)


def test_rows_of_similar_length_are_padded_and_very_different_ones_packed() -> None:
    alike = choose_layout(np.full(400, 30), 8, 0, hidden_size=576)
    assert (alike.packed, alike.padding_share) == (False, 0.0)
    # Too few rows to group: a long one pads all others of its batch.
    unlike = choose_layout(np.array([400, *[10] * 7]), 8, 0, hidden_size=3072)
    assert unlike.packed
    assert unlike.padding_share < 0.6 < unlike.other_padding_share
    assert "packed" in str(unlike)


def test_the_config_overrides_the_choice() -> None:
    lengths = np.array([400, *[10] * 7])
    assert not choose_layout(lengths, 8, 0, hidden_size=3072, packing=False).packed
    assert choose_layout(np.full(400, 30), 8, 0, hidden_size=576, packing=True).packed
