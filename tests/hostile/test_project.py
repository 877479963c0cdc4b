"""A project from anyone: an archive, a clone, a folder above the current one. Its code does not run, and nothing outside changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_runtime import Project, UsageError
from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.project import ProjectFolder, refuse_links
from phi_runtime.core.trust import is_trusted, trust
from phi_runtime.pipeline.run_record import git_commit
from phi_runtime.report.history import find_run
from tests.conftest import Cli, edit_config
from tests.factory import rendered

RUN = "20260101-080000-000001"
VARIABLES = """
PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES PATH
GIT_DIR GIT_SSH_COMMAND GIT_CONFIG_GLOBAL GIT_EXTERNAL_DIFF PIP_INDEX_URL PIP_CONFIG_FILE UV_INDEX_URL
BASH_ENV ENV HOME XDG_STATE_HOME XDG_CONFIG_HOME TMPDIR NETRC HTTPS_PROXY HTTP_PROXY ALL_PROXY SSL_CERT_FILE
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HF_HOME HF_HUB_CACHE HF_MODULES_CACHE HF_HUB_ENABLE_HF_TRANSFER
HF_HUB_DISABLE_IMPLICIT_TOKEN TRACKIO_SPACE_ID TRACKIO_SERVER_URL TORCH_EXTENSIONS_DIR TRITON_CACHE_DIR
CUDA_CACHE_PATH PHI_SCAFFOLD_HANDED_OVER MLFLOW_TRACKING_INSECURE_TLS MLFLOW_TRACKING_SERVER_CERT_PATH
WANDB_DIR WANDB_CONFIG_DIR WANDB_CACHE_DIR WANDB_IDENTITY_TOKEN_FILE WANDB_INSECURE_DISABLE_SSL
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trust nothing, and restore the variables that a .env has set."""
    before = dict(os.environ)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that planted code would write."""
    return tmp_path / "marker"


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    root = tmp_path / "p"
    shutil.copytree(rendered("p", "lora", 60), root)
    return ProjectFolder(root, root / "fine-tuning" / "olive-config.json")


def planted(file: Path, marker: Path) -> str:
    """Write Python code that leaves the marker, and return it."""
    code = f"import pathlib\npathlib.Path({str(marker)!r}).write_text(__file__)\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code, encoding="utf-8")
    return code


def write_run(project: ProjectFolder, **record: object) -> None:
    """Write the record of a run as a project can bring it."""
    folder = project.runs / RUN
    (folder / "config-files").mkdir(parents=True)
    shutil.copy(project.config, folder / "config-files")
    content = {"state": "done", "config": "fine-tuning/olive-config.json", "request": {}, **record}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")


# -- code -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", "fine-tuning", "datasets"])
def test_modules_of_the_project_do_not_replace_libraries(project: ProjectFolder, marker: Path, where: str) -> None:
    for name in ("sitecustomize.py", "usercustomize.py", "torch.py", "yaml.py", "json.py", "phi_runtime/__init__.py"):
        planted(project.root / where / name, marker)
    (project.root / where / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n")
    command = [sys.executable, "-m", "phi_scaffold", "validate"]
    done = subprocess.run(command, cwd=project.root / where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()


@pytest.mark.parametrize("command", ["status", "validate", "runs list", "doctor --json", "report"])
def test_commands_that_only_read_run_no_code_of_the_project(
    project: ProjectFolder, marker: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in ("hooks.py", "user_script.py", "metrics.py"):
        planted(project.config.with_name(name), marker)
    monkeypatch.chdir(project.root)
    assert cli(*command.split()).code in (0, 5)  # 5: doctor finds a problem of the machine
    assert not marker.exists()


def test_a_recorded_run_gives_itself_no_permission(project: ProjectFolder, marker: Path, cli: Cli) -> None:
    planted(project.config.with_name("hooks.py"), marker)
    project.config.with_name("hooks.py").open("a").write("def transform(row):\n    return row\n")
    write_run(project, overrides={"run_user_script": True, "trust_remote_code": True, "unknown": 1})
    shown = cli("runs", "reproduce", "latest", "--dry-run", "--json", "--project", project.root)
    assert shown.code == 0, shown.err
    assert "--run-user-script" not in shown.json["command"]
    assert "--trust-remote-code" not in shown.json["command"]
    refused = cli("runs", "reproduce", "latest", "--allow-differences", "--project", project.root)
    assert (refused.code, "--trust-project" in refused.err) == (2, True)
    assert not marker.exists()


def test_a_recorded_run_writes_no_config_outside_of_the_project(project: ProjectFolder) -> None:
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.report.reproduction import plan_reproduction

    write_run(project, config="../elsewhere/olive-config.json")
    (project.runs / RUN / "config-files" / "olive-config.json").unlink()
    (project.runs / RUN / "config.json").write_text(project.config.read_text(encoding="utf-8"), encoding="utf-8")
    plan = plan_reproduction(find_run(project, RUN), Overrides())
    assert {path.parent for path in plan.files} == {project.config.parent}


def test_the_api_runs_hooks_only_of_a_trusted_project(project: ProjectFolder, marker: Path) -> None:
    planted(project.config.with_name("hooks.py"), marker)
    project.config.with_name("hooks.py").open("a").write("def transform(row):\n    return row\n")
    with pytest.raises(UsageError, match=r"hooks\.py"):
        Project.open(project.root).run(until="finetune")
    assert not marker.exists()
    assert Project.open(project.root, trust_project=True).overrides.run_user_script
    trust(project.root, "setup")
    assert Project.open(project.root).overrides.run_user_script


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_programs_that_the_repository_names_do_not_run(project: ProjectFolder, marker: Path) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(project.root), *name, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "first")
    git("config", "core.fsmonitor", f"touch '{marker}'; false")
    commit = git_commit(project.root)
    assert not marker.exists()
    assert commit is not None
    assert commit["changed"] is None


def test_a_user_script_runs_only_in_a_trusted_project(project: ProjectFolder, marker: Path, cli: Cli) -> None:
    planted(project.config.with_name("evil.py"), marker)
    process = {"user_script": "evil.py", "text_formatting_func": "f", "type": "text"}
    edit_config(project, lambda c: c["data_configs"][0]["pre_process_data_config"].update(process))
    for command in ("validate", "data check", "run --dry-run"):
        target = [project.config] if command == "validate" else ["--project", project.root]
        assert cli(*command.split(), *target).code != 0
    assert not marker.exists()


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
@pytest.mark.parametrize("part", ["", ".venv", "fine-tuning"])
def test_an_environment_in_which_everyone_writes_is_not_used(project: ProjectFolder, part: str) -> None:
    (project.root / ".venv").mkdir()
    trust(project.root, "setup")
    assert is_trusted(project.root)
    (project.root / part).chmod(0o777)
    assert not is_trusted(project.root)
    (project.root / part).chmod(0o775)  # umask 002
    assert is_trusted(project.root)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a folder away")
def test_an_environment_behind_a_link_belongs_to_its_owner(project: ProjectFolder, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (project.root / ".venv").symlink_to(tmp_path / "theirs")
    trust(project.root, "setup")
    assert is_trusted(project.root)
    os.chown(tmp_path / "theirs", 1234, -1)
    assert not is_trusted(project.root)


# -- files outside ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["gen-model", "gen-model/adapter", "gen-model/runs", "model-cache", "model-cache/org"])
@pytest.mark.parametrize("target", ["folder", "nothing"])
def test_outputs_are_not_written_through_a_link(
    project: ProjectFolder, tmp_path: Path, cli: Cli, link: str, target: str
) -> None:
    outside = tmp_path / "documents"
    if target == "folder":
        (outside / "adapter").mkdir(parents=True)
        (outside / "adapter" / "letter").write_text("mine", encoding="utf-8")
    place = project.root / link
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(outside, target_is_directory=True)
    refused = cli("run", "--project", project.root)
    assert refused.code == 2
    assert f"{place}" in refused.err
    assert "--trust-project" in refused.err
    assert outside.exists() == (target == "folder")
    assert target == "nothing" or (outside / "adapter" / "letter").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("link", "part"), [("gen-model", "merged"), ("model-cache/org", "documents")])
def test_clean_deletes_nothing_behind_a_link(
    project: ProjectFolder, tmp_path: Path, cli: Cli, link: str, part: str
) -> None:
    letter = tmp_path / "outside" / part / "config.json"
    letter.parent.mkdir(parents=True)
    letter.write_text("{}", encoding="utf-8")
    place = project.root / link
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path / "outside", target_is_directory=True)
    cleaned = cli("clean", "merged", "unused", "--yes", "--project", project.root)
    assert cleaned.code in (0, 2), cleaned.err
    assert letter.is_file()


def test_a_project_without_links_writes_its_outputs(project: ProjectFolder) -> None:
    (project.gen_model / "adapter").mkdir(exist_ok=True)
    refuse_links(project)


@pytest.mark.parametrize("lock", [".run.lock", ".fetch.lock"])
def test_a_planted_lock_empties_no_file(project: ProjectFolder, tmp_path: Path, lock: str) -> None:
    from phi_runtime.core.locks import exclusive

    victim = tmp_path / "profile"
    victim.write_text("mine", encoding="utf-8")
    (project.gen_model / lock).symlink_to(victim)
    with pytest.raises((OSError, UsageError)), exclusive(project.gen_model / lock):
        pass
    assert victim.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "..\\evil", "con", "evil.", "a\0b", "a:b", "\u202eevil"]
)
def test_names_of_a_config_that_become_files_stay_in_the_project(
    project: ProjectFolder, tmp_path: Path, cli: Cli, name: str
) -> None:
    def rename(config: dict[str, object]) -> None:
        passes = config["passes"]
        assert isinstance(passes, dict)
        passes[name] = passes.pop("finetune")

    before = set(tmp_path.rglob("*"))
    edit_config(project, rename)
    refused = cli("validate", project.config)
    assert refused.code == 3
    assert "Traceback" not in refused.err
    assert set(tmp_path.rglob("*")) == before
    if "\0" not in name:
        assert cli("status", "--project", project.root, f"--task-name={name}").code in (2, 3)


def test_new_with_force_follows_no_link_of_the_folder(tmp_path: Path, cli: Cli) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "fine-tuning").symlink_to(outside, target_is_directory=True)
    refused = cli("new", tmp_path / "p", "--yes", "--no-git", "--force")
    assert refused.code == 6
    assert "fine-tuning" in refused.err
    assert not list(outside.iterdir())


# -- settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIABLES.split())
def test_env_sets_no_variable_that_runs_code_or_moves_folders(project: ProjectFolder, name: str) -> None:
    before = os.environ.get(name)
    warnings: list[str] = []
    (project.root / ".env").write_text(f"{name}=/evil\n", encoding="utf-8")
    read_dotenv(project.root, warnings.append)
    assert os.environ.get(name) == before
    assert [name in warning for warning in warnings] == [True]


@pytest.mark.parametrize(
    ("own", "is_set"),
    [
        ("", False),
        ("MLFLOW_TRACKING_TOKEN=theirs\n", False),
        ("MLFLOW_TRACKING_USERNAME=a\n", False),
        ("MLFLOW_TRACKING_USERNAME=a\nMLFLOW_TRACKING_PASSWORD=b\n", True),
    ],
)
def test_a_tracker_of_the_project_gets_no_stored_login(
    project: ProjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, is_set: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "home" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text("[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = mine\n", encoding="utf-8")
    warnings: list[str] = []
    (project.root / ".env").write_text(f"MLFLOW_TRACKING_URI=https://collector.example\n{own}", encoding="utf-8")
    read_dotenv(project.root, warnings.append)
    assert ("MLFLOW_TRACKING_URI" in os.environ) == is_set
    assert [".mlflow/credentials" in warning for warning in warnings] == [] if is_set else [True]


def test_the_token_of_another_hub_is_not_sent_to_the_data_set_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    from phi_runtime.core.errors import NetworkError
    from phi_scaffold.new import hub_rows

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be sent")

    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_mirror")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(NetworkError, match="HF_ENDPOINT"):
        hub_rows.first_rows("org/rows", "train")


ANSWERS = """\
_src_path: https://evil.example/template.git
_commit: evil
_tasks: ["touch {marker}"]
_migrations: [{{version: v1, before: ["touch {marker}"]}}]
_jinja_extensions: [evil.Extension]
_secret_questions: [model]
_external_data: {{secrets: ~/.netrc}}
model: smollm2-135m
{more}"""


@pytest.mark.parametrize(
    "more", ["", "task: \"{{ ''.__class__.__mro__ }}\"\n", "prompt_template: \"{% include '/etc/passwd' %}\"\n"]
)
def test_answers_of_another_project_are_only_answers(tmp_path: Path, marker: Path, cli: Cli, more: str) -> None:
    answers = tmp_path / ".copier-answers.yml"
    answers.write_text(ANSWERS.format(marker=marker, more=more), encoding="utf-8")
    result = cli("new", tmp_path / "p", "--data-file", answers, "--yes", "--no-git")
    assert result.code in (0, 2), result.err
    assert "Traceback" not in result.err
    assert not marker.exists()
    files = [
        file.read_text(encoding="utf-8", errors="replace") for file in (tmp_path / "p").rglob("*") if file.is_file()
    ]
    assert not [text for text in files if "evil" in text or "root:x:0" in text or "<class" in text]


def test_answers_with_tags_construct_no_objects(tmp_path: Path, marker: Path, cli: Cli) -> None:
    answers = tmp_path / "answers.yml"
    answers.write_text(f"model: !!python/object/apply:os.system ['touch {marker}']\n", encoding="utf-8")
    assert cli("new", tmp_path / "p", "--data-file", answers, "--yes", "--no-git").code == 2
    assert not marker.exists()


def test_settings_of_editors_and_of_copier_are_inert(
    project: ProjectFolder, marker: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"python.defaultInterpreterPath": str(marker), "terminal.integrated.env.linux": {"LD_PRELOAD": "/evil"}}
    (project.root / ".vscode" / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (project.root / ".copier-answers.yml").write_text(ANSWERS.format(marker=marker, more=""), encoding="utf-8")
    monkeypatch.chdir(project.root)
    assert cli("status").code == 0
    assert cli("validate").code == 0
    assert not marker.exists()


def test_hooks_that_evaluation_json_names_do_not_run(project: ProjectFolder, marker: Path, cli: Cli) -> None:
    planted(project.config.with_name("hooks.py"), marker)
    project.config.with_name("hooks.py").open("a").write("def metrics(predictions, references):\n    return {}\n")
    evaluation = project.config.with_name("evaluation.json")
    content = json.loads(evaluation.read_text(encoding="utf-8"))
    evaluation.write_text(json.dumps({**content, "combined": {"mine": {"accuracy": 1}}}), encoding="utf-8")
    refused = cli("evaluate", "--project", project.root)
    assert (refused.code, "--trust-project" in refused.err) == (2, True)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_a_planted_checkpoint_with_pickles_runs_no_code(tmp_path: Path, marker: Path, name: str) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.layer(x).square().mean()}

    settings = {"report_to": "none", "use_cpu": True, "max_steps": 2, "save_steps": 1, "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), save_total_limit=1, **settings)
    rows = [{"x": torch.ones(4)} for _ in range(4)]
    Trainer(model=Line(), args=arguments, train_dataset=rows).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state, "global_step": 1}), encoding="utf-8")
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    torch.save({"layer.weight": Evil()}, checkpoint / name)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        Trainer(model=Line(), args=arguments, train_dataset=rows).train(resume_from_checkpoint=str(checkpoint))
    assert not marker.exists()
