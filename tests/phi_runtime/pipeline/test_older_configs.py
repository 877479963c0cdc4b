"""A config of an older Olive runs here: with local data where it names Azure ML, and never more than the user allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.errors import ConfigError, MissingDependency, UsageError
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.models.fetch import present
from phi_runtime.models.load import load_model, load_reference
from phi_runtime.models.onnx_adapters import adapter_file
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import check_file, load_workflow
from tests.conftest import Cli, Listener, write_rows
from tests.phi_runtime.export.tiny_adapters import furthest, onnx_logits

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
AZURE: dict[str, Any] = {
    "azureml_client": {"subscription_id": SUBSCRIPTION, "resource_group": "g", "workspace_name": "w", "keyvault_name": "k"},
    "input_model": {
        "type": "PyTorchModel",
        "config": {"hf_config": {"model_name": "", "from_pretrained_args": {"trust_remote_code": True}}},
    },
    "systems": {
        "aml": {
            "type": "AzureML",
            "config": {"accelerators": ["gpu"], "hf_token": True, "aml_compute": "a-cluster", "is_dev": True},
        }
    },
    "data_configs": [
        {
            "name": "tones",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {
                "params": {
                    "data_name": "json",
                    "data_files": {
                        "type": "azureml_datastore",
                        "config": {"datastore_name": "workspaceblobstore", "relative_path": "tones.json"},
                    },
                    "split": "train",
                }
            },
            "pre_process_data_config": {
                "params": {
                    "dataset_type": "corpus",
                    "text_template": "{phrase} -> {tone}",
                    "corpus_strategy": "join",
                    "source_max_len": 64,
                    "pad_to_max_len": False,
                    "use_attention_mask": False,
                }
            },
        }
    ],
    "passes": {
        "lora": {
            "type": "LoRA",
            "config": {
                "lora_r": 4,
                "lora_alpha": 8,
                "double_quant": True,
                "train_data_config": "tones",
                "eval_dataset_size": 0.3,
                "training_args": {"max_steps": 2, "evaluation_strategy": "steps", "eval_steps": 1, "optim": "paged_adamw_32bit"},
            },
        },
        "merge_adapter_weights": {"type": "MergeAdapterWeights"},
        "builder": {"type": "ModelBuilder", "config": {"precision": "int4", "search": {"max_length": 77}}},
    },
    "engine": {"host": "aml", "target": "aml", "search_strategy": False, "cache_dir": "cache", "output_dir": "out"},
}  # fmt: skip


@pytest.fixture
def azure(tmp_path: Path, tiny_phi3: Path) -> ProjectFolder:
    config = json.loads(json.dumps(AZURE))
    config["input_model"]["config"]["hf_config"]["model_name"] = str(tiny_phi3)
    path = tmp_path / "old project" / "fine-tuning" / "olive-config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    return find_project(path.parents[1])


def test_an_azure_config_is_valid_and_its_stages_run_in_a_job_only(azure: ProjectFolder, cli: Cli) -> None:
    checked = check_file(azure.config)
    assert checked.valid
    with pytest.raises(MissingDependency, match="`aml` is an Azure ML system") as caught:
        run(azure, Listener())
    assert "--on local" in caught.value.fix
    job = cli("run", "--project", azure.root, "--dry-run")
    assert (job.code, "--upload" in job.err) == (2, True)  # its model is in a folder here
    assert cli("run", "--project", azure.root, "--on", "locla").code == 2


def test_on_local_it_runs_here_with_local_data_and_means_what_it_meant(azure: ProjectFolder, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "my rows.jsonl", 60)
    with pytest.raises(ConfigError, match=r"is an Azure ML datastore, .* --data FILE"):
        run(azure, Listener(), overrides=Overrides(on_local=True))
    events = Listener()
    outcome = run(azure, events, until="builder", overrides=Overrides(on_local=True, data={"": rows}))
    assert outcome.done == ("lora", "merge_adapter_weights", "builder")
    trained = next(m for m in events.of("metric") if "sequences" in m)
    assert (trained["rows"], trained["validation_rows"]) == (42, 18)  # 30 % are really held out
    assert trained["trained_tokens"] == trained["tokens"] - trained["sequences"]  # a corpus: all but each first token
    adapter = json.loads((azure.gen_model / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (4, 8, 0.0)
    built = json.loads((azure.gen_model / "onnx" / "genai_config.json").read_text())
    assert built["search"]["max_length"] == 77
    said = [w["message"] for w in events.of("warning")]
    assert any("older config format" in m and "migrate" in m for m in said)
    assert any("`paged_adamw_32bit` needs CUDA" in m for m in said)
    again = run(azure, Listener(), until="builder", overrides=Overrides(on_local=True, data={"tones": rows}))
    assert again.done == ()


def test_the_toolkits_chain_leaves_the_adapter_beside_the_graph_of_its_base(
    azure: ProjectFolder, tmp_path: Path
) -> None:
    """LoRA → … → ExtractAdapters → ModelBuilder{metadata_only}: Olive makes a graph and a file of the adapter of it, and so do we."""
    config = json.loads(azure.config.read_text(encoding="utf-8"))
    lora = config["passes"]["lora"]
    config["passes"] = {
        "lora": lora,
        "optimum": {"type": "OptimumConversion"},
        "optimize": {"type": "OrtTransformersOptimization", "config": {"model_type": "gpt2", "opt_level": 0}},
        "extract": {"type": "ExtractAdapters", "config": {"make_inputs": True, "pack_inputs": True}},
        "metadata": {"type": "ModelBuilder", "config": {"metadata_only": True, "precision": "int4"}},
    }
    azure.config.write_text(json.dumps(config), encoding="utf-8")
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    events = Listener()
    outcome = run(azure, events, until="metadata", overrides=Overrides(on_local=True, data={"": rows}))
    assert outcome.done == ("lora", "metadata")
    assert not (azure.gen_model / "merged" / "config.json").exists()
    assert adapter_file(azure.gen_model / "onnx", "lora").is_file()
    assert furthest(onnx_logits(azure.gen_model / "onnx", "lora"), onnx_logits(azure.gen_model / "onnx")) > 1e-4


def test_data_on_the_command_line_names_what_is_there(azure: ProjectFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown data config `tonse`"):
        load_workflow(azure.config, Overrides(on_local=True, data={"tonse": tmp_path}))
    with pytest.raises(UsageError, match=r"data file .*no\.jsonl does not exist"):
        load_workflow(azure.config, Overrides(on_local=True, data={"tones": tmp_path / "no.jsonl"}))


def test_code_of_a_model_runs_only_with_the_flag(azure: ProjectFolder, tiny_phi3: Path, tmp_path: Path) -> None:
    model = tmp_path / "with-code"
    model.mkdir()
    for file in tiny_phi3.iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").unlink()
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (model / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "it ran"
    code = f"open({str(marker)!r}, 'w').close()\nfrom transformers import Phi3Config, Phi3ForCausalLM\n"
    code += "class Own(Phi3Config):\n    model_type = 'unheard-of'\n"
    code += "class OwnModel(Phi3ForCausalLM):\n    config_class = Own\n"
    (model / "own.py").write_text(code)
    text = (
        azure.config.read_text()
        .replace(str(tiny_phi3), str(model))
        .replace('"azureml_datastore"', '"azureml_datastore"')
    )
    azure.config.write_text(text)

    def ref(overrides: Overrides | None) -> ModelRef:
        found = present(load_workflow(azure.config, overrides).input_model, azure)
        assert found is not None
        return found

    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(ref(None), "auto")
    assert not marker.exists()
    load_model(ref(Overrides(trust_remote_code=True)), "auto")
    assert marker.exists()


def test_modules_that_are_saved_whole_survive_the_merge_though_they_were_tied(
    azure: ProjectFolder, tmp_path: Path, tiny_phi3: Path
) -> None:
    """The output head of the tiny model shares its weight with the embeddings; trained by itself, it does so no more."""
    import torch

    config = json.loads(azure.config.read_text())
    own = config["passes"]["lora"]["config"]
    own |= {"modules_to_save": ["lm_head"], "target_modules": ["qkv_proj"]}
    own["training_args"] |= {"learning_rate": 0.05, "max_steps": 4}
    del config["passes"]["builder"]
    azure.config.write_text(json.dumps(config))
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    run(azure, Listener(), until="merge_adapter_weights", overrides=Overrides(on_local=True, data={"": rows}))
    base = ModelRef(tiny_phi3, "hf", "")
    adapter = load_reference(ModelRef(azure.gen_model / "adapter", "adapter", "", base), "auto").eval()
    merged = load_model(ModelRef(azure.gen_model / "merged", "hf", ""), "auto").eval()
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        expected, found = adapter(ids).logits, merged(ids).logits
        before = load_model(base, "auto").eval()(ids).logits
    assert torch.allclose(expected, found, atol=1e-4)
    assert not torch.allclose(expected, before, atol=1e-2)


GPT2_YAML = """\
# olive-config.yaml
model:
  type: PyTorchModel
  config:
    model_path: "{model}"
    task: "text-generation"

data_configs:
  - name: "custom_dataset"
    type: "HuggingfaceContainer"
    load_dataset_config:
      data_files: "rows.jsonl"
      split: "train"
    pre_process_data_config:
      text_template: "User: {{phrase}}\\nAssistant: {{tone}}"

passes:
  lora:
    type: LoRA
    config:
      r: 16
      lora_alpha: 32
      target_modules: ["c_attn", "c_proj"]
      modules_to_save: ["ln_f", "lm_head"]
      training_args: {{max_steps: 2}}
"""


def test_a_yaml_config_trains_a_gpt2_and_the_modules_that_it_names(
    tmp_path: Path, tiny_tokenizer: Any, cli: Cli
) -> None:
    from safetensors import safe_open
    from transformers import GPT2Config, GPT2LMHeadModel

    model = tmp_path / "tiny-gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_positions=128, n_embd=32, n_layer=2, n_head=2)).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    write_rows(tmp_path / "rows.jsonl", 20)
    path = tmp_path / "olive-config.yaml"
    path.write_text(GPT2_YAML.format(model=model), encoding="utf-8")
    assert cli("validate", path).code == 0
    done = cli("run", "--config", path, "--until", "lora", "--quiet")
    assert done.code == 0, done.err
    with safe_open(tmp_path / "gen-model" / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        names = " ".join(tensors.keys())
    for module in ("attn.c_attn.lora_A", "mlp.c_proj.lora_B", "ln_f.weight", "lm_head.weight"):
        assert module in names
