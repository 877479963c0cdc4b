"""Calibrated int4: the builder writes the chosen values unchanged, they fit the training rows better, and nothing else is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")

from phi_runtime.core.artifacts import read_manifest  # noqa: E402
from phi_runtime.core.errors import Interrupted, WorkFailed  # noqa: E402
from phi_runtime.core.events import Event  # noqa: E402
from phi_runtime.export.builder_process import build  # noqa: E402
from phi_runtime.export.calibrated import batches_of, round_model  # noqa: E402
from phi_runtime.export.gptq import Gptq  # noqa: E402
from phi_runtime.passes.model_builder import ModelBuilder  # noqa: E402
from phi_runtime.pipeline.engine import run  # noqa: E402
from phi_runtime.training.rounding import round_to_int4  # noqa: E402
from tests.conftest import Listener, MakeProject, edit_config, states  # noqa: E402

SIZES = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "vocab_size": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
PHI3 = {"original_max_position_embeddings": 256}


def step(**settings: Any) -> ModelBuilder:
    values = {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "gptq", **settings}
    return ModelBuilder.model_validate(values)


def correlated(columns: int, count: int = 400) -> torch.Tensor:
    """Inputs (count, columns) of different sizes that depend on each other."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    sizes = torch.rand(columns, generator=generator)
    return torch.randn(count, columns, generator=generator) @ mixing * sizes


# -- one weight ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("columns", "block_size"), [(64, 16), (80, 32), (256, 128)])
def test_the_builders_rounding_keeps_the_chosen_values_in_each_number_type(
    dtype: torch.dtype, columns: int, block_size: int
) -> None:
    weight = torch.randn(48, columns, generator=torch.Generator().manual_seed(0)) * 0.05
    weight[0] = 0
    weight[1] = weight[1].abs()
    x = correlated(columns)
    stored = Gptq(x.T @ x / len(x), block_size, 0.1).rounded(weight.to(dtype)).to(dtype)
    assert torch.equal(round_to_int4(stored, block_size), stored)
    assert not torch.equal(round_to_int4(weight.to(dtype), block_size), stored)


def test_the_outputs_of_a_calibrated_weight_are_closer_than_those_of_a_rounded_one() -> None:
    weight, x = torch.randn(48, 96, generator=torch.Generator().manual_seed(0)), correlated(96)
    chosen = Gptq(x.T @ x / len(x), 32, 0.1).rounded(weight)
    unseen = correlated(96, 800)[400:]
    error, plain = ((unseen @ (weight - other).T).square().sum() for other in (chosen, round_to_int4(weight)))
    assert error < 0.7 * plain


def test_a_module_that_no_row_uses_is_rounded_to_its_nearest_values() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    chosen = Gptq(torch.zeros(64, 64), 32, 0.1).rounded(weight)
    assert (chosen - weight).square().sum() <= (round_to_int4(weight) - weight).square().sum()


# -- a model -------------------------------------------------------------------------------------------------------------------


def model_of(kind: str, *, tied: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own = PHI3 if kind == "phi3" else {"head_dim": 16} if kind == "gemma" else {}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": tied}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **HEADS, **own, **special)).eval()


def rows(count: int = 24) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 512, (5 + i % 4,), generator=generator).tolist() for i in range(count)]


def test_rows_of_the_same_length_become_a_batch_without_padding() -> None:
    batches = batches_of([[1, 2], [3, 4, 5], [6, 7]])
    assert [batch.tolist() for batch in batches] == [[[1, 2], [6, 7]], [[3, 4, 5]]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["phi3", "llama", "gemma"])
def test_the_graph_holds_the_calibrated_weights_to_the_bit(
    kind: str, tied: bool, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, source, out = model_of(kind, tied=tied), tmp_path / "source", tmp_path / "onnx"
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    round_model(model, batches_of(rows()), step())
    model.save_pretrained(source)
    tiny_tokenizer.save_pretrained(source)
    request = {"source": str(source), "out": str(out), "cache": str(tmp_path / "cache"), "precision": "int4"}
    build({**request, "execution_provider": "cpu", "options": {}})

    weights = model.state_dict()
    rounded = {name for name in weights if name.endswith("_proj.weight") or name == "lm_head.weight"}
    assert rows_of(products_in(out)) == rows_of(weights[name] for name in rounded)
    assert not any(torch.equal(before[name], weights[name]) for name in rounded)
    exact = set(weights) - rounded - ({"model.embed_tokens.weight"} if tied else set())
    assert all(torch.equal(before[name], weights[name]) for name in exact)


def products_in(folder: Path) -> Iterator[torch.Tensor]:
    """Yield the weight (N, K) of each 4-bit product of a graph."""
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            packed, scales = (tensors[name] for name in node.input[1:3])  # (N, blocks, bytes of a block), (N, blocks)
            codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32)
            columns = next(attribute.i for attribute in node.attribute if attribute.name == "K")
            weight = (codes - 8) * scales.reshape(*packed.shape[:2], 1)
            yield torch.tensor(weight).flatten(1)[:, :columns]


def rows_of(weights: Iterable[torch.Tensor]) -> Counter[bytes]:
    """The rows of all `weights`, whatever the nodes that the builder joins or splits them to."""
    return Counter(row.tobytes() for weight in weights for row in weight.numpy() + np.float32(0))


def test_the_calibrated_model_is_closer_to_the_exact_one_than_the_rounded_model() -> None:
    exact, chosen, plain = (model_of("phi3", tied=True) for _ in range(3))
    ids = batches_of(rows(96))
    round_model(chosen, ids, step())
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if name.endswith("_proj.weight") or name == "model.embed_tokens.weight":
                weight.copy_(round_to_int4(weight))
        errors = [
            sum(
                float((other(batch).logits - exact(batch).logits).square().sum())
                for batch in batches_of(rows(140)[96:])
            )
            for other in (chosen, plain)
        ]
    assert errors[0] < 0.8 * errors[1]


def test_weights_that_the_export_keeps_in_more_bits_are_unchanged() -> None:
    model = model_of("phi3", tied=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    mixed = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}
    export = step(extra_options=mixed, int4_nodes_to_exclude=["/model/layers.1/mlp/gate_up_proj/MatMul"])
    round_model(model, batches_of(rows()), export)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "model.layers.1.self_attn.o_proj.weight" in changed
    unchanged = {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.weight"}
    assert changed.isdisjoint({*unchanged, "model.layers.1.mlp.gate_up_proj.weight"})


def test_a_model_in_bfloat16_keeps_its_type_and_holds_values_that_the_builder_keeps() -> None:
    model = model_of("phi3", tied=True).bfloat16()
    round_model(model, batches_of(rows()), step())
    state = model.state_dict()
    assert {weight.dtype for weight in state.values()} == {torch.bfloat16}
    rounded = [weight for name, weight in state.items() if name.endswith("_proj.weight") or name == "lm_head.weight"]
    assert len(rounded) == 13
    assert all(torch.equal(round_to_int4(weight), weight) for weight in rounded)


# -- the pass ------------------------------------------------------------------------------------------------------------------


def exporting(project: Any, **settings: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["passes"]["export"] = {"type": "ModelBuilder", "precision": "int4", "gate": {"max_kl": 5}, **settings}

    edit_config(project, change)
    return project


def test_an_export_is_calibrated_and_compared_with_the_exact_model(trained_project: MakeProject) -> None:
    project = exporting(trained_project(until="merge"), int4_calibration={"tokens": 256})
    listener = Listener()
    run(project, listener, until="export")
    layers = [data for data in listener.of("progress") if data.get("unit") == "layers" and data["stage"] == "export"]
    assert (layers[0]["done"], layers[1]["done"], layers[1]["total"]) == (1, 2, 2)
    manifest = read_manifest(project.gen_model / "onnx")
    assert manifest is not None
    assert manifest.facts["quality"]["largest_difference"] > 0.001
    assert not list(project.gen_model.rglob("calibrated"))
    assert states(project)["export"] == "cached"
    exporting(project, int4_calibration={"tokens": 512})
    assert states(project)["export"] == "stale"


def test_a_calibration_that_is_stopped_leaves_nothing(trained_project: MakeProject) -> None:
    project = exporting(trained_project(until="merge"), int4_algo_config="gptq")

    def stop(event: Event) -> None:
        if event.stage == "export" and event.event == "progress" and event.data.get("unit") == "layers":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(project, stop, until="export")
    assert not list(project.gen_model.rglob("calibrated"))
    assert not list(project.gen_model.rglob("model.onnx*"))


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(WorkFailed, match="no linear layers"):
        round_model(model_of("gpt2", tied=True), batches_of(rows()), step())
