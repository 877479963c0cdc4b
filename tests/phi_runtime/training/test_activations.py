"""Frozen lower layers run once for each row: kept activations change no bit of losses and weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.core.errors import ConfigError
from phi_runtime.training.activation_store import ActivationStore, remove_older
from tests.conftest import MakeProject, edit_config
from tests.phi_runtime.data.stores import sequences_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from phi_runtime.models.place import base_model_path  # noqa: E402
from phi_runtime.models.shape import shape_of  # noqa: E402
from phi_runtime.pipeline.engine import run  # noqa: E402
from phi_runtime.pipeline.load import load_workflow  # noqa: E402
from phi_runtime.training.activations import activation_cache  # noqa: E402
from phi_runtime.training.batches import Layout  # noqa: E402
from phi_runtime.training.extras import TrainingExtras  # noqa: E402
from phi_runtime.training.forecast import disk_bytes  # noqa: E402
from phi_runtime.training.frozen_layers import ActivationCache, FrozenLayers  # noqa: E402
from phi_runtime.training.rounded_base import RoundedBase, RoundedBaseConfig  # noqa: E402
from phi_runtime.training.rounding import Int4AwareBase  # noqa: E402
from phi_runtime.training.rows import load_training_data  # noqa: E402
from tests.conftest import Listener  # noqa: E402
from tests.phi_runtime.training.test_methods import base_model, context_of, step_of, trained_weights  # noqa: E402
from tests.phi_runtime.training.test_trainer import trainer  # noqa: E402

ROWS = [np.arange(40, 40 + length) % 300 + 5 for length in (9, 4, 7, 5, 6, 3, 8)]
EXAMPLES = [{"input_ids": row.tolist(), "labels": [-100, *row[1:].tolist()]} for row in ROWS]
TOKEN_BYTES = 64 * 4
ALL_BYTES = sum(map(len, ROWS)) * TOKEN_BYTES


def upper_half(tiny_phi3: Path, **options: Any) -> Any:
    return step_of("LoRA", layers="upper-half", lora_dropout=0.1, **options).with_adapter(base_model(tiny_phi3))


def train(
    model: Any, tmp_path: Path, cache: ActivationCache | None, lines: int = 0, **settings: Any
) -> tuple[list[float], dict[str, Any]]:
    """Train three epochs; return the losses, and the trained weights."""
    torch.manual_seed(1)
    extras = TrainingExtras(activations=cache, int4_base=cache and cache._int4_base)
    runner = trainer(model, tmp_path, 2, extras=extras, max_steps=12, learning_rate=1e-2, **settings)
    runner.train_dataset = sequences_of(EXAMPLES)
    runner.data_collator = lambda rows: Layout(lines).collate(rows, 2)
    runner.train()
    losses = [entry["loss"] for entry in runner.state.log_history if "loss" in entry]
    return losses, {name: weight.detach().clone() for name, weight in trained_weights(model).items()}


def cache_of(model: Any, root: Path, limit_bytes: int, **options: Any) -> ActivationCache:
    return ActivationCache(FrozenLayers(model), lambda: ROWS, root, limit_bytes, **options)


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (0, {}),
        (2, {}),
        (0, {"gradient_checkpointing": True, "accumulation": 2}),
    ],
    ids=["padded", "packed", "checkpointing"],
)
def test_kept_activations_change_no_bit(tiny_phi3: Path, tmp_path: Path, lines: int, settings: dict[str, Any]) -> None:
    results, computed = [], []
    for limit_bytes in (0, ALL_BYTES // 2, ALL_BYTES, ALL_BYTES):  # the last reads what the one before it wrote
        model = upper_half(tiny_phi3)
        cache = cache_of(model, tmp_path / "cache", limit_bytes)
        results.append(train(model, tmp_path, cache, lines, **settings))
        computed.append(cache.computed)
    losses, weights = results[0]
    for other_losses, other_weights in results[1:]:
        assert other_losses == losses
        assert all(torch.equal(other_weights[name], weight) for name, weight in weights.items())
    without, _ = train(upper_half(tiny_phi3), tmp_path, None, lines, **settings)
    assert losses == pytest.approx(without, rel=1e-4)
    assert losses[-1] != pytest.approx(losses[0], rel=1e-2)  # it learns
    assert computed[0] > computed[1] > computed[2] == len(ROWS)
    assert computed[3] == 1  # for the number type


@pytest.mark.parametrize("kind", ["LoRA", "QLoRA"])
def test_an_int4_aware_training_keeps_the_states_over_both_bases(tiny_phi3: Path, tmp_path: Path, kind: str) -> None:
    results = []
    for limit_bytes in (0, 2 * ALL_BYTES):
        settings = {"quantization_config": RoundedBaseConfig()} if kind == "QLoRA" else {}
        base = base_model(tiny_phi3, **settings)
        step = step_of(kind, layers="upper-half", lora_dropout=0.1, target_modules=["all-linear"])
        model = step.with_adapter(base)
        int4_base = RoundedBase(model) if kind == "QLoRA" else Int4AwareBase(model)
        opened: list[ActivationStore] = []
        cache = cache_of(model, tmp_path / "cache", limit_bytes, int4_base=int4_base, opened=opened.append)
        results.append(train(model, tmp_path, cache))
    assert results[0][0] == results[1][0]
    assert [store.rows for store in opened] == [len(ROWS), len(ROWS)]
    assert len({store._states for store in opened}) == 2
    assert cache.computed <= 2 * len(ROWS)


def test_a_trained_embedding_leaves_no_layer_frozen(tiny_phi3: Path) -> None:
    assert FrozenLayers(upper_half(tiny_phi3)).first == 1
    assert FrozenLayers(upper_half(tiny_phi3, modules_to_save=["embed_tokens"])).first == 0
    assert FrozenLayers(step_of("LoRA").with_adapter(base_model(tiny_phi3))).first == 0
    assert FrozenLayers(step_of("PromptTuning").with_adapter(base_model(tiny_phi3))).first == 0


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3"])
def test_other_architectures_start_at_a_layer_too(kind: str) -> None:
    sizes = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 64}
    if kind != "gpt2":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 16}
    config = transformers.AutoConfig.for_model(kind, **sizes, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False)
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    layers[2].requires_grad_(True)
    frozen = FrozenLayers(model)
    assert frozen.first == 2
    assert frozen.why_not_skipped() == ""


def test_another_weight_below_the_first_adapted_layer_is_another_store(tiny_phi3: Path) -> None:
    model = upper_half(tiny_phi3)
    before = FrozenLayers(model).digest()
    assert FrozenLayers(upper_half(tiny_phi3)).digest() == before
    trained_weights(model)[next(iter(trained_weights(model)))].data.add_(1)
    assert FrozenLayers(model).digest() == before
    FrozenLayers(model).below[0].mlp.down_proj.weight.data[3, 5] += 1e-3
    assert FrozenLayers(model).digest() != before


# -- store ---------------------------------------------------------------------------------------------------------------


def test_a_row_that_was_written_in_part_is_missing(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "a", ROWS, 4, 10_000)
    content = bytes(range(36))
    assert store.read(ROWS[0]) is None
    store.write(ROWS[0], content)
    again = ActivationStore(tmp_path / "a", ROWS, 4, 10_000)
    assert again.read(ROWS[0]) == content
    with again._states.open("r+b") as stream:
        stream.seek(7)
        stream.write(b"\xff")
    assert store.read(ROWS[0]) is None
    assert store.read(ROWS[1]) is None


def test_equal_rows_share_their_place_and_other_rows_are_another_store(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "a", [*ROWS, ROWS[2].copy()], 4, 10_000)
    assert (store.rows, store.size_bytes) == (len(ROWS), ALL_BYTES // 64)
    store.write(ROWS[2], b"abcd" * 7)
    assert ActivationStore(tmp_path / "a", ROWS[1:], 4, 10_000).read(ROWS[2]) is None


def test_the_stores_of_a_project_stay_within_the_limit(tmp_path: Path) -> None:
    for number in range(4):
        ActivationStore(tmp_path / f"{number}", ROWS[:2], 100, 10_000)
    remove_older(tmp_path, 2700)
    assert [folder.name[0] for folder in sorted(tmp_path.glob("*"))] == ["2", "3"]


def test_a_store_that_a_training_still_reads_is_not_the_oldest(tmp_path: Path) -> None:
    stores = [ActivationStore(tmp_path / f"{number}", ROWS[:2], 100, 10_000) for number in range(2)]
    for minutes, file in enumerate(sorted(tmp_path.glob("*/used"))):
        os.utime(file, (60 * minutes, 60 * minutes))
    stores[0].read(ROWS[0])
    remove_older(tmp_path, 1300)
    assert [folder.name[0] for folder in tmp_path.glob("*")] == ["0"]


def test_a_training_continues_after_another_one_has_removed_its_store(tiny_phi3: Path, tmp_path: Path) -> None:
    losses, warnings = [], list[str]()
    for limit_bytes in (0, ALL_BYTES):
        model = upper_half(tiny_phi3)
        cache = cache_of(model, tmp_path / "cache", limit_bytes, warn=warnings.append)
        with cache.supplied(Layout().collate(list(sequences_of(EXAMPLES[:2])), 2)):
            remove_older(tmp_path / "cache", 0)
        losses.append(train(model, tmp_path, cache)[0])
    assert losses[1] == losses[0]
    assert len(warnings) == 1
    assert "activations are not kept" in warnings[0]


# -- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "training", "reason"),
    [
        ({"layers": "upper-half"}, {"neftune_noise_alpha": 5.0}, "training_args.neftune_noise_alpha"),
        ({}, {}, "set `layers`"),
        ({"layers": "upper-half"}, {}, "`attention_dropout` is 0.1"),
        ({"layers": "upper-half"}, {}, ""),
    ],
)
def test_a_training_whose_activations_change_is_refused_with_the_reason(
    make_project: MakeProject, tmp_path: Path, options: dict[str, Any], training: dict[str, Any], reason: str
) -> None:
    project = make_project(num_train_epochs=2, **training)
    edit_config(project, lambda c: c["passes"]["finetune"].update(activation_cache_gb=1, **options))
    context = context_of(project, tmp_path)
    model, _ = context.config.load_trainable(context)
    if "dropout" in reason:
        model.config.attention_dropout = 0.1
    data = load_training_data(context)
    if reason:
        with pytest.raises(ConfigError, match=reason) as caught:
            activation_cache(context, model, data, own_loss=False, int4_base=None)
        assert caught.value.fix == "remove activation_cache_gb"
    else:
        assert activation_cache(context, model, data, own_loss=False, int4_base=None)
        assert activation_cache(context, model, data, own_loss=False, int4_base=None)


@pytest.mark.parametrize(
    ("layers", "epochs", "kept"), [("upper-half", 2, True), ("upper-half", 1, False), (None, 2, False)]
)
def test_a_cpu_keeps_activations_if_there_is_more_than_one_epoch(
    make_project: MakeProject, tmp_path: Path, layers: str | None, epochs: int, kept: bool
) -> None:
    project = make_project(num_train_epochs=epochs, max_steps=-1)
    edit_config(project, lambda c: c["passes"]["finetune"].update(layers=layers))
    context = context_of(project, tmp_path)
    model, _ = context.config.load_trainable(context)
    cache = activation_cache(context, model, load_training_data(context), own_loss=False, int4_base=None)
    assert bool(cache) == kept


def test_a_run_says_how_much_it_keeps(make_project: MakeProject) -> None:
    project = make_project(num_train_epochs=2, max_steps=-1)
    edit_config(project, lambda c: c["passes"]["finetune"].update(layers="upper-half", int4_aware=False))
    heard = Listener()
    run(project, heard, until="finetune")
    (facts,) = (m for m in heard.of("metric") if "activation_cache_bytes" in m)
    kept = sum(file.stat().st_size for file in project.activation_cache.glob("*/states.bin"))
    assert facts["activation_cache_rows"] > 0
    assert facts["activation_cache_bytes"] == kept
    workflow = load_workflow(project.config)
    shape = shape_of(base_model_path(workflow.input_model, project))
    assert shape
    assert disk_bytes(workflow, project, shape)["activations"] == pytest.approx(kept, rel=0.1)
