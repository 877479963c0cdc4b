"""The software of a job: the tested versions of a project's setup, with the hash of each wheel, as a conda file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import ConfigError

PYTHON = "3.11"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_NEEDED = ("torch", "transformers", "peft")


def pins(
    project_setup: Path, template_setup: Path, workflow: Workflow, device: str, *, keyvault: bool = False
) -> tuple[str, ...]:
    """Return the requirements of a job, one a line: name, exact version and hashes.

    Args:
        project_setup: Folder with the requirements of the project, which are used if they are complete.
        template_setup: Folder with those of phi-scaffold.
        workflow: Decides on the optional packages.
        device: "gpu" or "cpu".
        keyvault: The job reads a token from a key vault.
    """
    kinds = {step.type for step in workflow.passes.values()}
    hub = any(data.load_dataset_config.format in (None, "parquet") for data in workflow.data_configs)
    parts = [
        "",
        "-cuda" if device == "gpu" else "-cpu",
        *(["-qlora"] if "QLoRA" in kinds else ()),
        *(["-data"] if hub else ()),
    ]
    names = [f"requirements{part}.txt" for part in parts]
    if device == "cpu":
        names.append("torch-cpu.txt")
    setup = project_setup if all((project_setup / name).is_file() for name in names) else template_setup
    files = [setup / name for name in names] + ([template_setup / "requirements-keyvault.txt"] if keyvault else [])
    lines = [line for file in files for line in _requirements(file.read_text(encoding="utf-8"))]
    if device == "cpu":  # PyPI has the build for CUDA only
        lines = [line for line in lines if not line.startswith("torch==") or "+cpu" in line]
        lines.insert(0, f"--extra-index-url {TORCH_INDEX}")
    return tuple(dict.fromkeys(lines))


def conda_file(requirements: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of a conda file with these requirements. conda hands them to pip as they are, hashes included."""
    return {
        "name": "phi-scaffold",
        "channels": ["conda-forge"],  # the channel `defaults` needs a license in companies
        "dependencies": [f"python={PYTHON}", "pip", {"pip": list(requirements)}],
    }


def read_conda_file(path: Path) -> Mapping[str, Any]:
    """Return the content of a conda file. Raises ConfigError."""
    content = read_source(path).value
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name} is no conda file", fix="remove `conda_file_path`")
    return content


def why_not_installable(conda: Mapping[str, Any]) -> list[str]:
    """Return the reasons for which a conda file does not create an environment that phi-scaffold runs in; none if it does."""
    dependencies = conda.get("dependencies")
    entries = dependencies if isinstance(dependencies, list) else []
    packages = [entry for entry in entries if isinstance(entry, str)]
    lines = [
        line for entry in entries if isinstance(entry, dict) for line in entry.get("pip") or [] if isinstance(line, str)
    ]
    reasons = []
    python = next((entry for entry in packages if re.match(r"python\b", entry)), "")
    version = re.search(r"(\d+)\.(\d+)", python)
    if version and (int(version[1]), int(version[2])) < (3, 11):
        reasons.append(f"it has Python {version[0]}, and the libraries need 3.11")
    pip_packages = [line for line in lines if not line.startswith("-")]
    loose = [line for line in pip_packages if "==" not in line and "--hash" not in line]
    if loose:
        reasons.append(
            f"{len(loose)} of {len(pip_packages)} packages have no exact version, such as `{loose[0].split('@')[0].strip()}`"
        )
    if git := next((line for line in lines if "git+" in line), None):
        reasons.append(f"it installs a branch from {git.partition('git+')[2].split('@')[0]}")
    names = {re.split(r"[\s=<>!~\[@;]", line, maxsplit=1)[0].lower() for line in pip_packages}
    if missing := [name for name in _NEEDED if name not in names]:
        reasons.append(f"it lacks {', '.join(f'`{name}`' for name in missing)}")
    return reasons


def _requirements(text: str) -> Iterator[str]:
    """Yield the requirements of a file for pip, each on one line, without comments."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()
