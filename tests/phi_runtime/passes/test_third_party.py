"""The package that CONTRIBUTING.md shows is installed with pip, and its pass is validated, described and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.project import ProjectFolder
from tests.conftest import MakeProject, edit_config

ROOT = Path(__file__).resolve().parents[3]


def code_blocks(language: str) -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pip install --target` installed the package into."""
    source, target = tmp_path_factory.mktemp("phi-prune"), tmp_path_factory.mktemp("site-packages")
    (source / "phi_prune.py").write_text(code_blocks("python")[0], encoding="utf-8")
    (source / "pyproject.toml").write_text(code_blocks("toml")[0], encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return target


def phi_scaffold(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that finds packages in `site`."""
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "phi_scaffold", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300)


def add_prune(project: ProjectFolder, **settings: Any) -> None:
    def add(config: dict[str, Any]) -> None:
        steps = config["passes"]
        config["passes"] = {
            "finetune": steps["finetune"],
            "merge": steps["merge"],
            "prune": {"type": "Prune", **settings},
            "export": steps["export"],
        }

    edit_config(project, add)


def test_the_example_is_about_40_lines_long() -> None:
    assert len([line for line in code_blocks("python")[0].splitlines() if line.strip()]) <= 42


def test_validate_accepts_the_pass_and_locates_errors_in_its_keys(installed: Path, make_project: MakeProject) -> None:
    project = make_project()
    add_prune(project, sparsity=0.5)
    assert phi_scaffold(installed, "validate", "--quiet", project.config).returncode == 0
    add_prune(project, sparsty=0.5)
    result = json.loads(phi_scaffold(installed, "validate", "--json", project.config).stdout)
    errors = [f for f in result["findings"] if f["severity"] == "error"]
    assert [(f["rule"], f["key"], f["suggestion"]) for f in errors] == [
        ("unknown-key", "passes.prune.sparsty", "sparsity")
    ]
    assert errors[0]["line"] > 1


def test_a_misspelled_type_suggests_the_installed_pass(installed: Path, make_project: MakeProject) -> None:
    project = make_project()
    add_prune(project)
    edit_config(project, lambda c: c["passes"]["prune"].update(type="Prunee"))
    result = json.loads(phi_scaffold(installed, "validate", "--json", project.config).stdout)
    assert [(f["rule"], f["key"], f["suggestion"]) for f in result["findings"] if f["severity"] == "error"] == [
        ("unknown-value", "passes.prune.type", "Prune")
    ]
    edit_config(project, lambda c: c["passes"]["prune"].update(type="prune"))  # Olive ignores the case of types
    assert phi_scaffold(installed, "validate", "--quiet", project.config).returncode == 0


def test_without_the_package_the_type_is_unknown(tmp_path: Path, make_project: MakeProject) -> None:
    project = make_project()
    add_prune(project)
    result = json.loads(phi_scaffold(tmp_path, "validate", "--json", project.config).stdout)
    assert [(f["rule"], f["key"]) for f in result["findings"] if f["severity"] == "error"] == [
        ("unknown-value", "passes.prune.type")
    ]


def test_the_schema_describes_the_pass(installed: Path, tmp_path: Path, make_project: MakeProject) -> None:
    schema = json.loads(phi_scaffold(installed, "schema").stdout)
    assert "Default 0.2" in schema["$defs"]["Prune"]["properties"]["sparsity"]["description"]
    project = make_project()
    add_prune(project, sparsity=0.3)
    config = json.loads(project.config.read_text(encoding="utf-8"))
    assert not list(Draft202012Validator(schema).iter_errors(config))
    assert "Prune" not in json.loads(phi_scaffold(tmp_path, "schema").stdout)["$defs"]


def test_a_config_without_the_pass_does_not_import_the_package(installed: Path, make_project: MakeProject) -> None:
    project = make_project()
    program = (
        "import sys; from phi_runtime.pipeline.load import check_file\nfrom pathlib import Path\n"
        f"check_file(Path({str(project.config)!r})); assert 'phi_prune' not in sys.modules"
    )
    paths = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, check=True, timeout=60)


def test_a_package_that_fails_to_import_is_named_at_the_type(
    installed: Path, tmp_path: Path, make_project: MakeProject
) -> None:
    (tmp_path / "phi_prune.py").write_text("raise RuntimeError('no GPU')\n", encoding="utf-8")
    for file in installed.glob("phi_prune-*.dist-info"):
        (tmp_path / file.name).symlink_to(file, target_is_directory=True)
    project = make_project()
    add_prune(project)
    result = phi_scaffold(tmp_path, "validate", project.config)
    assert result.returncode == 3
    assert "`Prune` of the package `phi-prune`" in result.stdout
    assert "no GPU" in result.stdout
    assert f"{project.config.name}:" in result.stdout


def test_run_prunes_the_merged_model(installed: Path, make_project: MakeProject) -> None:
    project = make_project(max_steps=2)
    add_prune(project, sparsity=0.5)
    run = phi_scaffold(installed, "run", "--until", "prune", "--project", project.root)
    assert run.returncode == 0, run.stderr
    manifest = read_manifest(project.gen_model / "merged-prune")
    assert manifest is not None
    assert manifest.facts["zeros"] / manifest.facts["total"] == pytest.approx(0.5, abs=0.01)
    again = phi_scaffold(installed, "run", "--until", "prune", "--project", project.root)
    assert "Nothing to do" in again.stdout
