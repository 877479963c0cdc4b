"""The gate behind an export: what passes is near to its source, what is broken does not pass, and the folder can be carried away."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import MissingDependency, OutOfResources, PhiError, WorkFailed
from phi_runtime.data.dataset import data_context, load_dataset
from phi_runtime.export.gate import _advice, compare, run_gate, source_predictions
from phi_runtime.export.gate_comparison import GateComparison, Predictions, compare_predictions
from phi_runtime.export.gate_limits import GateLimits, better_setting
from phi_runtime.export.gate_rows import GateRow, decisions, first_rows, full_row, sample_rows, validation_rows
from phi_runtime.inference.onnx import OnnxGenerator
from phi_runtime.models.load import load_reference
from phi_runtime.models.place import base_model_path
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from tests.conftest import Listener, MakeProject, edit_config, states
from tests.phi_runtime.export.test_export_builder import exporting
from tests.phi_runtime.export.tiny_adapters import build_graph


@pytest.fixture(scope="module")
def decided(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The tiny model with ten times its weights, so that it prefers some tokens to others."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "decided"
    model = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight *= 10
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_phi3).save_pretrained(folder)
    return ModelRef(folder, "hf", "decided")


@pytest.fixture(scope="module")
def exact(decided: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_graph(decided.path, tmp_path_factory.mktemp("fp32") / "graph", "fp32")


def compared(source: ModelRef, graph: Path) -> GateComparison:
    return compare(source, graph, [full_row(row.ids[:65]) for row in sample_rows(source)[:3]], "sample text")


def test_rows_that_the_source_reads_together_have_the_predictions_of_each_alone(decided: ModelRef) -> None:
    ids = sample_rows(decided)[0].ids
    rows = [
        GateRow(ids[start:end], [4, end - start - 1], [True, True])
        for start, end in ((0, 6), (3, 20), (5, 45), (0, 200))
    ]
    model = load_reference(decided, "float32", "cpu").eval()
    together = list(source_predictions(model, rows))
    for row, predictions in zip(rows, together, strict=True):
        (alone,) = source_predictions(model, [row])
        assert (predictions.tokens == alone.tokens).all()
        assert np.allclose(predictions.logprobs, alone.logprobs, atol=1e-4)
    assert len(together) == len(rows)


def step(precision: str, **keys: Any) -> ModelBuilder:
    return ModelBuilder.model_validate({"type": "ModelBuilder", "precision": precision, **keys})


def test_a_float32_export_says_what_its_source_says(decided: ModelRef, exact: Path) -> None:
    found = compared(decided, exact)
    assert (found.positions, found.read, found.top1) == (192, "whole", 1.0)
    assert found.kl < 1e-6
    assert found.perplexity == pytest.approx(found.source_perplexity, rel=1e-4)


def test_a_pruned_head_is_read_token_by_token_with_the_same_result(decided: ModelRef, tmp_path: Path) -> None:
    graph = build_graph(decided.path, tmp_path / "graph", "fp32", extra_options={"prune_lm_head": True})
    found = compared(decided, graph)
    assert found.read == "token by token"
    assert found.positions == 192
    assert found.kl < 1e-6


def test_an_embedding_reads_the_8_bits_that_it_shares_with_the_head(decided: ModelRef, tmp_path: Path) -> None:
    import onnx

    mixed = {"matmul_mixed_precision": "last_matmul:int8"}
    graph = build_graph(decided.path, tmp_path / "graph", "int4", extra_options=mixed)
    nodes = onnx.load(graph / "model.onnx", load_external_data=False).graph.node
    head = next(node for node in nodes if node.name == "/lm_head/MatMul_Q8")
    table = next(node for node in nodes if node.op_type == "GatherBlockQuantized")
    reshape = next(node for node in nodes if table.input[0] in node.output)
    assert [reshape.input[0], table.input[2]] == list(head.input[1:3])
    limits = GateLimits.from_pass(step("int4"))
    found = compared(decided, graph)
    assert limits.violation(found) is None


def test_a_model_that_the_builder_gets_wrong_does_not_pass(decided: ModelRef, tmp_path: Path) -> None:
    """The builder (0.18) takes a matrix with as many rows as the vocabulary has tokens for an embedding or an output head: it builds
    such a model without a word, and what comes out is nonsense."""
    from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

    config = Phi3Config.from_pretrained(decided.path, intermediate_size=256, initializer_range=0.2)
    Phi3ForCausalLM(config).save_pretrained(tmp_path / "source")
    AutoTokenizer.from_pretrained(decided.path).save_pretrained(tmp_path / "source")
    source = ModelRef(tmp_path / "source", "hf", "wrong")
    found = compared(source, build_graph(source.path, tmp_path / "graph", "fp32"))
    for precision in ("int4", "int8", "fp32"):
        limits = GateLimits.from_pass(step(precision))
        assert limits.violation(found) is not None


def figures(
    kl: float = 0.5,
    top1: float = 0.68,
    increase: float = 0.39,
    rows: int = 0,
    answers: int = 0,
    lost: int = 0,
    gained: int = 0,
) -> GateComparison:
    equal = rows - lost - gained
    perplexity = 2 * (1 + increase)
    return GateComparison(
        "validation rows", "whole", 300, 100, kl, top1, perplexity, 2.0, rows, equal, answers, lost, gained
    )


def test_what_is_beyond_a_limit_is_named_with_the_limit_that_would_allow_it() -> None:
    limits = GateLimits(max_kl=1.0, min_top1=0.5, max_perplexity_increase=0.4, max_lost_answers=0.05)
    assert limits.violation(figures()) is None

    def named(found: GateComparison) -> tuple[str, str]:
        violation = limits.violation(found)
        assert violation is not None
        return violation.text, violation.relaxed_setting

    assert named(figures(kl=1.5)) == ("KL 1.5 is above 1", '"gate": {"max_kl": 1.5}')
    assert named(figures(increase=0.512)) == (
        "the perplexity grew by 51 %, more than 40 %",
        '"gate": {"max_perplexity_increase": 0.52}',
    )
    assert named(figures(top1=0.4)) == (
        "the most likely token is the same in 40 %, less than 50 %",
        '"gate": {"min_top1": 0.4}',
    )
    assert named(figures(kl=float("nan"))) == ("its logits are not numbers", "")
    assert named(figures(rows=120, answers=119, lost=9, gained=1)) == (
        "it loses 9 of 119 right answers and gains 1 (6.7 %, more than 5 %)",
        '"gate": {"max_lost_answers": 0.07}',
    )


@pytest.mark.parametrize(
    ("rows", "answers", "lost", "gained", "violated", "doubtful"),
    [
        (120, 120, 0, 0, False, False),
        (120, 119, 6, 0, False, False),  # 5.04 %: no more than what is chance of 5 %
        (120, 119, 7, 0, True, False),
        (120, 119, 7, 1, False, False),
        (60, 58, 3, 0, False, True),  # 5.2 %, an interval from 13.7 to -1.7 points: chance
        (60, 58, 5, 0, True, False),
        (12, 12, 3, 0, False, True),
        (12, 12, 4, 0, True, False),
        (3, 2, 1, 0, False, True),
        (40, 0, 0, 0, False, False),  # free text
    ],
)
def test_lost_answers_are_beyond_the_limit_where_the_rows_show_it(
    rows: int, answers: int, lost: int, gained: int, violated: bool, doubtful: bool
) -> None:
    limits = GateLimits(max_kl=1.0, min_top1=None, max_perplexity_increase=0.4, max_lost_answers=0.0505)
    found = figures(rows=rows, answers=answers, lost=lost, gained=gained)
    assert (limits.violation(found) is not None, limits.doubt(found) is not None) == (violated, doubtful)


def test_tokens_that_training_answers_leave_open_are_decisions() -> None:
    end = 0
    labels = [(7, 8, end), (7, 9, end), (5, end), (5, end)]
    assert decisions((5, end), labels) == [True, False]
    assert decisions((7, 9, end), labels) == [True, True, False]
    assert decisions((6, 9, end), labels) == [True, True, True]  # of no training answer
    assert decisions((5, 4, end), labels) == [True, True, True]
    assert decisions((5, end), [(5, end)]) == [False, False]


def test_answers_are_compared_even_if_prompts_are_trained_too(make_project: MakeProject) -> None:
    rows = {}
    for only in (True, False):
        project = make_project(f"completion {only}")
        edit_config(project, lambda c, only=only: c["passes"]["finetune"].update(completion_only_loss=only))
        workflow = load_workflow(project.config)
        source = ModelRef(base_model_path(workflow.input_model, project), "hf", "base")
        training = workflow.passes["finetune"].rows
        assert training is not None
        dataset = load_dataset(workflow, training, data_context(project, source), Listener(), "export")
        rows[only] = validation_rows(dataset, source)
    assert len(rows[True]) == 12
    assert rows[True] == rows[False]


def test_rows_are_read_up_to_a_number_of_decisions() -> None:
    label, text = GateRow([1, 2, 3, 4], [2, 3], [True, False]), full_row([1, 2, 3, 4])
    assert first_rows([label, label, text], 3) == [label, label, GateRow([1, 2], [1], [True])]
    assert first_rows([label, label], 2) == [label, label]


def test_means_are_over_decisions_and_answers_over_all_tokens() -> None:
    import numpy as np

    rows = [GateRow([1, 2, 0], [1, 2], [True, False])] * 4

    def predictions(share: float, tokens: list[int]) -> Predictions:
        """The decision has this probability for token 2, and the rest for token 1."""
        logprobs = np.log(np.array([[1e-9, 1 - share, share]]))
        return Predictions(np.array(tokens), logprobs)

    right, wrong, endless = [2, 0], [1, 0], [2, 2]
    exact = [predictions(0.8, tokens) for tokens in (right, right, right, wrong)]
    others = [predictions(0.5, tokens) for tokens in (right, endless, wrong, wrong)]
    found = compare_predictions(rows, exact, others, "validation rows", "whole")
    assert (found.positions, found.decisions, found.compared_rows) == (8, 4, 4)
    assert found.kl == pytest.approx(0.19274, abs=1e-5)  # 0.8 ln 1.6 + 0.2 ln 0.4
    assert (found.source_perplexity, found.perplexity) == (pytest.approx(1.25), pytest.approx(2))
    assert (found.answers, found.lost, found.gained, found.equal_answers) == (3, 2, 0, 2)


def test_own_limits_replace_those_of_the_precision() -> None:
    assert GateLimits.from_pass(step("int8")) == GateLimits(0.05, None, 0.08, 0.03)
    own = {"max_kl": 0.02, "min_top1": 0.9, "max_lost_answers": 0}
    assert GateLimits.from_pass(step("int8", gate=own)) == GateLimits(0.02, 0.9, 0.08, 0.0)


@pytest.mark.parametrize(("turned", "passes"), [(0, True), (2, True), (10, False)])
def test_answers_that_rounding_turns_are_lost_though_the_means_stay_small(turned: int, passes: bool) -> None:
    import numpy as np

    rows = [GateRow([1, 2, 0], [1, 2], [True, False])] * 40
    sure, near, over = (np.log(np.array([[0.02, 0.98 - share, share]])) for share in (0.5, 0.49, 0.48))
    exact = [Predictions(np.array([2, 0]), sure)] * 40
    others = [Predictions(np.array([1, 0]), over)] * turned + [Predictions(np.array([2, 0]), near)] * (40 - turned)
    comparison = compare_predictions(rows, exact, others, "validation rows", "whole")
    assert (comparison.answers, comparison.lost, comparison.gained) == (40, turned, 0)
    assert comparison.kl < 0.01
    assert (GateLimits.from_pass(step("int4")).violation(comparison) is None) == passes


BEST = {"extra_options": {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}}


@pytest.mark.parametrize(
    ("precision", "keys", "provider", "says"),
    [
        ("int4", {**BEST, "int4_is_symmetric": False}, "CPUExecutionProvider", '"precision": "int8"'),
        ("int4", {}, "CPUExecutionProvider", "matmul_mixed_precision"),
        ("int4", {**BEST, "int4_algo_config": "rtn"}, "CPUExecutionProvider", '"int4_algo_config": null'),
        ("int4", {"int4_algo_config": "k_quant_mixed"}, "CPUExecutionProvider", "matmul_mixed_precision"),
        ("int4", {}, "DmlExecutionProvider", '"k_quant_mixed"'),
        ("int4", {**BEST, "int4_block_size": 128}, "CPUExecutionProvider", '"int4_block_size": 32'),
        ("int4", {**BEST, "int4_block_size": 32}, "CPUExecutionProvider", '"int4_calibration": {"tokens": 4096}'),
        ("int4", {**BEST, "int4_calibration": {"tokens": 512}}, "CPUExecutionProvider", '"precision": "int8"'),
        ("int4", BEST, "CUDAExecutionProvider", "int4_calibration"),
        ("int4", {"int4_algo_config": "k_quant_mixed"}, "DmlExecutionProvider", '"fp16"'),
        ("int8", {}, "CPUExecutionProvider", '"fp32"'),
        ("int8", {}, "CUDAExecutionProvider", '"bf16"'),
        ("fp32", {}, "CPUExecutionProvider", "through transformers"),
    ],
)
def test_the_next_better_setting_is_one_that_the_target_runs(
    precision: str, keys: dict[str, Any], provider: str, says: str
) -> None:
    found = better_setting(step(precision, **keys), provider, has_rows=True)
    assert says in found
    assert "calibration" not in better_setting(step(precision, **keys), provider, has_rows=False)
    assert "matmul_mixed_precision" not in found or "extra_options" not in keys  # it is set already


@pytest.mark.slow
def test_the_progress_of_the_builder_is_read_from_its_log(
    trained_project: MakeProject, fresh_processes: set[str]
) -> None:
    fresh_processes.add("phi_runtime.export.builder_process")  # a forked one has logged its imports already
    project = trained_project(until="merge")
    run(project, listener := Listener(), until="export")
    units = {e.get("unit") for e in listener.of("progress") if e["stage"] == "export"}
    assert {"layers", "matrices", "tensors"} <= units


def test_an_export_is_compared_on_validation_rows_and_its_folder_is_complete(trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    listener = Listener()
    run(project, listener, until="export")
    manifest = read_manifest(project.gen_model / "onnx")
    assert manifest is not None
    facts = manifest.facts
    assert facts["checked"] is True
    assert facts["quality"]["rows"] == "validation rows"
    assert facts["quality"]["positions"] == 36  # the tokens of the answers to 12 rows
    assert 0 <= facts["quality"]["kl"] <= facts["limits"]["max_kl"]
    metric = next(e for e in listener.of("metric") if e["stage"] == "export")
    assert metric == {"stage": "export", **facts["quality"]}

    folder = project.gen_model / "onnx"
    chat = project.root / "inferences" / "chat_onnx.py"
    assert (folder / "chat_onnx.py").read_bytes() == chat.read_bytes()
    assert (folder / "requirements.txt").read_text().splitlines() == [
        f"onnxruntime-genai=={genai_version()}",
        f"tokenizers=={version('tokenizers')}",
    ]
    assert {"chat_onnx.py", "requirements.txt", "prompt_template.json", "model.onnx.data"} <= set(manifest.files)

    edit_config(project, lambda c: c["passes"]["export"].update(gate={"max_kl": 1e-12}))
    with pytest.raises(WorkFailed, match="too far from its source model: KL") as failed:
        run(project, Listener(), until="export")
    assert '"int4_calibration": {"tokens": 4096}' in failed.value.fix
    assert '"gate": {"max_kl": ' in failed.value.fix
    assert states(project)["export"] == "failed"
    assert read_manifest(folder) == manifest  # the last good one stays where it was


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OutOfResources("the KV cache is too large", fix="shorten the prompt"), WorkFailed),
        (WorkFailed("the adapter is corrupt", fix="rebuild it"), WorkFailed),
        (RuntimeError("no such kernel"), WorkFailed),
        (MissingDependency("no runtime", fix="install it"), MissingDependency),
    ],
)
def test_an_export_that_does_not_run_has_the_fix_of_an_export(
    make_project: MakeProject,
    decided: ModelRef,
    exact: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[PhiError],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(OnnxGenerator, "run_prompts", fail)
    project = exporting(make_project())
    workflow = load_workflow(project.config)
    step = workflow.passes["export"]
    context = PassContext("export", step, decided, exact, exact.parent, workflow, project, Listener())
    with pytest.raises(raised, match=str(error)) as failed:
        run_gate(context)
    assert failed.value.fix == (_advice(context) if raised is WorkFailed else "install it")


def genai_version() -> str:
    import onnxruntime_genai

    return str(onnxruntime_genai.__version__)


def test_what_cannot_run_here_is_built_and_said_to_be_unchecked(make_project: MakeProject) -> None:
    project = exporting(make_project())

    def for_cuda(config: dict[str, Any]) -> None:
        config["systems"]["local_system"]["accelerators"] = [
            {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}
        ]
        config["passes"]["export"]["precision"] = "fp16"

    edit_config(project, for_cuda)
    listener = Listener()
    run(project, listener)
    manifest = read_manifest(project.gen_model / "onnx")
    assert manifest is not None
    assert manifest.facts["checked"] is False
    assert "quality" not in manifest.facts
    assert any("not tested" in w["message"] for w in listener.of("warning"))
    requirements = (project.gen_model / "onnx" / "requirements.txt").read_text()
    assert requirements.splitlines()[0] == f"onnxruntime-genai-cuda=={genai_version()}"
    assert json.loads((project.gen_model / "onnx" / "genai_config.json").read_text())["model"]["decoder"]


def test_a_cache_of_8_bits_is_measured_on_the_rows_and_answers_as_before(make_project: MakeProject) -> None:
    project = exporting(make_project())
    change = {"extra_options": {"kv_cache_quant_scheme": "int8_per_channel"}, "gate": {"max_kl": 0.02}}
    edit_config(project, lambda c: c["passes"]["export"].update(change))
    run(project, Listener())
    manifest = read_manifest(project.gen_model / "onnx")
    assert manifest is not None
    assert manifest.facts["quality"]["rows"] == "sample text"
    import onnx

    graph = onnx.load(str(project.gen_model / "onnx" / "model.onnx"), load_external_data=False).graph
    caches = [i.type.tensor_type.elem_type for i in graph.input if i.name.startswith("past_key_values.")]
    assert set(caches) == {onnx.TensorProto.INT8}
