"""Adapters of an ONNX model answer as in peft, whatever their rank and modules, and leave the base as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.core.artifacts import seal
from phi_runtime.core.errors import UsageError, WorkFailed
from phi_runtime.models import onnx_adapters
from phi_runtime.models.onnx_adapters import adapter_file, fit_adapter, read_record, write_adapter
from tests.phi_runtime.export.tiny_adapters import (
    add_adapters,
    build_graph,
    edit_json,
    furthest,
    make_adapter,
    onnx_logits,
    peft_logits,
)

# Three adapters of each model: of other ranks, on other modules.
MODULES = {
    "phi3": [["qkv_proj", "o_proj"], ["gate_up_proj", "down_proj"], ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]],
    "llama": [["q_proj", "v_proj"], ["k_proj", "up_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]],
    "qwen2": [["v_proj"], ["q_proj", "k_proj", "v_proj"], ["o_proj", "gate_proj", "up_proj", "down_proj"]],
}  # fmt: skip
RANKS = (4, 8, 3)


@pytest.fixture(scope="module")
def bases(tiny_phi3: Path, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phi-3 has query, key and value in one matrix, and its head tied; Llama has them apart, and Qwen2 with biases."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(3)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    for name, model in (("llama", llama), ("qwen2", qwen2)):
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(root / name)
        tiny_tokenizer.save_pretrained(root / name)
    return {"phi3": tiny_phi3, "llama": root / "llama", "qwen2": root / "qwen2"}


Graph = Callable[..., Path]


@pytest.fixture(scope="module")
def plain(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The graph of one of the bases as the builder makes it, built once."""

    @cache
    def built(name: str, precision: str) -> Path:
        options = {"int4_accuracy_level": 1} if precision == "int4" else {}
        return build_graph(bases[name], tmp_path_factory.mktemp(f"{name}-{precision}"), precision, **options)

    return built


@pytest.fixture
def graph_of(plain: Callable[[str, str], Path], tmp_path: Path) -> Graph:
    """A copy of it."""
    return lambda name, precision="fp32": shutil.copytree(plain(name, precision), tmp_path / "graph")


def three_adapters(base: Path, name: str, folder: Path) -> dict[str, Path]:
    return {
        f"adapter-{r}": make_adapter(base, folder / f"adapter-{r}", modules, r=r, seed=r, use_rslora=r == 3)
        for r, modules in zip(RANKS, MODULES[name], strict=True)
    }


def weights_digest(graph: Path) -> str:
    return hashlib.sha256((graph / "model.onnx.data").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", MODULES)
def test_three_adapters_of_other_ranks_and_modules_say_on_one_graph_what_they_say_in_peft(
    name: str, bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    base, graph = bases[name], graph_of(name)
    before, weights = onnx_logits(graph), weights_digest(graph)
    adapters = three_adapters(base, name, tmp_path)
    record = add_adapters(graph, base, adapters)
    assert read_record(graph) == record
    assert weights_digest(graph) == weights
    assert np.array_equal(onnx_logits(graph), before)
    assert furthest(before, peft_logits(base)) < 1e-3
    for each, folder in adapters.items():
        said = onnx_logits(graph, each)
        assert furthest(said, peft_logits(base, folder)) < 1e-3
        assert furthest(said, before) > 0.05  # it does something


def test_on_an_int4_graph_each_adapter_stays_as_exact_as_in_float(
    bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    """The base is rounded, the adapters are not: each is within 1e-3 of peft over the weights that the graph has."""
    import onnxruntime as ort
    from safetensors.numpy import load_file

    base, graph = bases["llama"], graph_of("llama", "int4")
    before = onnx_logits(graph)
    adapters = three_adapters(base, "llama", tmp_path)
    add_adapters(graph, base, adapters)
    assert np.array_equal(onnx_logits(graph), before)
    rounded = tmp_path / "rounded"
    save_dequantised(base, graph, rounded)
    assert furthest(before, peft_logits(rounded)) < 1e-3
    assert furthest(before, peft_logits(base)) > 0.01  # the rounding itself is larger by far
    for each, folder in adapters.items():
        assert furthest(onnx_logits(graph, each), peft_logits(rounded, folder)) < 1e-3

    stored = load_file(adapters["adapter-8"] / "adapter_model.safetensors")
    written = ort.AdapterFormat.read_adapter(str(adapter_file(graph, "adapter-8"))).get_parameters()
    a, b = (written[f"model.layers.1.mlp.up_proj.lora_{side}.MatMul.weight"].numpy() for side in "AB")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    assert np.array_equal(a, stored[name.format("A")].T)
    assert np.array_equal(b, stored[name.format("B")].T * np.float32(3))  # alpha / r


def save_dequantised(base: Path, graph: Path, folder: Path) -> None:
    """The model in `base` with the weights that the int4 graph really computes with."""
    import onnx
    import torch
    from onnx import numpy_helper
    from transformers import AutoModelForCausalLM

    proto = onnx.load(str(graph / "model.onnx"))
    values = {t.name: t for t in proto.graph.initializer}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = {}
    for node in proto.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        packed, scales = (numpy_helper.to_array(values[name]) for name in node.input[1:3])
        assert facts["bits"] == 4
        assert len(node.input) == 3  # symmetric
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(facts["N"], -1, facts["block_size"])
        weight = (nibbles.astype(np.float32) - 8) * scales.reshape(facts["N"], -1, 1)
        found[node.name.rsplit("/MatMul", 1)[0]] = weight.reshape(facts["N"], -1)[:, : facts["K"]]
    heads = {"q_proj": slice(0, 64), "k_proj": slice(64, 96), "v_proj": slice(96, 128)}
    with torch.no_grad():
        for path, module in model.named_modules():
            if not isinstance(module, torch.nn.Linear):
                continue
            place = "/" + path.replace("self_attn", "attn").replace(".", "/").replace("layers/", "layers.")
            name = path.rpartition(".")[2]
            weight = found[place.replace(name, "qkv_proj")][heads[name]] if name in heads else found[place]
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    model.save_pretrained(folder)


def test_ranks_and_scales_that_differ_by_module_and_half_precision_are_kept(
    bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    base, graph = bases["phi3"], graph_of("phi3")
    patterned = make_adapter(
        base,
        tmp_path / "patterned",
        ["qkv_proj", "down_proj"],
        rank_pattern={"layers.1.mlp.down_proj": 2, "qkv_proj": 6},
        alpha_pattern={r".*\.0\.self_attn\.qkv_proj": 30},
    )
    half = tmp_path / "half"
    shutil.copytree(patterned, half)
    weights = {
        name: value.to(torch.bfloat16) for name, value in load_file(patterned / "adapter_model.safetensors").items()
    }
    save_file(weights, half / "adapter_model.safetensors")
    add_adapters(graph, base, {"patterned": patterned, "half": half})
    assert furthest(onnx_logits(graph, "patterned"), peft_logits(base, patterned)) < 1e-3
    assert furthest(onnx_logits(graph, "half"), peft_logits(base, half)) < 1e-3


def test_a_graph_gets_further_inputs_without_its_weights_or_those_before_changing(
    bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    base, graph = bases["qwen2"], graph_of("qwen2")
    first = make_adapter(base, tmp_path / "first", ["v_proj"])
    before = onnx_logits(graph)
    add_adapters(graph, base, {"first": first})
    said, proto = onnx_logits(graph, "first"), (graph / "model.onnx").stat().st_mtime_ns
    add_adapters(graph, base, {"first": first})
    assert (graph / "model.onnx").stat().st_mtime_ns == proto  # nothing to do
    second = make_adapter(base, tmp_path / "second", ["down_proj"], seed=5)
    add_adapters(graph, base, {"second": second})
    assert np.array_equal(onnx_logits(graph), before)
    assert np.array_equal(onnx_logits(graph, "first"), said)
    assert furthest(onnx_logits(graph, "second"), peft_logits(base, second)) < 1e-3


def test_an_adapter_of_any_rank_is_fitted_later_with_what_is_next_to_the_graph(
    bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    base, graph = bases["llama"], graph_of("llama")
    add_adapters(graph, base, {"first": make_adapter(base, tmp_path / "first", ["q_proj", "k_proj"])})
    later = make_adapter(base, tmp_path / "later", ["k_proj"], r=16, seed=9)
    facts = fit_adapter(graph, later, adapter_file(graph, "later"))
    assert (facts["ranks"], facts["modules"]) == ([16], ["k_proj"])
    assert furthest(onnx_logits(graph, "later"), peft_logits(base, later)) < 1e-3


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(bases: dict[str, Path], graph_of: Graph, tmp_path: Path) -> tuple[Path, Path]:
    """A graph with inputs for adapters on q_proj and down_proj, and an adapter that fits it."""
    graph, adapter = graph_of("llama"), make_adapter(bases["llama"], tmp_path / "sound", ["q_proj", "down_proj"])
    add_adapters(graph, bases["llama"], {"sound": adapter})
    return graph, adapter


def refusal(graph: Path, adapter: Path) -> str:
    out = graph / "adapters" / "refused.onnx_adapter"
    with pytest.raises(UsageError) as caught:
        fit_adapter(graph, adapter, out)
    assert caught.value.fix
    assert not out.exists()
    assert sorted(p.name for p in (graph / "adapters").iterdir()) == ["sound.onnx_adapter"]
    return caught.value.what


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA cannot be inputs"),
        ({"peft_type": "LOHA"}, "LOHA; only LoRA"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
        ({"modules_to_save": ["lm_head"]}, "fully trained"),
        ({"bias": "all"}, "trained biases"),
        ({"lora_bias": True}, "trained biases"),
        ({"init_lora_weights": "pissa_niter_16"}, "changed the base"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "`layer_replication`"),
        ({"an_option_of_tomorrow": {"on": True}}, "`an_option_of_tomorrow`"),
        ({"alpha_pattern": {"(q_proj": 4}}, "`(q_proj` in `alpha_pattern` is no regular expression"),
    ],
)
def test_what_is_more_than_two_matrices_a_module_is_refused(
    adapted: tuple[Path, Path], change: dict[str, Any], said: str
) -> None:
    graph, adapter = adapted
    edit_json(adapter / "adapter_config.json", lambda c: c.update(change))
    assert said in refusal(graph, adapter)


def test_without_lora_alpha_the_default_of_peft_applies(adapted: tuple[Path, Path], bases: dict[str, Path]) -> None:
    graph, adapter = adapted
    edit_json(adapter / "adapter_config.json", lambda c: c.pop("lora_alpha"))
    fit_adapter(graph, adapter, adapter_file(graph, "sound"))
    assert furthest(onnx_logits(graph, "sound"), peft_logits(bases["llama"], adapter)) < 1e-3


def test_a_graph_that_does_not_give_the_size_of_a_product_is_refused(
    bases: dict[str, Path], graph_of: Graph, tmp_path: Path
) -> None:
    import onnx

    base, graph = bases["llama"], graph_of("llama")
    model = onnx.load(graph / "model.onnx", load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, graph / "model.onnx")
    with pytest.raises(WorkFailed, match="of the ONNX graph does not match") as caught:
        add_adapters(graph, base, {"first": make_adapter(base, tmp_path / "first", ["q_proj"])})
    assert "MergeAdapterWeights" in caught.value.fix


def test_weights_that_are_no_matrices_of_a_lora_are_refused_whatever_the_config_says(
    adapted: tuple[Path, Path],
) -> None:
    from safetensors.numpy import load_file, save_file

    graph, adapter = adapted
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({**weights, "base_model.model.model.embed_tokens.lora_embedding_A": weights[name.format("A")]}, file)
    assert "lora_embedding_A" in refusal(graph, adapter)
    save_file({k: v for k, v in weights.items() if k != name.format("B")}, file)
    assert "do not match" in refusal(graph, adapter)
    file.write_bytes(file.read_bytes()[:-100])
    assert "cannot be read" in refusal(graph, adapter)
    file.unlink()
    assert "does not exist" in refusal(graph, adapter)
    assert "is not an adapter of peft" in refusal(graph, graph)


def test_an_adapter_of_another_base_is_refused_by_its_sizes_its_layers_its_name_and_its_manifest(
    adapted: tuple[Path, Path], bases: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    graph, adapter = adapted
    stored = json.loads((bases["llama"] / "config.json").read_text(encoding="utf-8"))
    for name, change, said in (
        ("wide", {"hidden_size": 32, "head_dim": 8}, "has 32 → 32; the model has 64 → 64"),
        ("deep", {"num_hidden_layers": 5}, "but the graph has 3 layers"),
    ):
        LlamaForCausalLM(LlamaConfig(**{**stored, **change})).save_pretrained(tmp_path / name)
        foreign = make_adapter(tmp_path / name, tmp_path / f"of-{name}", ["q_proj"])
        assert said in refusal(graph, foreign)

    edit_json(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path="another-org/Tiny"))
    fit_adapter(graph, adapter, tmp_path / "mirror.onnx_adapter")  # the same model in another home
    edit_json(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path="org/other"))
    assert "trained on org/other, but this is org/tiny" in refusal(graph, adapter)
    seal(adapter, key="k", kind="adapter", facts={"inputs": {"input": "base-key"}})
    fit_adapter(graph, adapter, tmp_path / "known.onnx_adapter")  # our own manifest knows better than a name
    seal(adapter, key="k", kind="adapter", facts={"inputs": {"input": "other-key"}})
    assert "its manifest names another base" in refusal(graph, adapter)


def test_a_module_without_inputs_and_a_graph_without_any_say_what_to_do(
    adapted: tuple[Path, Path], bases: dict[str, Path], plain: Callable[[str, str], Path], tmp_path: Path
) -> None:
    graph, adapter = adapted
    other = make_adapter(bases["llama"], tmp_path / "other", ["q_proj", "up_proj"])
    assert "changes up_proj, for which this ONNX model has no adapter input" in refusal(graph, other)
    with pytest.raises(UsageError, match="accepts no adapters") as caught:
        fit_adapter(plain("llama", "fp32"), adapter, tmp_path / "none.onnx_adapter")
    assert "`adapters`" in caught.value.fix


def test_weights_for_a_graph_in_bfloat16_are_rounded_as_torch_does(tmp_path: Path) -> None:
    import onnxruntime as ort
    import torch

    values = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    values[0] = 1 + np.arange(8) / 256  # among them ties between two numbers of bfloat16
    write_adapter({"a": ("place", values)}, {"place": "bfloat16"}, tmp_path / "file")
    written = ort.AdapterFormat.read_adapter(str(tmp_path / "file")).get_parameters()["a"]
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy()
    assert (written.shape(), onnx_adapters._bytes(written)) == ([64, 8], expected.tobytes())


def test_what_the_file_does_not_hold_is_noticed(adapted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An OrtValue does not own its numbers: written from arrays that are gone, a file holds whatever is there by then."""
    graph, adapter = adapted
    monkeypatch.setattr(onnx_adapters, "_bytes", lambda value: b"\0" * value.tensor_size_in_bytes())
    with pytest.raises(WorkFailed, match="differs from the adapter"):
        fit_adapter(graph, adapter, graph / "adapters" / "sound.onnx_adapter")
    monkeypatch.undo()
    assert furthest(onnx_logits(graph, "sound"), onnx_logits(graph)) > 0.05  # the one before is still whole
