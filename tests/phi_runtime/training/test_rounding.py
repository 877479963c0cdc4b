"""Rounding in int4-aware training equals that of the export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime_genai")

from phi_runtime.models.builder_source import gets_8_bits  # noqa: E402
from phi_runtime.models.fetch import present  # noqa: E402
from phi_runtime.passes.model_builder import ModelBuilder  # noqa: E402
from phi_runtime.pipeline.engine import run  # noqa: E402
from phi_runtime.pipeline.load import load_workflow  # noqa: E402
from phi_runtime.pipeline.stage import pass_stage  # noqa: E402
from phi_runtime.training.rounding import Int4AwareBase, round_to_int4, rounded_modules  # noqa: E402
from tests.conftest import Listener, MakeProject, edit_config  # noqa: E402

MODULES = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("size", "bits"), [(16, 4), (32, 4), (64, 4), (128, 4), (32, 8), (64, 8)])
def test_it_rounds_as_onnx_runtime_does(size: int, bits: int, symmetric: bool) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    quantizer = DefaultWeightOnlyQuantizer(
        DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=symmetric, bits=bits)
    )
    packed, scales, points = (torch.tensor(part) for part in quantizer.qbits_block_quant(weight.T.contiguous().numpy()))
    blocks = -(-96 // size)
    if bits == 4:  # two codes in a byte
        packed, points = (torch.stack([part & 15, part >> 4], dim=-1) for part in (packed, points))
    codes = packed.view(48, blocks, size).int()
    zero = torch.full((48, blocks), 2 ** (bits - 1)) if symmetric else points.view(48, -1)[:, :blocks].int()
    read_back = (codes - zero[..., None]) * scales.view(48, blocks, 1)
    expected = read_back.view(48, -1)[:, :96]
    torch.testing.assert_close(round_to_int4(weight, size, symmetric=symmetric, bits=bits), expected)


def test_rounding_is_exact_for_nothing_and_keeps_type_and_zeros() -> None:
    weight = torch.zeros(4, 32, dtype=torch.bfloat16)
    assert torch.equal(round_to_int4(weight), weight)
    assert round_to_int4(weight).dtype == torch.bfloat16


def test_the_sensitive_layers_are_those_of_the_builder() -> None:
    chosen = [i for i in range(30) if gets_8_bits(i, 30, "qkv_proj")]
    assert chosen == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29]
    assert not any(gets_8_bits(i, 30, "o_proj") for i in range(30))


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"extra_options": {"matmul_mixed_precision": "mixed_layers:int8"}}, {(0, "qkv_proj"), (0, "down_proj")}),
        ({"int4_algo_config": "rtn_last", "int4_is_symmetric": True}, set()),
        (
            {"int4_nodes_to_exclude": ["/model/layers.1/mlp/gate_up_proj/MatMul", "/lm_head/MatMul"]},
            {(1, "gate_up_proj")},
        ),
        ({"int4_block_size": 64}, set()),
    ],
)
def test_the_rounding_of_the_export_says_which_modules_stay_exact(
    tiny_phi3: Path, options: dict[str, Any], exact: set[tuple[int, str]]
) -> None:
    from transformers import AutoModelForCausalLM

    step = ModelBuilder.model_validate({"type": "ModelBuilder", "precision": "int4", **options})
    model = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32).requires_grad_(False)
    base = Int4AwareBase(model, step.int4_rounding)
    size = options.get("int4_block_size", 32)
    names = {
        (int(name.split(".")[2]), name.rpartition(".")[2]): module
        for name, module in model.named_modules()
        if name.endswith("_proj")
    }
    assert {place for place, module in names.items() if module not in base.layers} == exact
    for weight, rounded in zip(base.exact, base.rounded, strict=True):
        assert torch.equal(rounded, round_to_int4(weight, size))
        assert (size == 32) == torch.equal(rounded, round_to_int4(weight, 32))


@pytest.mark.parametrize(
    ("fuse_qkv", "excluded", "wide"),
    [
        (None, [], {"q_proj", "k_proj", "v_proj"}),
        (False, [], {"v_proj"}),
        (None, ["/model/layers.0/attn/q_proj/MatMul"], {"v_proj"}),
    ],
)
def test_query_and_key_have_the_bits_of_the_node_that_holds_them(
    fuse_qkv: bool | None, excluded: list[str], wide: set[str]
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 64}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))
    settings = {"extra_options": {"matmul_mixed_precision": "mixed_layers:int8", "fuse_qkv": fuse_qkv}}
    settings |= {"int4_nodes_to_exclude": excluded or None}
    step = ModelBuilder.model_validate({"type": "ModelBuilder", "precision": "int4", **settings})
    modules = {name.rpartition(".")[2]: bits for name, _, bits in rounded_modules(model, step.int4_rounding)}
    assert len(modules) == 7 - len(excluded)
    assert {name for name, bits in modules.items() if bits == 8} == {*wide, "down_proj"}


def test_the_base_alternates_and_comes_back_exactly(tiny_phi3: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv_proj", "o_proj"], task_type="CAUSAL_LM"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    base = Int4AwareBase(model)
    base.use_rounded(True)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    rounded = {tuple(re.findall(r"layers\.(\d+)\..*?(\w+_proj)", n)[0]) for n in changed}
    # of the two layers the first is sensitive; of its modules, these two are not
    assert rounded == {("0", "o_proj"), ("0", "gate_up_proj"), *(("1", m) for m in MODULES)}
    assert not any("lora" in n or "lm_head" in n or "embed" in n for n in changed)
    base.use_rounded(False)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_another_rounding_of_the_export_makes_the_training_stale(make_project: MakeProject) -> None:
    project = make_project()

    def inputs(aware: bool, size: int | None) -> dict[str, Any]:
        def change(config: dict[str, Any]) -> None:
            config["passes"]["finetune"]["int4_aware"] = aware
            config["passes"]["export"] = {"type": "ModelBuilder", "precision": "int4", "int4_block_size": size} | {
                "extra_options": {"matmul_mixed_precision": "mixed_layers:int8"}
            }

        edit_config(project, change)
        workflow = load_workflow(project.config)
        source = present(workflow.input_model, project)
        return pass_stage(workflow, project, "finetune", source).inputs

    assert inputs(aware=True, size=64)["rounding"]["block_size"] == 64
    for default in (inputs(aware=True, size=32), inputs(aware=True, size=None), inputs(aware=False, size=64)):
        assert "rounding" not in default  # so that models of earlier versions stay valid
        assert not {"layers", "activation_cache_gb"} & set(default["config"])


def test_a_training_uses_the_block_size_of_its_export(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(max_steps=2, passes={"finetune": {"int4_aware": True}, "export": {"int4_block_size": 16}})
    bases: list[Int4AwareBase] = []
    use_rounded = Int4AwareBase.use_rounded

    def seen(self: Int4AwareBase, rounded: bool) -> None:
        bases.append(self)
        use_rounded(self, rounded)

    monkeypatch.setattr(Int4AwareBase, "use_rounded", seen)
    run(project, Listener(), until="finetune")
    assert len({*bases}) == 1
    for exact, rounded in zip(bases[0].exact, bases[0].rounded, strict=True):
        assert torch.equal(rounded, round_to_int4(exact, 16))
        assert not torch.equal(rounded, round_to_int4(exact, 32))
