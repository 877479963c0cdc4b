"""The process that builds: its request, its progress, and what it leaves behind when it fails or is stopped."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phi_runtime.config.dialects.keys import BUILDER_NAMES, BUILDER_OPTIONS
from phi_runtime.config.schema import BuilderOptions
from phi_runtime.core.errors import Interrupted, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.export.build import _ENVIRONMENT, options_of
from phi_runtime.export.builder_output import BuilderProgress
from phi_runtime.export.builder_process import as_pairs, build, names_of_release
from phi_runtime.models import builder_source
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from tests.conftest import Cli, Listener, MakeProject, edit_config, states

ONLY_EXPORT = {"export": {"type": "ModelBuilder", "precision": "fp32"}}


def exporting(project: ProjectFolder) -> ProjectFolder:
    """The project with a config that exports its base model and does nothing else."""
    edit_config(project, lambda config: config.update(passes=ONLY_EXPORT))
    return project


def builders_of(parent: int) -> list[int]:
    """The builder processes that the process `parent` has started."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode()
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if "builder_process" in command and ppid == parent:
            pids.append(int(folder.name))
    return pids


# -- options -------------------------------------------------------------------------------------------------------------------


def test_the_installed_builder_knows_every_option_that_a_config_can_name() -> None:
    known = builder_source.option_names()
    assert set(BuilderOptions.model_fields) - known == set()
    assert set(BUILDER_NAMES) - known == set()
    assert set(BUILDER_OPTIONS.refused) - known == set()
    own = {"use_qdq", "use_webgpu_fp32", "use_cuda_bf16", "include_hidden_states", "enable_cuda_graph"}
    assert own - known == set()


def test_the_list_of_models_is_that_of_the_installed_builder() -> None:
    assert builder_source.text_models() == builder_source.TEXT_MODELS


def test_keys_of_the_pass_become_options_of_the_builder() -> None:
    step = ModelBuilder.model_validate(
        {
            "type": "ModelBuilder",
            "precision": "int4",
            "int4_block_size": 64,
            "int4_accuracy_level": 4,
            "int4_is_symmetric": True,
            "int4_op_types_to_quantize": ["MatMul", "Gather"],
            "int4_nodes_to_exclude": ["/lm_head/MatMul", "/model/layers.0/mlp/down_proj/MatMul"],
            "use_8bits_moe": True,
            "extra_options": {"prune_lm_head": True, "qmoe_block_size": 64},
        }
    )
    assert sorted(as_pairs(names_of_release(options_of(step), builder_source.option_names()))) == [
        "accuracy_level=4",
        "block_size=64",
        "is_symmetric=true",
        "moe_quant_type=int8",
        "nodes_to_exclude=/lm_head/MatMul,/model/layers.0/mlp/down_proj/MatMul",
        "op_types_to_quantize=MatMul/Gather",
        "prune_lm_head=true",
        "qmoe_block_size=64",
    ]


def test_an_older_release_gets_the_names_that_it_knows() -> None:
    older = {"int4_block_size", "int4_algo_config", "use_qdq"}
    given = {"block_size": 32, "algo_config": "rtn", "use_qdq": False}
    assert names_of_release(given, older) == {"int4_block_size": 32, "int4_algo_config": "rtn", "use_qdq": False}
    with pytest.raises(ValueError, match="no option `matmul_mixed_precision`"):
        names_of_release({"matmul_mixed_precision": "last_matmul:int8"}, older)


def test_the_builder_is_never_given_an_option_that_it_would_pass_over(tmp_path: Path) -> None:
    request = {"source": ".", "out": str(tmp_path), "cache": ".", "precision": "int4", "execution_provider": "cpu"}
    with pytest.raises(ValueError, match="no option `int4_accuracy_levle`"):
        build({**request, "options": {"int4_accuracy_levle": 4}})


# -- what it says --------------------------------------------------------------------------------------------------------------


def test_every_long_phase_of_a_build_shows_how_far_it_is() -> None:
    progress = BuilderProgress(layers=30)
    events = [
        progress.parse(line)
        for line in (
            "Reading embedding layer\n",
            "Reading layer 0\n",
            "Reading decoder layer 7\n",
            "2026-01-01 INFO - complete quantization of /model/layers.0/attn/qkv_proj/MatMul with 4 bits ...\n",
            "2026-01-01 INFO - complete quantization of /lm_head/MatMul with 4 bits ...\n",
            "2026-01-01 INFO - complete quantization of model with RTN algorithm.\n",
            "Progress: [#####               ] 25.33%\n",
            "Saving model.norm.weight (f32, [64]):  56%|#####     | 10/18 [00:00<00:00, 1100.00it/s]\n",
            "Saving model.embed_tokens.weight (f32, [512,64]):  61%|######    | 11/18 [00:00<00:00, 1100.00it/s]\n",
        )
    ]
    assert events == [
        None,
        {"done": 1, "total": 30, "unit": "layers"},
        {"done": 8, "total": 30, "unit": "layers"},
        {"done": None, "total": None, "unit": "", "message": "rounding the weights"},
        {"done": 2, "total": None, "unit": "matrices"},
        None,
        {"done": 25, "total": 100, "unit": "%"},
        {"done": None, "total": None, "unit": "", "message": "writing the model"},
        {"done": 11, "total": 18, "unit": "tensors"},
    ]


def test_a_build_that_fails_is_reported_with_its_reason_and_its_log(make_project: MakeProject) -> None:
    project = exporting(make_project())
    copy = project.root / "model-cache" / "broken"
    shutil.copytree(load_workflow(project.config).input_model.model_path, copy)
    (copy / "model.safetensors").write_bytes(b"no weights")
    edit_config(project, lambda config: config["input_model"].update(model_path=str(copy)))
    with pytest.raises(WorkFailed, match="the model builder failed: ") as caught:
        run(project, Listener())
    log = project.gen_model / "export.builder.log"
    assert str(log) in caught.value.fix
    assert "Traceback" in log.read_text()
    assert states(project)["export"] == "failed"


def test_the_commit_of_the_users_repository_is_not_written_into_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime_genai
    from onnxruntime_genai.models.builders import base

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    commit = [
        "git",
        "-C",
        str(tmp_path),
        "-c",
        "user.name=u",
        "-c",
        "user.email=u@x",
        "commit",
        "-qm",
        "c",
        "--allow-empty",
    ]
    subprocess.run(commit, check=True)
    monkeypatch.setattr(
        base, "__file__", str(tmp_path / "lib" / "python" / "site-packages" / "genai" / "builders" / "base.py")
    )
    (tmp_path / "lib" / "python" / "site-packages" / "genai" / "builders").mkdir(parents=True)
    own = onnxruntime_genai.__commit__ or None
    assert base.Model.get_genai_commit() != own, "the builder no longer runs git: remove GIT_DIR from its environment"
    monkeypatch.setenv("GIT_DIR", str(_ENVIRONMENT["GIT_DIR"]))
    assert base.Model.get_genai_commit() == own


# -- what is left of a build that does not end well ----------------------------------------------------------------------------


def test_a_disk_that_fills_up_during_an_export_is_said_and_leaves_no_model(make_project: MakeProject, cli: Cli) -> None:
    project = exporting(make_project())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the model takes 640 kB; the builder inherits it
    try:
        result = cli("run", "--project", project.root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 8, result.err
    assert "the disk is full" in result.err
    assert "Traceback" not in result.err
    assert states(project)["export"] == "failed"
    assert not list(project.gen_model.rglob("model.onnx*"))


def test_the_builder_ends_when_the_export_is_stopped(make_project: MakeProject) -> None:
    project = exporting(make_project())
    at_work: list[int] = []

    def stop(event: Event) -> None:
        if event.stage == "export" and event.event == "progress":
            at_work.extend(builders_of(os.getpid()))
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(project, stop)
    assert len(at_work) == 1
    assert builders_of(os.getpid()) == []
    assert not list(project.gen_model.rglob("model.onnx*"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_the_builder_ends_when_the_run_is_killed(make_project: MakeProject) -> None:
    project = exporting(make_project())
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "run"],
        cwd=project.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (builders := builders_of(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{builders[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert states(project)["export"] == "missing"


@pytest.mark.slow
def test_the_quantizers_of_an_int4_recipe_become_a_graph_with_their_bits_and_blocks(make_project: MakeProject) -> None:
    """SelectiveMixedPrecision → Gptq → Rtn → ModelBuilder → GraphSurgeries, the form of Microsoft's recipes."""
    import onnx

    project = make_project()
    recipe = {
        "select": {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_last"},
        "gptq": {"type": "gptq", "bits": 4, "sym": False, "group_size": 16},
        "rest": {"type": "rtn", "bits": 8, "sym": False, "group_size": 16, "lm_head": True, "embeds": True},
        "export": {"type": "ModelBuilder", "precision": "int4"},
        "tie": {"type": "GraphSurgeries", "surgeries": [{"surgeon": "TieWordEmbeddings"}]},
    }
    edit_config(project, lambda config: config.update(passes=recipe))
    assert run(project, Listener(), until="export").done[-1:] == ("export",)

    graph = onnx.load(project.gen_model / "onnx" / "model.onnx", load_external_data=False).graph
    products = [{a.name: a.i for a in node.attribute} for node in graph.node if node.op_type == "MatMulNBits"]
    assert {(p["bits"], p["block_size"]) for p in products} == {(4, 16), (8, 16)}
