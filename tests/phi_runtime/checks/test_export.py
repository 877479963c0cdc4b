"""Settings of an export that the builder would obey and nothing could run, or that it would pass over: each an error at its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.core.errors import ConfigError
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import check_file
from tests.conftest import Listener, MakeProject, edit_config
from tests.phi_runtime.config.test_refused import CONFIG
from tests.phi_runtime.pipeline.test_fetch import HubServer, hub

__all__ = ["hub"]

TIED = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "tie_word_embeddings": True}
UNTIED = {**TIED, "tie_word_embeddings": False}
SMOL = {**TIED, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}


def findings(folder: Path, model: dict[str, Any] | None, provider: str, **keys: Any) -> tuple[list[Finding], list[str]]:
    """The findings on a config whose ModelBuilder pass has these keys, for this target and base model; and the lines of its file."""
    config = copy.deepcopy(CONFIG)
    config["systems"]["local"]["accelerators"] = [
        {"device": "cpu" if provider.startswith("CPU") else "gpu", "execution_providers": [provider]}
    ]
    config["passes"]["build"].update(keys)
    path = folder / "fine-tuning" / "olive-config.json"
    path.parent.mkdir()
    (path.parent / "rows.jsonl").write_text('{"q": "x", "a": "y"}\n', encoding="utf-8")
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    if model is not None:
        base = folder / "model-cache" / "phi-2"
        base.mkdir(parents=True)
        (base / "config.json").write_text(json.dumps(model), encoding="utf-8")
    found = [f for f in check_file(path).findings if f.severity == "error"]
    return found, path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("model", "provider", "keys", "line_of", "says", "suggestion"),
    [
        (None, "CPU", {"precision": "fp16"}, "precision", "does not run on CPUExecutionProvider", ""),
        (None, "Dml", {"precision": "int8"}, "precision", "does not run on DmlExecutionProvider", ""),
        (None, "CPU", {"precision": "int8", "use_qdq": True}, "use_qdq", "no form with standard operators", "false"),
        (UNTIED, "CPU", {"use_qdq": True, "extra_options": MIXED}, "use_qdq", "no 8-bit weights", "false"),
        (TIED, "CPU", {"use_qdq": True}, "use_qdq", '"shared_embeddings": false', ""),
        (TIED, "CPU", {"int4_is_symmetric": False}, "int4_is_symmetric", '"int4_algo_config": "rtn"', ""),
        (UNTIED, "CPU", {"extra_options": {"shared_embeddings": True}}, "shared_emb", "does not share", "false"),
        (SMOL, "CPU", {"int4_algo_config": "k_quant", "int4_block_size": 64}, "int4_block_size", "odd number", "32"),
        (None, "CPU", {"extra_options": {"moe_quant_type": "mxfp4"}}, "moe_quant_type", "is for CUDA", "int4"),
        (None, "CPU", {"precision": "int8", "int4_algo_config": "gptq"}, "int4_algo_config", "4 bits", "default"),
        (
            None,
            "CPU",
            {"int4_algo_config": "gptq", "int4_is_symmetric": False},
            "int4_is_symm",
            "no zero points",
            "true",
        ),
        (
            None,
            "Dml",
            {"extra_options": {"kv_cache_quant_scheme": "int8_per_channel"}},
            "kv_cache",
            "does not quantize",
            "none",
        ),
        (
            None,
            "CPU",
            {"extra_options": {"kv_cache_quant_scheme": "fp8_per_tensor"}},
            "kv_cache",
            "is for CUDAExecutionProvider",
            "int8_per_channel",
        ),
        (
            None,
            "CPU",
            {"use_8bits_moe": True, "extra_options": {"moe_quant_type": "int8"}},
            "use_8bits_moe",
            "both set",
            "",
        ),
        (
            None,
            "CPU",
            {"include_hidden_states": True, "extra_options": {"prune_lm_head": True}},
            "prune_lm_head",
            "last token's logits alone",
            "false",
        ),
    ],
)
def test_a_setting_that_leads_nowhere_is_an_error_at_its_place(
    tmp_path: Path,
    model: dict[str, Any] | None,
    provider: str,
    keys: dict[str, Any],
    line_of: str,
    says: str,
    suggestion: str,
) -> None:
    found, lines = findings(tmp_path, model, f"{provider}ExecutionProvider", **keys)
    assert len(found) == 1, [str(f) for f in found]
    assert says in found[0].message
    assert line_of in lines[found[0].where.line - 1]
    assert found[0].suggestion == suggestion


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (TIED, {}),
        (TIED, {"use_qdq": True, "extra_options": {"shared_embeddings": False}}),
        (TIED, {"int4_is_symmetric": False, "int4_algo_config": "rtn"}),
        (TIED, {"int4_algo_config": "rtn", "extra_options": MIXED}),
        (TIED, {"extra_options": MIXED}),
        (TIED, {"extra_options": {**MIXED, "shared_embeddings": False}}),
        (TIED, {"extra_options": {"matmul_mixed_precision": "mixed_layers:int8"}}),
        (UNTIED, {"int4_is_symmetric": False, "extra_options": MIXED}),
        (UNTIED, {"use_qdq": True}),
        (SMOL, {"int4_algo_config": "k_quant"}),
        (SMOL, {"int4_algo_config": "rtn", "int4_block_size": 64}),
        (TIED, {"precision": "int8", "int4_is_symmetric": False, "int4_block_size": 64}),
        (TIED, {"precision": "fp32", "extra_options": {"prune_lm_head": True}}),
        (None, {"extra_options": {"kv_cache_quant_scheme": "int8_per_channel", "moe_quant_type": "int8"}}),
    ],
)
def test_settings_that_build_a_model_which_runs_pass(
    tmp_path: Path, model: dict[str, Any] | None, keys: dict[str, Any]
) -> None:
    assert findings(tmp_path, model, "CPUExecutionProvider", **keys)[0] == []


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "Gemma3ForCausalLM",
        "PhimoeForCausalLM",
        "Phi4FlashForCausalLM",
        "WhisperForConditionalGeneration",
    ],
)
def test_a_model_that_cannot_be_exported_is_refused_with_what_would_work(tmp_path: Path, name: str) -> None:
    found, lines = findings(tmp_path, {"architectures": [name]}, "CPUExecutionProvider")
    assert [f.rule for f in found] == ["not-exportable"]
    assert name in found[0].message
    assert "remove the ModelBuilder pass" in found[0].fix
    assert '"ModelBuilder"' in lines[found[0].where.line - 1]


def test_a_model_from_the_hub_that_cannot_be_exported_is_refused_before_training(
    make_project: MakeProject, hub: HubServer
) -> None:
    hub.files["config.json"] = b'{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}'
    project = make_project()
    edit_config(project, lambda c: c["input_model"].update(model_path="org/tiny"))
    assert not [f for f in check_file(project.config).findings if f.severity == "error"]
    with pytest.raises(ConfigError, match="cannot export GPT2LMHeadModel") as refused:
        run(project, Listener())
    assert "remove the ModelBuilder pass" in refused.value.fix
    assert not (project.gen_model / "adapter" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [("int4_algo_config", "gptq", "gptq"), ("int4_calibration", {"tokens": 512}, "int4_calibration")],
)
def test_a_calibration_needs_rows_that_the_model_was_trained_on_and_a_merged_model(
    tmp_path: Path, key: str, value: Any, name: str
) -> None:
    config = copy.deepcopy(CONFIG)
    config["passes"]["build"][key] = value
    path = tmp_path / "olive-config.json"

    def messages(passes: dict[str, Any]) -> list[str]:
        path.write_text(json.dumps({**config, "passes": passes}), encoding="utf-8")
        return [f.message for f in check_file(path).findings if f.key.endswith(key)]

    build = config["passes"]["build"]
    assert messages(config["passes"]) == []
    assert messages({"build": build}) == [f"`{name}` calibrates on training rows, and no pass before this one trains"]
    tune = next(step for step in config["passes"].values() if "train_data_config" in step)
    (message,) = messages({"tune": tune, "build": {**build, "adapters": ["tune"]}})
    assert "`adapters` exports a base model" in message
    (message,) = messages({"tune": tune, "build": {**build, "precision": "int8"}})
    assert "the precision is int8" in message


def test_settings_of_a_calibration_without_one_have_no_effect(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    config["passes"]["build"] |= {"int4_calibration": {"tokens": 4096}, "int4_algo_config": "k_quant"}
    path = tmp_path / "olive-config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    (finding,) = [f for f in check_file(path).findings if f.rule == "no-effect" and "calibration" in f.key]
    assert "int4_algo_config" in finding.message
