"""Each older Olive form becomes the canonical one that its author meant, and every change is recorded.

dialects/NAME.json (or .yaml) is a config as a user would have it; the name says from which generation, and the point of it.
dialects/NAME.canonical.json is what it means, derived by hand from Olive's documents and history, never from our output; a
search that leaves the config is in dialects/sweeps/NAME.canonical.json. dialects/sweeps/*.yaml are files of a search alone.
"""

from __future__ import annotations

import copy
import difflib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import NOTHING_LEFT, Draft, Translation
from phi_runtime.config.dialects.keys import HF_CONFIG, PAIR_FORMATS, TABLES
from phi_runtime.config.dialects.pass_names import CLASSIC_EXPORT
from phi_runtime.config.dialects.training_keys import OPTIMIZERS
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AzureMLSystem, Datastore, RegistryModel, Workflow
from phi_runtime.core.remote_job import JOB
from phi_runtime.passes.lora import LowRankAdapter
from phi_runtime.passes.qlora import QLoRA
from phi_runtime.pipeline.load import check_file, load_workflow

CASES = Path(__file__).parent / "dialects"
SWEEPS = CASES / "sweeps"


def _old_files(folder: Path) -> dict[str, Path]:
    found = [p for p in folder.iterdir() if p.suffix in (".json", ".yaml") and not p.stem.endswith(".canonical")]
    return {p.stem: p for p in sorted(found)}


FILES = _old_files(CASES)


@pytest.fixture(autouse=True)
def placeholders_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside of a job nothing is sent to Azure, so that the placeholders of its templates are warnings."""
    monkeypatch.setenv(JOB, "job")


each_case = pytest.mark.parametrize("name", FILES)


def canonical_of(name: str) -> dict[str, Any]:
    """The form that `name` should get, without its search."""
    value: dict[str, Any] = json.loads((CASES / f"{name}.canonical.json").read_text(encoding="utf-8"))
    return value


def sweep_of(name: str) -> dict[str, Any] | None:
    path = SWEEPS / f"{name}.canonical.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def expected(name: str) -> dict[str, Any]:
    sweep = sweep_of(name)
    return canonical_of(name) | ({} if sweep is None else {"sweep": sweep})


def difference(want: Any, got: Any) -> str:
    """Where two values differ; nothing where they are equal."""
    if want == got:
        return ""
    texts = [json.dumps(v, indent=2, sort_keys=True, ensure_ascii=False).splitlines() for v in (want, got)]
    return "\n".join(difflib.unified_diff(*texts, "meant", "translated", n=4, lineterm=""))


def errors(findings: list[Finding]) -> list[str]:
    return [str(f) for f in findings if f.severity == "error"]


# -- the cases -------------------------------------------------------------------------------------------------------------


@each_case
def test_a_config_becomes_the_form_that_its_author_meant(name: str) -> None:
    checked = check_file(FILES[name])
    assert difference(expected(name), checked.draft.value) == ""
    assert list(checked.draft.value["passes"]) == list(expected(name)["passes"])
    assert errors(checked.findings) == []


def written(path: Path) -> Workflow:
    """The workflow with the passes of its file: that of an input adapter names a folder."""
    workflow = load_workflow(path)
    return workflow.model_copy(update={"passes": {n: step for n, step in workflow.passes.items() if step.written}})


@each_case
def test_a_config_loads(name: str) -> None:
    workflow = written(FILES[name])
    assert list(workflow.passes) == list(canonical_of(name)["passes"])
    assert (workflow.sweep is None) == (sweep_of(name) is None)


@each_case
def test_the_canonical_form_means_the_same_and_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    for folder in ("datasets", "environment"):
        shutil.copytree(CASES / folder, tmp_path / folder)
    path = tmp_path / "olive-config.json"
    path.write_text(json.dumps(canonical_of(name)), encoding="utf-8")
    if sweep := sweep_of(name):
        (tmp_path / "sweep.yaml").write_text(json.dumps(sweep), encoding="utf-8")
    checked = check_file(path)
    assert checked.draft.translations == []
    assert difference(canonical_of(name), checked.draft.value) == ""
    assert errors(checked.findings) == []
    assert written(path) == written(FILES[name])


@each_case
def test_nothing_is_changed_without_a_word(name: str, recorder: Recorder) -> None:
    assert_all_is_recorded(check_file(FILES[name]).draft, recorder)


@pytest.mark.parametrize("path", _old_files(SWEEPS).values(), ids=lambda p: p.stem)
def test_a_file_of_a_search_alone_is_translated_too(path: Path, recorder: Recorder) -> None:
    checked = check_file(path)
    want = json.loads(path.with_suffix(".canonical.json").read_text(encoding="utf-8"))
    assert difference(want, checked.draft.value) == ""
    assert errors(checked.findings) == []
    assert_all_is_recorded(checked.draft, recorder)


@dataclass
class Recorder:
    """Each translation that sets a value, with that value."""

    values_set: list[tuple[Translation, Any]] = field(default_factory=list)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()

    def listen(method: str) -> None:
        original = getattr(Draft, method)

        def heard(draft: Draft, path: KeyPath, value: Any, *rest: Any, **named: Any) -> None:
            copied = copy.deepcopy(value)
            original(draft, path, value, *rest, **named)
            found.values_set.append((draft.translations[-1], copied))

        monkeypatch.setattr(Draft, method, heard)

    listen("set_default")
    listen("replace")
    return found


def assert_all_is_recorded(draft: Draft, recorder: Recorder) -> None:
    """Every value of the file is where it was, or a translation leads from there to where it is, or one says that it went;
    and every other value of the result was set by a translation."""
    old, new = dict(_leaves(draft.source.value)), dict(_leaves(draft.value))
    kept = {draft.source_path(path): path for path, value in new.items() if _same(old, draft.source_path(path), value)}
    values_set = [(t, value) for t, value in recorder.values_set if t in draft.translations]
    ends = [t for t in draft.translations if t.rule == "ignored" and not t.message.endswith(NOTHING_LEFT)]
    ends += [t for t, _ in values_set]
    gone = [t.old for t in ends if t.old is not None and not any(_within(k, t.old) for k in kept)]
    made = {(*t.new, *at): leaf for t, value in values_set if t.new is not None for at, leaf in _leaves(value)}

    for path, value in old.items():
        if _same(new, path, value):
            continue
        if path in kept:
            assert any(_leads(draft, t, path, kept[path]) for t in draft.translations), f"{path} moved silently"
        elif value in ({}, []):
            assert any(t.old is not None and _within(path, t.old) for t in draft.translations), f"{path} went silently"
        else:
            assert any(_within(path, outer) for outer in gone), f"{path} was lost silently"
    for path, value in new.items():
        assert _same(old, draft.source_path(path), value) or _same(made, path, value), f"{path} appeared silently"


def _leads(draft: Draft, translation: Translation, old: KeyPath, new: KeyPath) -> bool:
    """Whether a translation says how a value came from `old` to `new`."""
    if translation.old is None or translation.new is None or not _within(old, translation.old):
        return False
    if isinstance(draft.get(translation.new), str):
        return True  # an object got a name, and moved
    here, there = old[len(translation.old) :], new[len(translation.new) :]
    same_rest = here == there or here[1:] == there  # one alternative is no list
    named = here[1:] == there[1:] and there[:1] != () and isinstance(there[0], int)  # an object became a list
    return _within(new, translation.new) and (same_rest or named)


def _leaves(value: Any, at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield at, value
    for key, member in inner:
        yield from _leaves(member, (*at, key))


def _within(path: KeyPath, outer: KeyPath) -> bool:
    return path[: len(outer)] == outer


def _same(values: dict[KeyPath, Any], path: KeyPath, value: Any) -> bool:
    return path in values and values[path] == value and type(values[path]) is type(value)


def test_every_older_spelling_stands_in_some_case() -> None:
    translated = {
        str(t.old[-1])
        for path in [*FILES.values(), *_old_files(SWEEPS).values()]
        for t in check_file(path).draft.translations
        if t.old
    }
    texts = "".join(path.read_text(encoding="utf-8") for path in FILES.values())
    for older in [*TABLES.values(), HF_CONFIG]:
        keys = {*older.renamed, *older.ignored, *([older.nested] if older.nested else [])}
        assert keys - translated == set()
    assert [name for name in (*CLASSIC_EXPORT, *OPTIMIZERS) if f'"{name}"' not in texts] == []
    assert [name for name in PAIR_FORMATS if name != "default" and f'"{name}"' not in texts] == []


# -- the templates that people have ----------------------------------------------------------------------------------------


def loaded(name: str) -> Workflow:
    return load_workflow(FILES[name], Overrides(trust_remote_code=True))


def lora_of(workflow: Workflow) -> LowRankAdapter:
    assert workflow.finetune is not None
    lora = workflow.finetune[1]
    assert isinstance(lora, LowRankAdapter)
    return lora


@pytest.mark.parametrize("name", ["toolkit-local-lora", "azureml-lora", "azureml-registry-lora"])
def test_the_lora_templates_train_with_the_numbers_that_they_name(name: str) -> None:
    workflow = loaded(name)
    lora, data = lora_of(workflow), workflow.data_configs[0]
    assert not isinstance(lora, QLoRA)
    assert (lora.r, lora.alpha, lora.lora_dropout) == (64, 64, 0.1)
    assert lora.target_modules == ["o_proj", "qkv_proj"]
    assert lora.eval_dataset_size == (0.1 if name == "azureml-lora" else 0.3)
    assert lora.completion_only_loss is False
    process = data.pre_process_data_config
    assert (process.strategy, process.joiner, process.max_seq_len) == ("join", "", 2048)
    assert not process.pad_to_max_len
    arguments = lora.training_args
    assert (arguments.eval_strategy, arguments.eval_steps) == ("steps", 187)
    assert (arguments.max_steps, arguments.num_train_epochs) == ((100, 1000) if name == "azureml-lora" else (10, 3))
    assert (arguments.seed, arguments.data_seed, arguments.max_grad_norm, arguments.adam_beta2) == (0, 42, 0.3, 0.999)
    assert list(workflow.passes) == ["lora", "merge_adapter_weights", "builder"]
    assert workflow.input_model.load_kwargs.trust_remote_code
    assert workflow.execution_provider == "CUDAExecutionProvider"


def test_the_qlora_template_of_azure_keeps_its_quantisation() -> None:
    workflow = loaded("azureml-qlora")
    qlora = lora_of(workflow)
    assert isinstance(qlora, QLoRA)
    assert (qlora.r, qlora.alpha, qlora.quant_type, qlora.double_quant) == (64, 64, "nf4", True)
    assert (qlora.compute_dtype, qlora.eval_dataset_size) == ("bfloat16", 0.3)
    assert workflow.data_configs[0].pre_process_data_config.max_seq_len == 2048
    assert list(workflow.passes) == ["qlora", "merge_adapter_weights"]


@pytest.mark.parametrize("name", ["azureml-lora", "azureml-qlora", "azureml-registry-lora"])
def test_the_azure_templates_keep_their_machine_and_data(name: str) -> None:
    workflow = loaded(name)
    assert workflow.host == "aml"
    system = workflow.systems["aml"]
    assert isinstance(system, AzureMLSystem)
    assert system.aml_docker_config is not None
    assert system.aml_docker_config.conda_file_path == "environment/conda.yaml"
    assert (system.hf_token, workflow.systems["azure_arc"].hf_token) == (True, None)
    store = workflow.data_configs[0].load_dataset_config.data_files
    assert isinstance(store, Datastore)
    assert store.datastore_name == "workspaceblobstore"
    assert store.azureml_client is not None
    assert (workflow.azureml_client is None) == (name == "azureml-registry-lora")
    assert isinstance(workflow.input_model.model_path, RegistryModel) == (name == "azureml-registry-lora")


def test_the_toolkits_chain_becomes_one_export_with_the_adapter_beside_it() -> None:
    workflow = loaded("toolkit-chain-qlora")
    qlora = lora_of(workflow)
    assert isinstance(qlora, QLoRA)
    assert (qlora.r, qlora.alpha, qlora.double_quant) == (64, 64, True)
    assert (qlora.training_args.max_steps, qlora.training_args.gradient_checkpointing) == (1200, True)
    assert workflow.data_configs[0].pre_process_data_config.max_seq_len == 1024
    assert [step.type for step in workflow.passes.values()] == ["QLoRA", "ModelBuilder"]
    assert workflow.passes["ModelBuilder"].adapters == ["qlora"]
    assert (workflow.host, workflow.target) == ("local_system", "target_system")


def test_the_yaml_guide_gets_what_it_leaves_to_olive() -> None:
    workflow = loaded("yaml-dialogpt-lora")
    lora = lora_of(workflow)
    assert (lora.r, lora.alpha, lora.lora_dropout, lora.train_data_config) == (16, 32, 0.0, "custom_dataset")
    assert (lora.target_modules, lora.modules_to_save) == (["c_attn", "c_proj"], ["ln_f", "lm_head"])
    assert workflow.data_configs[0].load_dataset_config.data_name == "json"
    assert workflow.execution_provider == "CPUExecutionProvider"
