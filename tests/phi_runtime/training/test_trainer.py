"""The loss, the order and the batches of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.phi_runtime.data.stores import sequences_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.training.batches import LengthSampler, pad_batch  # noqa: E402
from phi_runtime.training.trainer import SelectiveTrainer  # noqa: E402

EXAMPLES = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9]},
    {"input_ids": [10, 11, 12], "labels": [-100, 11, 12]},
    {"input_ids": [13, 14, 15, 16], "labels": [-100, -100, 15, 16]},
    {"input_ids": [17, 18], "labels": [-100, 18]},
]


def trainer(model: Any, tmp_path: Path, batch: int = 4, accumulation: int = 1) -> SelectiveTrainer:
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=0.0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        max_grad_norm=0.0,
        remove_unused_columns=False,
    )
    made = SelectiveTrainer(
        model=model, args=arguments, train_dataset=sequences_of(EXAMPLES), data_collator=lambda e: pad_batch(e, 2)
    )
    made.model_accepts_loss_kwargs = True
    return made


def test_the_selective_loss_and_its_gradient_equal_the_full_ones(tiny_phi3: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    batch = pad_batch(EXAMPLES, 2)
    trained = int((batch["labels"][:, 1:] != -100).sum())
    loss = trainer(model, tmp_path).compute_loss(model, batch, num_items_in_batch=trained)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    full = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    full.backward()
    assert loss.item() == pytest.approx(full.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_accumulation_does_not_change_the_loss(tiny_phi3: Path, tmp_path: Path) -> None:
    losses = []
    for batch, accumulation in ((4, 1), (1, 4), (2, 2)):
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
        made = trainer(model, tmp_path, batch, accumulation)
        made.train()
        losses.append(made.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_the_held_out_loss_weighs_tokens_and_not_batches(tiny_phi3: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    made = trainer(model, tmp_path)
    made.args.per_device_eval_batch_size = 3
    batch = pad_batch(EXAMPLES, 2)
    with torch.no_grad():
        whole = made.compute_loss(model, batch)
    assert made.evaluate(sequences_of(EXAMPLES))["eval_loss"] == pytest.approx(float(whole), rel=1e-5)


def test_padding_is_masked_even_where_a_row_holds_the_padding_token() -> None:
    batch = pad_batch([{"input_ids": [2, 3, 2], "labels": [-100, 3, 2]}, {"input_ids": [4], "labels": [4]}], pad_id=2)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 3, 2], [4, -100, -100]]


def test_the_sampler_gives_each_row_once_in_batches_of_like_length() -> None:
    lengths = [10 + (i * 37) % 90 for i in range(203)]
    sampler = LengthSampler(lengths, batch_size=8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(203))
    batches = [order[i : i + 8] for i in range(0, 203, 8)]
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.15 * sum(lengths)
    sampler.set_epoch(1)
    assert list(sampler) != order
    sampler.set_epoch(0)
    assert list(sampler) == order
