"""The command line as a whole: fast, light, and clear errors."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.core.trust import trust
from phi_scaffold.cli import completion
from phi_scaffold.cli.app import COMMANDS
from phi_scaffold.cli.other_names import LINE_OF, OLIVE_COMMANDS
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.base_models import base_model
from phi_scaffold.new.catalog import catalog
from phi_scaffold.new.fit import fit_notes
from phi_scaffold.show import terminal
from tests.conftest import Cli, MakeProject, edit_config

CLI = Path(__file__).parents[2] / "scaffolder" / "phi_scaffold" / "cli"
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "numpy",
    "pandas",
    "datasets",
    "sklearn",
    "onnx",
    "onnxruntime",
    "onnxruntime_genai",
    "huggingface_hub",
}


def imported(arguments: list[str], cwd: Path) -> set[str]:
    """Return the modules that a command line imports in a new process."""
    program = (
        "import sys, atexit; atexit.register(lambda: print('\\nMODULES', *sys.modules));"
        "from phi_scaffold.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["new", "p", "--yes", "--no-git"], ["models"], ["doctor", "--json"], ["schema"]]
)
def test_no_ml_library_is_imported(arguments: list[str], tmp_path: Path) -> None:
    assert not imported(arguments, tmp_path) & HEAVY


def test_validate_imports_no_ml_library(make_project: MakeProject) -> None:
    project = make_project()
    assert not imported(["validate", str(project.config)], project.root) & HEAVY


@pytest.mark.parametrize("arguments", [["status"], ["run", "--until", "merge"]], ids=" ".join)
def test_without_anything_to_do_no_ml_library_is_imported(arguments: list[str], trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    imported(["run", "--until", "merge"], project.root)  # writes the report of the run before it
    assert not imported(arguments, project.root) & {*HEAVY, "jinja2"}


def test_help_imports_no_command_nor_what_commands_import(tmp_path: Path) -> None:
    commands = {f"phi_scaffold.cli.{name}" for name in COMMANDS}
    assert not imported(["--help"], tmp_path) & {"copier", "pydantic", "rich", *commands}


GROUPS = {
    "data": ("check", "preview"),
    "runs": ("list", "show", "diff", "reproduce"),
    "remote": ("status", "logs", "cancel", "download"),
}
CALLS = [(name, *sub) for name in COMMANDS for sub in ([(s,) for s in GROUPS[name]] if name in GROUPS else [()])]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_has_help_with_an_example(cli: Cli, call: tuple[str, ...]) -> None:
    result = cli(*call, "--help")
    assert result.code == 0
    assert f"Example: phi-scaffold {' '.join(call)}" in result.out
    assert "--debug" in result.out


def read_attributes(tree: ast.AST, owner: str) -> set[str]:
    """Return the attributes of `owner` that the code reads."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner
    }


def read_flags(source: ast.AST) -> set[str]:
    """Return the shared flags that the code reads, directly or through a method of `flags`."""
    options = ast.parse((CLI / "options.py").read_text(encoding="utf-8"))
    methods = {
        node.name: read_attributes(node, "self") for node in ast.walk(options) if isinstance(node, ast.FunctionDef)
    }
    read, unresolved = set(), read_attributes(source, "flags")
    while unresolved:
        name = unresolved.pop()
        if name in methods:
            unresolved |= methods[name]
        else:
            read.add(name)
    return read


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_flag_that_a_command_accepts_is_used(call: tuple[str, ...]) -> None:
    module = importlib.import_module(f"phi_scaffold.cli.{call[0]}")
    command = getattr(module, {"list": "list_runs"}.get(call[-1], call[-1]))  # not `list`, a builtin
    parameters = inspect.signature(command).parameters.values()
    own = {p.name for p in parameters if p.kind is not p.KEYWORD_ONLY}
    shared = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    function = ast.parse(inspect.getsource(inspect.unwrap(command)))
    assert own <= {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    modules = [module, importlib.import_module("phi_scaffold.cli.run")] if call == ("fetch",) else [module]
    read = set().union(*(read_flags(ast.parse(inspect.getsource(m))) for m in modules))
    assert shared <= read | {"debug", "threads"}  # which act where they are parsed


def test_json_and_debug_count_only_where_they_are_flags(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = cli("generate", "--prompt=--debug", "--stop", "--json")
    assert (failed.code, failed.out) == (2, "")
    assert "error: " in failed.err
    assert json.loads(cli("status", "--json").out)["exit_code"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["runn"], 2, "run"),
        (["run", "--untill", "merge"], 2, "--until"),
        (["run"], 2, "not in a phi-scaffold project"),
        (["run", "--project", "nowhere"], 2, "no folder nowhere"),
        (["run", "--config", "nowhere.json"], 2, "no config"),
        (["validate", "nowhere.json"], 2, "no config"),
        (["new"], 2, "missing argument"),
        (["models", "smolm2-135m"], 2, "did you mean `smollm2-135m`"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "finetune", "--until", "fetch"], "`finetune` comes after `fetch`"),
        (["run", "--until", "merge", "--force", "export"], "`export` cannot be forced: it is not part of this run"),
        (["run", "finetune", "--force", "evaluate", "--dry-run"], "phi-scaffold run evaluate --force evaluate"),
        (["generate", " "], "there is no prompt"),
        (["generate", "--prompt", ""], "there is no prompt"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    cli: Cli, make_project: MakeProject, arguments: list[str], says: str
) -> None:
    result = cli(*arguments, "--project", make_project().root)
    assert result.code == 2
    assert says in result.err


def test_an_invalid_config_lists_its_faults_and_exits_with_3(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda c: c["passes"]["finetune"].update(alhpa=1))
    for arguments in (
        ["validate", project.config],
        ["run", "--project", project.root],
        ["status", "--project", project.root],
    ):
        result = cli(*arguments)
        assert result.code == 3
        assert "error: unknown key `alhpa` - did you mean `alpha`? (unknown-key)" in result.out + result.err
    found = cli("validate", project.config, "--json").json
    assert found["valid"] is False
    assert {k: found["findings"][0][k] for k in ("rule", "key", "suggestion", "severity")} == {
        "rule": "unknown-key",
        "key": "passes.finetune.alhpa",
        "suggestion": "alpha",
        "severity": "error",
    }


def test_without_a_runtime_the_setup_script_is_named_and_the_code_is_5(
    cli: Cli, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    project = make_project()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))
    result = cli("run", "--project", project.root)
    assert result.code == 5
    assert "setup/setup.sh" in result.err


def project_with_venv(make_project: MakeProject) -> Path:
    """A project whose .venv has an interpreter that only prints."""
    root = make_project("with space é").root
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "handed over: $@"\n')
    python.chmod(0o755)
    return root


def run_status(root: Path, *flags: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PHI_SCAFFOLD_HANDED_OVER"}
    command = [sys.executable, "-m", "phi_scaffold", "status", "--json", *flags]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True).stdout.strip()


def test_a_command_goes_on_in_the_environment_that_setup_made(make_project: MakeProject) -> None:
    root = project_with_venv(make_project)
    trust(root, "setup")
    assert run_status(root) == "handed over: -P -m phi_scaffold status --json"


def test_an_environment_that_came_with_the_project_runs_only_when_the_user_trusts_it(make_project: MakeProject) -> None:
    root = project_with_venv(make_project)
    assert "fetch" in [stage["name"] for stage in json.loads(run_status(root))["stages"]]
    assert run_status(root, "--trust-project").startswith("handed over:")
    assert run_status(root).startswith("handed over:"), "it is remembered"


def test_without_libraries_here_a_foreign_environment_is_refused_with_the_way_out(
    cli: Cli, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    root = project_with_venv(make_project)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))
    result = cli("status", "--project", root)
    assert result.code == 5
    assert "--trust-project" in result.err
    assert "setup/setup.sh" in result.err


def test_hooks_of_a_project_that_came_from_elsewhere_do_not_run(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    hooks = project.config.with_name("hooks.py")
    hooks.write_text("raise SystemExit(77)\ndef transform(row):\n    return row\n")
    for command in ("run", "evaluate", "data check", "data preview", "sweep", "optimize", "run --dry-run"):
        result = cli(*command.split(), "--project", project.root)
        assert result.code == 2
        assert f"{hooks}: " in result.err
        assert "--trust-project" in result.err
    assert cli("status", "--project", project.root).code == 0


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_runtime.core.errors import UsageError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        cli("run", "--debug")


def test_models_tells_sizes_in_bytes_and_what_fits(cli: Cli) -> None:
    models = {m["id"]: m for m in cli("models", "--json").json["models"]}
    assert models["smollm2-135m"]["fits"]["lora"] is True
    assert models["smollm2-135m"]["parameters"] == 134_515_008
    mini = models["microsoft/Phi-3-mini-4k-instruct"]
    assert mini["qlora_bytes"] < mini["lora_bytes"] < mini["full_bytes"]
    # 2.72 GB with all weights in blocks of 4 bits (the published model), and what a new project keeps in 8 bits
    assert mini["int4_size_bytes"] == pytest.approx(3.20e9, rel=0.01)


def test_models_lists_those_whose_name_has_a_part(cli: Cli) -> None:
    assert {m["id"] for m in cli("models", "qwen", "--json").json["models"]} == {
        id_ for id_ in catalog().models if "Qwen" in id_
    }
    assert [m["id"] for m in cli("models", "phi-4-mini", "--json").json["models"]] == ["microsoft/Phi-4-mini-instruct"]


def test_the_parameters_of_the_catalog_are_those_of_its_sizes() -> None:
    for model in catalog().models.values():
        shape = model.shape
        rest = model.parameters - shape.linear_parameters - shape.embeddings  # norms, biases and positions
        assert 0 <= rest < 0.004 * model.parameters, model.id
        assert model.source


def test_models_shows_the_facts_of_models_on_this_machine(
    cli: Cli, make_project: MakeProject, tiny_phi3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    shutil.copytree(tiny_phi3, project.model_cache / "org" / "own")
    assert cli("models", "org/own", "--json").json["exit_code"] == 2
    (facts,) = cli("models", "org/own", "--json", "--project", project.root).json["models"]
    config = json.loads((tiny_phi3 / "config.json").read_text(encoding="utf-8"))
    assert (facts["id"], facts["context_tokens"]) == ("org/own", config["max_position_embeddings"])
    assert facts["architecture"] == "Phi3ForCausalLM"
    assert facts["target_modules"] == ["o_proj", "qkv_proj"]
    assert facts["exportable"] is True
    monkeypatch.chdir(project.model_cache)
    assert cli("models", "org/own", "--json").json["models"][0]["parameters"] == facts["parameters"]
    assert cli("models", "./org/own", "--json").json["models"][0]["parameters"] == facts["parameters"]
    (found,) = cli("models", "--cached", "--json").json["downloaded"]
    assert found["id"] == "org/own"
    assert found["size_bytes"] == sum(file.stat().st_size for file in tiny_phi3.iterdir())
    assert cli("fetch", "--list").out == cli("models", "--cached").out


def test_a_model_that_cannot_be_exported_says_so_in_models_and_new(cli: Cli) -> None:
    models = {model["id"]: model for model in cli("models", "--json").json["models"]}
    refused = [id_ for id_, model in models.items() if not model["exportable"]]
    assert refused == ["google/gemma-3-1b-it", "HuggingFaceTB/SmolLM3-3B", "microsoft/DialoGPT-medium"]
    assert not any(models[id_]["fits"]["int4_inference"] for id_ in refused)
    for id_ in refused:
        architecture = models[id_]["architecture"]
        assert f"cannot export {architecture}" in models[id_]["note"]
        assert any(f"cannot export {architecture}" in note for note in fit_notes(Answers(model=id_), base_model(id_)))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_of_the_models_is_wider_than_the_terminal(width: int) -> None:
    out = terminal.console()
    out.width = width
    columns = {"!id": ["microsoft/Phi-3-mini-128k-instruct"], ">size": ["3.82 B"], "LoRA": ["[red]19.7 GB ✗[/]"]}
    columns |= {"QLoRA": ["8.5 GB ✓"], "full": ["61.7 GB ✗"], "license": ["MIT"]}
    with out.capture() as captured:
        out.print(terminal.fitting_table(columns, out))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 2
    assert ("19.7 GB ✗" in lines[1]) is (width >= 60)


def test_errors_of_usage_are_printed_as_all_others(cli: Cli) -> None:
    for arguments in (["runn"], ["run", "--untl", "merge"], ["new"], ["run", "--nproc", "many"]):
        result = cli(*arguments)
        assert result.code == 2
        first, second = result.err.splitlines()
        assert first.startswith("error: ")
        assert second.startswith("  help: ")
        assert second.endswith("--help")
    assert cli("run", "--json", "--untl", "merge").json["exit_code"] == 2


def test_help_and_version_have_their_usual_names(cli: Cli) -> None:
    assert cli("help").out == cli("--help").out
    assert cli("help", "run").out == cli("run", "--help").out
    assert cli("-V").out == cli("--version").out


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("data", "check"), ("runs", "diff")])
def test_help_shows_values_in_words_and_whole_sentences(cli: Cli, command: tuple[str, ...]) -> None:
    shown = cli(*command, "--help").out
    assert re.findall(r"<(?:str|int|float|path|list)|[a-z]\.\.\.\n|\[\[|\{NAME", shown) == []


@pytest.mark.parametrize(
    ("complete", "typed", "values"),
    [
        (completion.tasks, "S", ["summarization"]),
        (completion.methods, "q", ["qlora"]),
        (completion.targets, "", ["cpu", "cuda", "directml", "azureml"]),
        (completion.model_ids, "smol", ["smollm2-135m"]),
        (completion.schemas, "ev", ["evaluation"]),
    ],
)
def test_the_shell_completes_values(complete: completion.Complete, typed: str, values: list[str]) -> None:
    assert complete(typed) == values


def test_the_shell_completes_the_stages_of_the_project(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completion.stages("") == []
    monkeypatch.chdir(make_project().root)
    assert completion.stages("") == ["fetch", "finetune", "merge", "export", "evaluate"]
    assert completion.project_models("m") == ["merged", "merge"]


STEPS = "passes.finetune.training_args.max_steps"


def test_set_changes_the_config_of_one_command_and_makes_its_stage_stale(
    cli: Cli, trained_project: MakeProject
) -> None:
    project = trained_project(until="finetune")
    written = project.config.read_bytes()

    def finetune(*settings: str) -> dict[str, str]:
        stages = cli("status", "--json", "--project", project.root, *settings).json["stages"]
        stage: dict[str, str] = next(stage for stage in stages if stage["name"] == "finetune")
        return stage

    assert finetune()["state"] == "cached"
    assert finetune("--set", f"{STEPS}=8")["state"] == "cached"  # the value of the config
    changed = finetune("--set", f"{STEPS}=4", "--set", "passes.finetune.r=4")
    assert changed["state"] == "stale"
    assert "max_steps" in changed["why"]
    assert project.config.read_bytes() == written


def test_set_is_checked_by_every_command_and_named_in_the_error(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    misspelled = f"{STEPS}ss=4"
    for command in (["validate", project.config], ["run", "--dry-run", "--config", project.config]):
        result = cli(*command, "--set", misspelled)
        assert result.code == 3
        assert f"--set {misspelled}: error: unknown key `max_stepsss` - did you mean `max_steps`?" in (
            result.out + result.err
        )
    assert cli("validate", project.config, "--set", "passes.finetune.r").code == 2


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("finetune", "phi-scaffold olive finetune --model_name_or_path org/model"),
        ("train", "phi-scaffold run --until finetune"),
        ("merge", "phi-scaffold run --until merge"),
        ("export", "phi-scaffold run --until export"),
        ("capture-onnx-graph", "phi-scaffold olive capture-onnx-graph --model_name_or_path org/model"),
        ("auto_opt", "phi-scaffold olive auto-opt --model_name_or_path org/model"),
        ("Download", "phi-scaffold fetch"),
    ],
)
def test_a_command_of_another_tool_gets_the_line_that_does_it_here(cli: Cli, name: str, line: str) -> None:
    result = cli(name, "--model_name_or_path", "org/model")
    assert result.code == 2
    assert result.err.startswith(f"error: there is no command `{name}`\n  help: {line}")
    assert (f"phi-scaffold olive {name}" in result.err) is ("olive" in COMMANDS and name in OLIVE_COMMANDS)


def test_every_line_for_another_name_can_be_typed(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    assert not set(LINE_OF) & set(COMMANDS)
    stages = {stage["name"] for stage in cli("status", "--json", "--project", project.root).json["stages"]}
    for line in set(LINE_OF.values()):
        program, command, *arguments = line.split()
        if program != "phi-scaffold" or command.startswith("--"):
            continue
        assert command in COMMANDS
        values = dict(zip(arguments[::2], arguments[1::2], strict=False))
        assert values.get("--until", "finetune") in stages
        assert cli(command, *arguments, "--help").code == 0
        if "--set" in values:
            assert cli("validate", project.config, "--set", values["--set"]).code == 0


def test_setup_checks_the_libraries_and_runs_nothing(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    result = cli("run", "--config", project.config, "--setup")
    assert (result.code, result.out) == (0, "")
    assert "nothing was run" in result.err
    assert not (project.gen_model / "runs").exists()


@pytest.mark.parametrize("libraries", [True, False], ids=["libraries", "none"])
def test_run_on_a_config_outside_of_a_project_names_the_command_that_creates_one(
    cli: Cli, make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries: bool
) -> None:
    config = tmp_path / "old.json"
    config.write_bytes(make_project().config.read_bytes())
    if not libraries:
        monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    result = cli("run", "--dry-run", "--no-step", "--config", config)
    assert f"  help: phi-scaffold new NAME --config {config}\n" in result.err
    assert "setup" not in result.err
    assert result.code == (3 if libraries else 5)  # 3: the data file is not next to it


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("command", [["--help"], ["doctor"], ["models"]])
def test_an_output_in_another_encoding_is_no_error(tmp_path: Path, encoding: str, command: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "phi_scaffold", *command], cwd=tmp_path, env=environment, capture_output=True
    )
    assert b"Error" not in done.stderr, done.stderr
    assert done.stdout.decode(encoding, "replace").strip()  # typer writes UTF-8 where the encoding is ASCII


@pytest.mark.skipif(os.name == "nt", reason="files of Windows have no permission to be executed")
@pytest.mark.parametrize("mode", [0o644, 0o755], ids=["not executable", "no program"])
def test_an_environment_whose_python_cannot_be_run_is_to_be_deleted(
    cli: Cli, make_project: MakeProject, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_SCAFFOLD_HANDED_OVER", "")  # removed again at the end of the test
    monkeypatch.delenv("PHI_SCAFFOLD_HANDED_OVER")
    project = make_project()
    python = project.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_bytes(b"\x7fELF")
    python.chmod(mode)
    result = cli("status", "--project", project.root, "--trust-project")
    assert result.code == 5
    assert result.err.startswith(f"error: {python} cannot be run: ")
    assert f"  help: delete {project.root / '.venv'}, and run `bash setup/setup.sh` in {project.root}\n" in result.err


def test_a_path_that_the_disk_refuses_is_no_bug_of_ours(cli: Cli) -> None:
    result = cli("validate", "x" * 300)
    assert result.code == 2
    assert "too long" in result.err
    assert "bug" not in result.err
