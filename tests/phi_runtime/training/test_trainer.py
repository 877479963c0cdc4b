"""The training step: loss, order of rows, splitting of batches, skipped steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.phi_runtime.data.stores import sequences_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from phi_runtime.core.errors import OutOfResources, WorkFailed  # noqa: E402
from phi_runtime.training.batches import Layout, LengthGroupedSampler, pad_batch  # noqa: E402
from phi_runtime.training.extras import TrainingExtras  # noqa: E402
from phi_runtime.training.trainer import SelectiveTrainer  # noqa: E402

EXAMPLES = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9]},
    {"input_ids": [10, 11, 12], "labels": [-100, 11, 12]},
    {"input_ids": [13, 14, 15, 16], "labels": [-100, -100, 15, 16]},
    {"input_ids": [17, 18], "labels": [-100, 18]},
]


def trainer(
    model: Any,
    tmp_path: Path,
    batch: int = 4,
    accumulation: int = 1,
    *,
    extras: TrainingExtras | None = None,
    lines: int = 0,
    **given: Any,
) -> SelectiveTrainer:
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        **{
            "max_steps": 1,
            "logging_steps": 1,
            "learning_rate": 0.0,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            **given,
        },
    )
    return SelectiveTrainer(
        model=model,
        args=arguments,
        train_dataset=sequences_of(EXAMPLES),
        data_collator=lambda rows: Layout(lines).collate(rows, 2),
        extras=extras,
    )


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_the_selective_loss_and_its_gradient_equal_the_full_ones(tiny_phi3: Path, tmp_path: Path) -> None:
    model = load(tiny_phi3)
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
        model = load(tiny_phi3)
        made = trainer(model, tmp_path, batch, accumulation)
        made.train()
        losses.append(made.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_the_validation_loss_weighs_tokens_and_not_batches(tiny_phi3: Path, tmp_path: Path) -> None:
    model = load(tiny_phi3)
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


def test_the_sampler_gives_each_row_once_in_batches_of_similar_length() -> None:
    lengths = [10 + (i * 37) % 90 for i in range(203)]
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(203))
    batches = [order[i : i + 8] for i in range(0, 203, 8)]
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.15 * sum(lengths)
    sampler.set_epoch(1)
    assert list(sampler) != order
    sampler.set_epoch(0)
    assert list(sampler) == order


class TooLarge:
    """Simulates memory for `tokens` of a batch: a larger forward pass fails as with CUDA's allocator."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.tokens, self.forward = tokens, model.forward
        model.forward = self

    def __call__(self, **given: Any) -> Any:
        if given["input_ids"].numel() > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.forward(**given)


@pytest.mark.parametrize("lines", [0, 2], ids=["padded", "packed"])
def test_a_batch_that_does_not_fit_is_computed_in_parts_and_trains_the_same(
    tiny_phi3: Path, tmp_path: Path, lines: int
) -> None:
    whole, small = load(tiny_phi3), load(tiny_phi3)
    expected = trainer(whole, tmp_path / "whole", 2, 2, lines=lines, learning_rate=0.1, optim="sgd")
    expected.train()
    said: list[str] = []
    made = trainer(
        small,
        tmp_path / "small",
        2,
        2,
        lines=lines,
        learning_rate=0.1,
        optim="sgd",
        extras=TrainingExtras(split_on_oom=True, warn=said.append),
    )
    TooLarge(small, 6)
    made.train()
    assert len(said) == 1
    assert "1 of the 2 rows" in said[0]
    assert made.state.log_history[0]["loss"] == pytest.approx(expected.state.log_history[0]["loss"], rel=1e-5)
    for (name, have), want in zip(small.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-6, msg=name)


def test_without_auto_find_batch_size_the_error_names_the_settings(tiny_phi3: Path, tmp_path: Path) -> None:
    model = load(tiny_phi3)
    made = trainer(model, tmp_path)
    TooLarge(model, 6)
    with pytest.raises(OutOfResources, match="4 rows") as caught:
        made.train()
    assert "per_device_train_batch_size to 2" in caught.value.fix
    assert "auto_find_batch_size" in caught.value.fix


def test_a_single_row_that_does_not_fit_ends_the_run(tiny_phi3: Path, tmp_path: Path) -> None:
    model = load(tiny_phi3)
    made = trainer(model, tmp_path, extras=TrainingExtras(split_on_oom=True))
    TooLarge(model, 4)
    with pytest.raises(OutOfResources, match="single row") as caught:
        made.train()
    assert "max_seq_len" in caught.value.fix


def diverging(at: set[int]) -> Any:
    """Return a loss that is NaN in the steps `at`, counted from 0."""
    calls = iter(range(1000))

    def loss(output: Any, batch: Any) -> Any:
        mean = torch.nn.functional.cross_entropy(
            output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        return mean * (float("nan") if next(calls) in at else 1.0)

    return loss


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(tiny_phi3: Path, tmp_path: Path) -> None:
    said: list[str] = []
    model, other = load(tiny_phi3), load(tiny_phi3)
    settings = {"learning_rate": 0.1, "optim": "adamw_torch_fused", "logging_steps": 3}
    made = trainer(
        model, tmp_path / "a", extras=TrainingExtras(loss=diverging({1}), warn=said.append), max_steps=3, **settings
    )
    made.train()
    sound = trainer(
        other,
        tmp_path / "b",
        extras=TrainingExtras(loss=diverging(set())),
        max_steps=2,
        **settings | {"logging_steps": 2},
    )
    sound.train()
    assert made.skipped_steps == 1
    assert said == ["skipped step 2: gradient is not finite"]
    for have, want in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(have, want)  # the step changed neither the weights nor the optimizer's moments
    log = made.state.log_history[0]
    assert log["loss"] == pytest.approx(sound.state.log_history[0]["loss"], rel=1e-5)
    assert log["skipped_steps"] == 1


def test_three_such_steps_in_a_row_stop_the_run_and_name_the_rows(tiny_phi3: Path, tmp_path: Path) -> None:
    made = trainer(load(tiny_phi3), tmp_path, 2, extras=TrainingExtras(loss=diverging({1, 3, 4, 5})), max_steps=8)
    with pytest.raises(WorkFailed, match=r"3 steps in a row; the last is step 6, trained on \d, \d$"):
        made.train()
    assert made.skipped_steps == 4


def test_the_users_loss_is_weighed_by_tokens(tiny_phi3: Path, tmp_path: Path) -> None:
    losses = []
    for extras, batch, accumulation in (
        (TrainingExtras(), 4, 1),
        (TrainingExtras(loss=diverging(set())), 4, 1),
        (TrainingExtras(loss=diverging(set())), 1, 4),
    ):
        made = trainer(load(tiny_phi3), tmp_path, batch, accumulation, extras=extras)
        made.train()
        losses.append(made.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("frozen", [True, False], ids=["adapter on a bfloat16 base", "all weights, autocast"])
def test_in_bfloat16_the_loss_is_that_of_full_logits_within_rounding(
    tiny_phi3: Path, tmp_path: Path, frozen: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    model = load(tiny_phi3)
    if frozen:
        model = get_peft_model(model.bfloat16(), LoraConfig(target_modules=["qkv_proj"], task_type="CAUSAL_LM"))
    made = trainer(model, tmp_path, bf16=True, learning_rate=0.01, max_steps=4)
    assert made.token_loss.fused
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    other = trainer(load(tiny_phi3), tmp_path)
    other.train()
    assert losses[0] == pytest.approx(other.state.log_history[0]["loss"], rel=1e-2)
