"""The project's own environment: commands that need the runtime go on in its .venv."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from phi_runtime.core.errors import MissingDependency
from phi_runtime.core.project import Project

_HANDED_OVER = "PHI_SCAFFOLD_HANDED_OVER"


def project_python(project: Project) -> Path | None:
    """The interpreter that setup/ made for the project, if it did."""
    name = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    python = project.root / ".venv" / name
    return python if python.exists() else None


def use_project_environment(project: Project, *, required: bool = True) -> None:
    """Goes on with the same command line in the project's .venv, unless this is that one already.

    So a phi-scaffold that was installed anywhere (pipx, another environment) runs a project with the versions the project pins.
    Does not return when it hands over. Raises MissingDependency when `required` and there is no runtime here either.
    """
    python = project_python(project)
    here = Path(sys.prefix)
    if python and here.resolve() != (project.root / ".venv").resolve() and _HANDED_OVER not in os.environ:
        _hand_over(python)
    if required and importlib.util.find_spec("torch") is None:
        setup = r"powershell -File setup\setup.ps1" if os.name == "nt" else "bash setup/setup.sh"
        raise MissingDependency("the runtime is not installed", fix=f"run `{setup}` in {project.root}")


def _hand_over(python: Path) -> None:
    os.environ[_HANDED_OVER] = "1"
    command = [str(python), "-P", "-m", "phi_scaffold", *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # exec there returns to the shell before the work is done
        sys.exit(subprocess.run(command, check=False).returncode)
    os.execv(command[0], command)
