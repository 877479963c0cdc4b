"""The public API: the example of the docs, and the promises to an application that uses the package as a library."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import phi_runtime
from phi_runtime import ConfigError, Event, Project, UsageError
from tests.conftest import MakeProject, edit_config

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_docs_runs(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert code is not None
    monkeypatch.chdir(make_project("mood", max_steps=2).root.parent)
    exec(compile(code[1], "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "('finetune', 'missing')" in printed
    assert "export stage-finished" in printed


def test_every_public_name_exists_and_the_import_is_light() -> None:
    assert all(hasattr(phi_runtime, name) for name in phi_runtime.__all__)
    assert dir(phi_runtime) == sorted(phi_runtime.__all__)
    program = "import sys, phi_runtime; assert not {'pydantic', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    program = "import sys, phi_runtime.api; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with pytest.raises(AttributeError):
        phi_runtime.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", ["phi_runtime", "phi_scaffold"])
def test_the_packages_are_typed(package: str) -> None:
    assert (ROOT / "scaffolder" / package / "py.typed").is_file()


def test_open_accepts_a_folder_or_a_config_of_a_project(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project()
    inside = Project.open(project.root / "fine-tuning")
    assert inside.folders == Project.open(str(project.config)).folders == project
    assert Project.open(project.root, task_name="style").folders.gen_model == project.root / "gen-model" / "style"
    with pytest.raises(UsageError):
        Project.open(tmp_path)


def test_validate_returns_findings_and_plan_raises_for_errors(make_project: MakeProject) -> None:
    folders = make_project()
    project = Project.open(folders.root)
    assert not [f for f in project.validate() if f.severity == "error"]
    assert [stage.name for stage in project.plan()] == ["fetch", "finetune", "merge", "export", "evaluate"]
    edit_config(folders, lambda c: c["passes"]["finetune"].update(rr=8))
    assert [(f.rule, f.key) for f in project.validate() if f.severity == "error"] == [
        ("unknown-key", "passes.finetune.rr")
    ]
    with pytest.raises(ConfigError):
        project.plan()


def test_a_training_takes_over_signals_only_on_request(make_project: MakeProject) -> None:
    project = Project.open(make_project(max_steps=2).root)
    own = signal.getsignal(signal.SIGTERM)
    handlers: list[bool] = []

    def record(event: Event) -> None:
        if event.event == "progress" and event.data.get("unit") == "steps":
            handlers.append(signal.getsignal(signal.SIGTERM) == own)

    project.run("finetune", on_event=record)
    assert handlers
    assert all(handlers)
    handlers.clear()
    project.run("finetune", force=["finetune"], on_event=record, handle_signals=True)
    assert handlers
    assert not any(handlers)
    assert signal.getsignal(signal.SIGTERM) == own


def test_a_model_answers_until_it_is_closed(make_project: MakeProject) -> None:
    project = Project.open(make_project().root)
    with project.model("base") as model:
        answer = model.answer("a lovely party", max_new_tokens=4)
        assert "".join(model.stream("a lovely party", max_new_tokens=4)) == answer
    with pytest.raises(RuntimeError, match="closed"):
        model.answer("a lovely party")
    with pytest.raises(UsageError), project.model("bsae"):
        pass
