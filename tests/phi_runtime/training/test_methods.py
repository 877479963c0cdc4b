"""All training methods: float32 weights that learn, artifacts that can be used, and workarounds for the libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema.registry import pass_types
from phi_runtime.context import PassContext
from phi_runtime.core.errors import ConfigError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.training.pass_bases import AdapterPass
from tests.conftest import Listener, MakeProject, edit_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from phi_runtime.training.adapter import virtual_tokens  # noqa: E402

ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA": {"r": 4},
    "DoRA": {"r": 4},
    "LoHa": {"r": 4},
    "LoKr": {"r": 4},
    "IA3": {},
    "PEANuT": {"r": 4},
    "PromptTuning": {"num_virtual_tokens": 4},
}
OVER_THE_BASE = [name for name in ADAPTERS if name != "PromptTuning"]
IDS = torch.arange(40, 64)[None]  # (1, T)


def base_model(folder: Path, dtype: Any = torch.float32, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)


def step_of(kind: str, **options: Any) -> Any:
    values = {"type": kind, "train_data_config": "train", **ADAPTERS.get(kind, {}), **options}
    return pass_types()[kind].model_validate(values)


def trained_weights(model: Any) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def log_probabilities(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=IDS, use_cache=False).logits.float(), dim=-1)


def gradients(model: Any) -> Any:
    """Return the gradients of all trained weights, flattened, after one backward pass."""
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return torch.cat([weight.grad.flatten() for weight in trained_weights(model).values()])


def train_with(project: ProjectFolder, kind: str, **options: Any) -> None:
    """Change the project to train with a pass of another type, and to do nothing after it."""
    kept = ("train_data_config", "eval_data_config", "eval_dataset_size", "training_args")

    def change(config: dict[str, Any]) -> None:
        step = {key: value for key, value in config["passes"]["finetune"].items() if key in kept}
        config["passes"]["finetune"] = {"type": kind, **step, **ADAPTERS.get(kind, {}), **options}
        config["passes"] = {"finetune": config["passes"]["finetune"]}

    edit_config(project, change)
    (project.config.parent / "sweep.yaml").unlink(missing_ok=True)  # its keys are those of the other type


def context_of(project: ProjectFolder, tmp_path: Path) -> PassContext:
    workflow = load_workflow(project.config)
    source = present(workflow.input_model, project)
    assert source is not None
    step = workflow.passes["finetune"]
    return PassContext("finetune", step, source, tmp_path / "out", tmp_path / "work", workflow, project, Listener())


# -- every kind ------------------------------------------------------------------------------------------------------------


def test_there_is_a_test_for_every_kind_of_adapter() -> None:
    kinds = {name for name, kind in pass_types().items() if issubclass(kind, AdapterPass)}
    assert kinds == {*ADAPTERS, "QLoRA"}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [*ADAPTERS, "QLoRA", "FullFinetune"])
def test_it_trains_from_the_config_to_the_artifact(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    monkeypatch.setenv("PHI_SCAFFOLD_BFLOAT16", "1" if dtype == "bfloat16" else "0")
    project = make_project(max_steps=3)
    train_with(project, kind)
    heard = Listener()
    run(project, heard, until="finetune")
    facts = next(m for m in heard.of("metric") if "trainable_parameters" in m)
    norms = [m["grad_norm"] for m in heard.of("metric") if "grad_norm" in m]
    assert facts["trainable_parameters"] > 0
    assert facts["dtype"] == dtype
    assert len(norms) == 3
    assert all(norm > 0 for norm in norms)
    made = project.gen_model / ("merged" if kind == "FullFinetune" else "adapter")
    if kind != "FullFinetune":
        saved = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))
        names = {"DoRA": "LORA", "QLoRA": "LORA", "PromptTuning": "PROMPT_TUNING"}
        assert saved["peft_type"] == names.get(kind, kind.upper())
        assert saved.get("use_dora", False) == (kind == "DoRA")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_its_weights_are_float32_over_a_bfloat16_base_and_each_gets_a_gradient(tiny_phi3: Path, kind: str) -> None:
    model = step_of(kind).with_adapter(base_model(tiny_phi3, torch.bfloat16))
    for name, weight in trained_weights(model).items():  # many start at zero, where their partner has no gradient
        torch.nn.init.normal_(weight, std=0.02)
        assert weight.dtype == torch.float32, name
    assert {w.dtype for n, w in model.named_parameters() if not w.requires_grad} == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients(model)
    for name, weight in trained_weights(model).items():
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", OVER_THE_BASE)
def test_a_merge_computes_the_same_logits(tiny_phi3: Path, kind: str) -> None:
    model = step_of(kind, target_modules=["all-linear"]).with_adapter(base_model(tiny_phi3))
    for weight in trained_weights(model).values():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    before, base = log_probabilities(model), log_probabilities(base_model(tiny_phi3))
    assert (before - base).abs().max() > 1e-3
    torch.testing.assert_close(log_probabilities(model.merge_and_unload()), before, rtol=0, atol=1e-4)


def test_modules_are_derived_as_olive_does(tiny_phi3: Path) -> None:
    def derived(kind: str, **options: Any) -> set[str]:
        config = step_of(kind, **options).with_adapter(base_model(tiny_phi3)).peft_config["default"]
        return set(config.target_modules)

    attention, everything = {"qkv_proj", "o_proj"}, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    for kind in ("LoRA", "DoRA", "LoHa", "LoKr", "PEANuT"):
        assert derived(kind) == attention, kind
    assert derived("IA3") == everything
    assert derived("LoRA", target_modules=["all-linear"]) == everything
    assert step_of("LoHa").all_linear("llama")
    assert not step_of("LoRA").all_linear("llama")
    assert step_of("QLoRA").all_linear("phi3")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LoHa", {"target_modules": ["q_proj"]}),
        ("LoKr", {"exclude_modules": ["v_proj"]}),
        ("IA3", {"feedforward_modules": ["fc2"]}),
        ("DoRA", {"target_modules": ["head"]}),
    ],
)
def test_an_unknown_module_is_an_error_that_lists_the_known_ones(
    tiny_phi3: Path, kind: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="down_proj, gate_up_proj") as caught:
        step_of(kind, **options).with_adapter(base_model(tiny_phi3))
    assert next(iter(options)) in caught.value.fix


def test_a_regular_expression_chooses_the_modules_that_it_matches_fully(tiny_phi3: Path) -> None:
    model = step_of("LoRA", target_modules=r".*\.0\.self_attn.*").with_adapter(base_model(tiny_phi3))
    modules = {name.partition(".lora_")[0].rpartition("model.layers.")[2] for name in trained_weights(model)}
    assert modules == {"0.self_attn.qkv_proj", "0.self_attn.o_proj"}
    with pytest.raises(ConfigError, match="qkv"):
        step_of("LoRA", target_modules="qkv").with_adapter(base_model(tiny_phi3))


def test_layers_ranks_and_exclusions_are_applied(tiny_phi3: Path) -> None:
    options = {
        "target_modules": ["all-linear"],
        "exclude_modules": ["down_proj"],
        "layers_to_transform": [1],
        "rank_pattern": {"qkv_proj": 2},
    }
    weights = trained_weights(step_of("LoHa", **options).with_adapter(base_model(tiny_phi3)))
    ranks = {n: w.shape[-1] for n, w in weights.items() if "hada_w1_a" in n}
    assert all(".layers.1." in name and "down_proj" not in name for name in weights)
    assert {name.split(".")[-3]: rank for name, rank in ranks.items()} == {
        "qkv_proj": 2,
        "o_proj": 4,
        "gate_up_proj": 4,
    }
    with pytest.raises(ConfigError, match="names layer 7, but the model has 2 layers"):
        step_of("LoHa", layers_to_transform=[7]).with_adapter(base_model(tiny_phi3))


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"layers": "upper-half"}, [1]),
        ({"layers": "upper-third", "target_modules": r".*\.self_attn\..*"}, [1]),
        ({"layers_to_transform": [0], "target_modules": r".*_proj"}, [0]),
    ],
)
def test_adapters_are_in_the_chosen_layers_alone(tiny_phi3: Path, options: dict[str, Any], layers: list[int]) -> None:
    model = step_of("LoRA", **options).with_adapter(base_model(tiny_phi3))
    assert {int(name.partition(".layers.")[2].partition(".")[0]) for name in trained_weights(model)} == set(layers)
    assert model.peft_config["default"].layers_to_transform == layers  # as Olive and peft read it


def test_a_pattern_that_matches_no_chosen_layer_is_refused(tiny_phi3: Path) -> None:
    with pytest.raises(ConfigError, match="layers \\[1\\]"):
        step_of("LoRA", layers="upper-half", target_modules=r".*\.0\.self_attn.*").with_adapter(base_model(tiny_phi3))


def test_rslora_divides_by_the_root_of_the_rank(tiny_phi3: Path) -> None:
    def scale(**options: Any) -> float:
        model = step_of("LoRA", r=16, alpha=8, **options).with_adapter(base_model(tiny_phi3))
        layer = next(m for name, m in model.named_modules() if name.endswith("qkv_proj"))
        return float(layer.scaling["default"])

    assert scale() == 0.5
    assert scale(use_rslora=True) == 2.0


# -- prompt tuning ---------------------------------------------------------------------------------------------------------


def test_virtual_tokens_start_as_the_text_and_precede_each_row(tiny_phi3: Path, tiny_tokenizer: Any) -> None:
    text = {"prompt_tuning_init": "text", "prompt_tuning_init_text": "happy song"}
    model = step_of("PromptTuning", **text).with_adapter(base_model(tiny_phi3))
    ids = (tiny_tokenizer("happy song").input_ids * 4)[:4]
    (learned,) = trained_weights(model).values()
    torch.testing.assert_close(learned.data, model.get_input_embeddings().weight[ids].detach())
    assert virtual_tokens(model) == 4
    assert virtual_tokens(base_model(tiny_phi3)) == 0
    assert model(input_ids=IDS).logits.shape[1] == IDS.shape[1] + 4


def test_virtual_tokens_have_no_loss(tiny_phi3: Path) -> None:
    from phi_runtime.training.loss import TokenLoss

    model = step_of("PromptTuning").with_adapter(base_model(tiny_phi3)).eval()
    labels = torch.full_like(IDS, -100)
    labels[:, -5:] = IDS[:, -5:]
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": labels}
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=batch["attention_mask"], use_cache=False).logits[:, 4:-1]
        full = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], reduction="sum")
        selected = TokenLoss(model, virtual_tokens=virtual_tokens(model)).total(model, batch)
    assert float(selected) == pytest.approx(float(full), rel=1e-5)


def test_a_trained_prompt_gives_the_same_answers_alone_and_in_a_batch(make_project: MakeProject) -> None:
    from phi_runtime.pipeline.session import open_session

    project = make_project(max_steps=6)
    train_with(project, "PromptTuning")
    run(project, Listener(), until="finetune")
    session = open_session(project, "adapter")
    from phi_runtime.inference.generator import SamplingParams, short_answers

    prompts = [session.render(text, []) for text in ("sunny", "something moved there in the dark and cold")]
    together = short_answers(session.generator, prompts, session.template, 4, 2)
    alone = ["".join(piece.text for piece in session.generator.answer(prompt, SamplingParams(4))) for prompt in prompts]
    assert [text.strip() for text in together] == [text.strip() for text in alone]


# -- 4-bit bases -------------------------------------------------------------------------------------------------------------


def four_bit(make_project: MakeProject, tmp_path: Path, **options: Any) -> Any:
    """Return the model that a QLoRA pass with these options trains."""
    pytest.importorskip("bitsandbytes")

    project = make_project()
    train_with(project, "QLoRA", r=4, lora_dropout=0.0, **options)
    context = context_of(project, tmp_path)
    return context.config.load_trainable(context)[0]


def linear4bit(model: Any) -> list[Any]:
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def test_an_evaluation_keeps_the_gradients_of_a_4_bit_base_on_a_cpu(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bitsandbytes 0.50.2 repacks the weights in an evaluation on a CPU that has AVX512-BF16; here every CPU claims to have it.
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = four_bit(make_project, tmp_path, torch_dtype="float32")
    assert linear4bit(model)
    assert not any(module.support_avx512bf16_for_cpu for module in linear4bit(model))
    torch.manual_seed(1)
    for weight in trained_weights(model).values():
        torch.nn.init.normal_(weight, std=0.05)
    before = gradients(model)
    log_probabilities(model)
    after = gradients(model)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("quant_type", "double_quant"), [("nf4", False), ("fp4", True)])
def test_the_number_format_reaches_every_layer(
    make_project: MakeProject, tmp_path: Path, quant_type: str, double_quant: bool
) -> None:
    model = four_bit(make_project, tmp_path, quant_type=quant_type, double_quant=double_quant)
    layers = linear4bit(model)
    assert len(layers) == 8  # four in each of two layers; the output head is unchanged
    assert {layer.weight.quant_state.quant_type for layer in layers} == {quant_type}
    assert {layer.weight.quant_state.nested for layer in layers} == {double_quant}
    assert {weight.dtype for weight in trained_weights(model).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"torch_dtype": "float32", "compute_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "bfloat16", "compute_dtype": "float32"}, torch.float32),
    ],
)
def test_the_compute_type_reaches_every_layer(
    make_project: MakeProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    dtype: Any,
) -> None:
    monkeypatch.setattr("phi_runtime.hardware.device.has_bfloat16", lambda _: True)
    model = four_bit(make_project, tmp_path, **options)
    assert {layer.compute_dtype for layer in linear4bit(model)} == {dtype}


# -- embeddings, ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_a_tied_embedding_that_is_trained_whole_stays_tied(
    tiny_phi3: Path, tmp_path: Path, kind: str, name: str
) -> None:
    from peft import PeftModel

    model = step_of(kind, modules_to_save=[name]).with_adapter(base_model(tiny_phi3, torch.bfloat16))
    weights = trained_weights(model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert sum("modules_to_save" in each for each in weights) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients(model)
    for weight in weights.values():
        weight.data.sub_(weight.grad)
    model.save_pretrained(tmp_path / "adapter")
    before = log_probabilities(model)
    merged = PeftModel.from_pretrained(base_model(tiny_phi3, torch.bfloat16), tmp_path / "adapter").merge_and_unload()
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    merged.save_pretrained(tmp_path / "merged")
    again = base_model(tmp_path / "merged", torch.bfloat16)
    assert again.config.tie_word_embeddings
    torch.testing.assert_close(log_probabilities(again), before, rtol=0, atol=0.1)  # of bfloat16


def test_a_tied_embedding_is_refused_if_peft_would_untie_it(tiny_phi3: Path) -> None:
    with pytest.raises(ConfigError, match="both embedding and output head") as caught:
        step_of("LoHa", modules_to_save=["lm_head"]).with_adapter(base_model(tiny_phi3))
    assert "LoRA" in caught.value.fix


def test_the_end_token_is_trained_even_if_it_is_the_padding_token(
    make_project: MakeProject, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    from phi_runtime.training.finetune import prepare

    assert tiny_tokenizer.pad_token_id == tiny_tokenizer.eos_token_id
    context = context_of(make_project(), tmp_path)
    trainer = prepare(context).trainer
    end = tiny_tokenizer.eos_token_id
    for batch in trainer.get_train_dataloader():
        rows = batch["attention_mask"].shape[0]
        ends = (batch["labels"] == end).sum(dim=1)
        assert ends.tolist() == [1] * rows  # each row's own end, and none of the padding
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
