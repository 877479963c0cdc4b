"""What `validate` finds about `input_model.adapter_path`, from adapter_config.json and the headers of the weights."""

from __future__ import annotations

import json
import shlex
import struct
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.core.artifacts import seal
from phi_runtime.core.errors import UsageError
from phi_runtime.models.peft_folder import read_peft_folder
from tests.phi_runtime.checks.test_adapters import put_model
from tests.phi_runtime.config.test_refused import refused
from tests.phi_runtime.export.tiny_adapters import edit_json

QKV, DOWN = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.down_proj"
MERGE: dict[str, Any] = {"merge": {"type": "MergeAdapterWeights"}}
AT = "input_model.adapter_path"
Shapes = dict[str, list[int]]


def lora(*modules: str, r: int = 4, sizes: tuple[int, int] = (8, 8)) -> Shapes:
    """Shapes of the weights of a LoRA."""
    outputs, inputs = sizes
    a = {f"base_model.model.{module}.lora_A.weight": [r, inputs] for module in modules}
    return a | {f"base_model.model.{module}.lora_B.weight": [outputs, r] for module in modules}


def put_adapter(folder: Path, shapes: Shapes | None = None, **config: Any) -> None:
    """An adapter with a header of its weights and no weights."""
    shapes = lora(QKV, DOWN) if shapes is None else shapes
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    content = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    known = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_dora": False,
             "use_rslora": False, "target_modules": ["down_proj", "qkv_proj"], "modules_to_save": None, "bias": "none",
             "rank_pattern": {}, "init_lora_weights": True}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}), encoding="utf-8")


def found(tmp_path: Path, passes: dict[str, Any] | None = None, path: str = "adapter", **model: Any) -> list[Finding]:
    """The findings on a workflow with an input adapter, over a base model with four linear modules."""
    if not (tmp_path / "model").exists():
        put_model(tmp_path / "model", **model)

    def change(config: dict[str, Any]) -> None:
        config["input_model"].update(model_path="model", adapter_path=path)
        config["passes"] = MERGE if passes is None else passes

    return refused(tmp_path, change)[0]


def shown(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.rule, f.key) for f in findings]


def test_an_adapter_that_fits_is_valid_and_one_of_the_hub_is_seen_once_it_is_downloaded(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    assert found(tmp_path) == []
    assert found(tmp_path, path="acme/tone-lora") == []
    assert shown(found(tmp_path, path="https://huggingface.co/acme/tone-lora")) == [("restructured", AT)]
    assert shown(found(tmp_path, path="https://huggingface.co/acme/tone-lora/tree/v2")) == [
        ("not-supported", AT),
        ("pass-order", "passes.merge"),
    ]
    put_adapter(tmp_path / "model-cache" / "acme" / "tone-lora", peft_type="VBLORA")
    assert shown(found(tmp_path, path="acme/tone-lora")) == [("adapter", AT)]


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("LOHA", {f"base_model.model.{QKV}.hada_w1_a": [8, 4]}),
        ("LOKR", {f"base_model.model.{QKV}.lokr_w1": [4, 4]}),
        ("IA3", {f"base_model.model.{QKV}.ia3_l": [8, 1]}),
        ("PEANUT", {f"base_model.model.{QKV}.peanut_A.weight": [4, 8]}),
        ("OFT", {f"base_model.model.{QKV}.oft_R.weight": [1, 6]}),
        ("VERA", {f"base_model.model.{QKV}.vera_lambda_b": [8], "base_model.vera_A": [4, 8]}),
        ("LORA", lora(QKV) | {f"base_model.model.{QKV}.lora_magnitude_vector": [8]}),
        ("LORA", lora(QKV) | {"base_model.model.model.embed_tokens.weight": [8, 8]}),
    ],
)
def test_every_kind_that_can_be_merged_is_valid(tmp_path: Path, kind: str, shapes: Shapes) -> None:
    put_adapter(tmp_path / "adapter", shapes, peft_type=kind)
    assert found(tmp_path) == []
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    (tmp_path / "adapter").rmdir()
    put_adapter(
        tmp_path / "adapter", {name.replace("layers.0", "layers.7"): s for name, s in shapes.items()}, peft_type=kind
    )
    assert shown(found(tmp_path)) == [("adapter", AT)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "adapters of the type PREFIX_TUNING are not supported"),
        ({"peft_type": None}, "adapters of the type None are not supported"),
        ({"task_type": "SEQ_CLS"}, "the adapter is for SEQ_CLS, not for CAUSAL_LM"),
        ({"init_lora_weights": "pissa_niter_4"}, "`init_lora_weights`: pissa_niter_4 changed the base of the adapter"),
        (
            {"layer_replication": [[0, 1]]},
            "`layer_replication` of the adapter is not supported: it repeats layers of the model",
        ),
        ({"lora_bias": True}, f"the adapter has a bias (`lora_bias`) for `{QKV}`, which has none"),
        ({"r": 16}, f"`{QKV}` of the adapter has rank 4, but adapter_config.json has r: 16"),
    ],
)
def test_a_setting_of_the_adapter_that_cannot_be_followed_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    put_adapter(tmp_path / "adapter", **config)
    findings = found(tmp_path)
    assert [(f.rule, f.key, f.message) for f in findings] == [("adapter", AT, message)]
    assert findings[0].fix


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (lora("model.layers.2.mlp.down_proj"), "the model has no `model.layers.2.mlp.down_proj`"),
        (lora("model.layers.0.self_attn.q_proj"), "the model has no `model.layers.0.self_attn.q_proj`"),
        (lora(QKV, sizes=(16, 8)), f"`{QKV}` of the adapter is for 16 × 8 weights, that of the model has 8 × 8"),
        (
            lora(QKV) | {"base_model.model.model.embed_tokens.weight": [11, 8]},
            "`model.embed_tokens.weight` of the adapter is 11 × 8, that of the model 8 × 8",
        ),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_names_and_shapes(
    tmp_path: Path, shapes: Shapes, message: str
) -> None:
    put_adapter(tmp_path / "adapter", shapes)
    (finding,) = found(tmp_path)
    assert (finding.rule, finding.key) == ("adapter", AT)
    assert finding.message.startswith(message)


def test_a_change_of_an_embedding_that_is_also_the_output_head_is_refused(tmp_path: Path) -> None:
    embedding = {f"base_model.model.model.embed_tokens.lora_embedding_{side}": [4, 8] for side in "AB"}
    put_adapter(tmp_path / "head", lora(QKV, "lm_head"))
    assert shown(found(tmp_path, path="head", tie_word_embeddings=True)) == [("adapter", AT)]
    put_adapter(tmp_path / "adapter", lora(QKV) | embedding)
    assert shown(found(tmp_path, tie_word_embeddings=True)) == [("adapter", AT)]
    (tmp_path / "model" / "config.json").write_text('{"model_type": "phi3"}', encoding="utf-8")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("microsoft/Phi-3.5-mini-instruct", True),
        ("microsoft/Phi-3-mini-4k-instruct", False),
        ("unsloth/phi-3-mini-4k-instruct-bnb-4bit", False),
        ("/home/me/models/phi", False),
    ],
)
def test_the_name_of_another_base_is_refused(tmp_path: Path, name: str, other: bool) -> None:
    put_adapter(tmp_path / "adapter", base_model_name_or_path=name)
    put_model(tmp_path / "model-cache" / "microsoft" / "Phi-3-mini-4k-instruct")

    def change(config: dict[str, Any]) -> None:
        config["input_model"].update(model_path="microsoft/Phi-3-mini-4k-instruct", adapter_path="adapter")
        config["passes"] = MERGE

    assert shown(refused(tmp_path, change)[0]) == ([("adapter", AT)] if other else [])


def test_the_digest_of_another_base_in_the_manifest_is_refused(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    seal(tmp_path / "adapter", key="k", kind="adapter", facts={"inputs": {"input": "another"}})
    assert shown(found(tmp_path)) == [("adapter", AT)]


def test_a_folder_without_an_adapter_is_named_with_what_to_do(tmp_path: Path) -> None:
    put_adapter(tmp_path / "my-adapter")
    (finding,) = found(tmp_path, path="./my-adaptr")
    assert (finding.rule, finding.key, finding.suggestion) == ("file-not-found", AT, "my-adapter")
    (tmp_path / "out").mkdir()
    (tmp_path / "my-adapter").rename(tmp_path / "out" / "adapter")
    (finding,) = found(tmp_path, path="out")
    assert finding.fix == f"set adapter_path to {tmp_path / 'out' / 'adapter'}"


def test_an_adapter_as_model_path_is_named_with_its_base(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter", base_model_name_or_path="microsoft/phi-2")
    (finding,) = refused(tmp_path, lambda c: c["input_model"].update(model_path="adapter"))[0]
    assert (finding.rule, finding.key) == ("model-not-found", "input_model.model_path")
    assert finding.fix == "set `adapter_path` to it, and `model_path` to its base, microsoft/phi-2"


def test_pickled_and_truncated_weights_are_refused(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    header = {f"base_model.model.{QKV}.lora_A.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}}
    content = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(content)) + content)
    assert shown(found(tmp_path)) == [("adapter", AT)]
    file.rename(file.with_name("adapter_model.bin"))
    (finding,) = found(tmp_path)
    assert (finding.rule, finding.key) == ("adapter", AT)
    assert "load_peft_weights" in finding.fix


def test_the_command_that_converts_pickled_weights_names_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / """it's "$HOME" `id`"""
    put_adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UsageError, match="pickled weights") as caught:
        read_peft_folder(folder)
    command = shlex.split(caught.value.fix.partition("convert it: ")[2])
    assert command[:2] == ["python", "-c"]
    assert command[3:] == [folder.as_posix()]


TRAIN = {"train_data_config": "train"}


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        ({"type": "LoRA"}, []),
        ({"type": "QLoRA", "r": 4, "alpha": 8, "lora_dropout": 0.3}, []),
        ({"type": "LoRA", "target_modules": ["mlp.down_proj", "qkv_proj"]}, []),
        ({"type": "LoRA", "r": 16}, ["r"]),
        ({"type": "LoRA", "r": 4, "alpha": 16, "use_rslora": True}, ["alpha", "use_rslora"]),
        ({"type": "LoRA", "target_modules": ["qkv_proj"]}, ["target_modules"]),
        ({"type": "LoRA", "target_modules": ["all-linear"]}, ["target_modules"]),
        ({"type": "LoRA", "modules_to_save": ["norm"]}, ["modules_to_save"]),
        ({"type": "LoRA", "target_modules": r".*\.(qkv|down)_proj"}, []),
        ({"type": "LoRA", "target_modules": r".*\.down_proj"}, ["target_modules"]),
        ({"type": "LoRA", "init_lora_weights": True}, []),
        ({"type": "LoRA", "init_lora_weights": "pissa"}, ["init_lora_weights"]),
        ({"type": "LoRA", "r": 4, "rank_pattern": {"down_proj": 2}}, ["rank_pattern"]),
        ({"type": "DoRA", "r": 4}, ["type"]),
        ({"type": "IA3"}, ["type"]),
    ],
)
def test_a_pass_that_trains_it_further_has_its_settings(tmp_path: Path, step: dict[str, Any], keys: list[str]) -> None:
    put_adapter(tmp_path / "adapter")
    findings = found(tmp_path, {"tune": {**step, **TRAIN}, **MERGE})
    assert shown(findings) == [("contradiction", f"passes.tune.{key}") for key in keys]


def test_full_fine_tuning_needs_the_merged_model(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    full = {"full": {"type": "FullFinetune", **TRAIN}}
    (finding,) = found(tmp_path, full)
    assert (finding.rule, finding.key) == ("pass-order", "passes.full")
    assert found(tmp_path, {**MERGE, **full}) == []


def test_what_cannot_be_merged_or_be_an_input_of_the_graph_is_refused_there(tmp_path: Path) -> None:
    apart = {"export": {"type": "ModelBuilder", "precision": "int4", "adapters": ["input_adapter"]}}
    put_adapter(tmp_path / "adapter")
    assert found(tmp_path, apart) == []
    assert ("pass-name", "passes.input_adapter") in shown(found(tmp_path, {"input_adapter": MERGE["merge"]}))
    (tmp_path / "adapter").rename(tmp_path / "plain")
    put_adapter(tmp_path / "adapter", use_dora=True)
    assert shown(found(tmp_path, apart)) == [("adapter", "passes.export.adapters.0")]
    (tmp_path / "adapter").rename(tmp_path / "dora")
    put_adapter(tmp_path / "adapter", {"prompt_embeddings": [4, 8]}, peft_type="PROMPT_TUNING", num_virtual_tokens=4)
    assert shown(found(tmp_path)) == [("pass-order", "passes.merge")]
    assert found(tmp_path, {"tune": {"type": "PromptTuning", "num_virtual_tokens": 4, **TRAIN}}) == []


def test_a_sum_counts_an_adapter_once(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    both = {"both": {"type": "MergeAdapterWeights", "adapters": ["input_adapter", "tune"]}}
    findings = found(tmp_path, {"tune": {"type": "LoRA", **TRAIN}, **both})
    assert shown(findings) == [("contradiction", "passes.both.adapters.1")]


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Mixtral"])
def test_an_adapter_on_all_modules_of_an_architecture_fits_its_files(tmp_path: Path, kind: str) -> None:
    """GPT-2 stores transposed weights, and Mixtral other names than those of the loaded model."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {} if kind == "GPT2" else {"intermediate_size": 32, "num_key_value_heads": 1}
    more |= {"num_local_experts": 2} if kind == "Mixtral" else {}
    config = getattr(transformers, f"{kind}Config")(**sizes, **more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "model")
    settings = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", lambda c: c.update(base_model_name_or_path=None))
    assert found(tmp_path) == []
