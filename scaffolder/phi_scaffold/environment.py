"""The project's own environment: commands that need the ML libraries continue in its .venv."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from phi_runtime.core.errors import MissingDependency
from phi_runtime.core.project import ProjectFolder, new_command, setup_command

_HANDED_OVER = "PHI_SCAFFOLD_HANDED_OVER"


def venv_python(project: ProjectFolder) -> Path:
    """Return the path of the interpreter of the project's .venv, which setup creates."""
    return project.root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def use_project_environment(project: ProjectFolder, *, trusted: bool, required: bool = True) -> None:
    """Restart this command line in the project's .venv, unless it runs there already. Does not return if it restarts.

    So a phi-scaffold that is installed anywhere (pipx, another environment) runs a project with the versions that it pins.

    Args:
        project: The project.
        trusted: The interpreter in .venv, which is code of the project, may run; if not, this environment is used.
        required: Fail if the ML libraries are missing.

    Raises:
        MissingDependency: The interpreter of .venv cannot be run; or there is no .venv that may be used, and this environment
            has no ML libraries.
    """
    python = venv_python(project)
    here = Path(sys.prefix)
    elsewhere = python.exists() and here.resolve() != (project.root / ".venv").resolve() and not handed_over()
    if elsewhere and trusted:
        _hand_over(python)
    if required and importlib.util.find_spec("torch") is None:
        if elsewhere:
            raise MissingDependency(
                f"the environment in {project.root / '.venv'} was not made by you, so it is not used",
                fix=f"run `{setup_command()}` in {project.root}, or pass --trust-project if you trust its files",
            )
        has_setup = (project.root / "setup" / "setup.py").is_file()
        fix = f"run `{setup_command()}` in {project.root}" if has_setup else new_command(project.config)
        raise MissingDependency("the ML libraries are not installed", fix=fix)


def handed_over() -> bool:
    """Return True if a phi-scaffold of another environment has started this one."""
    return _HANDED_OVER in os.environ


def _hand_over(python: Path) -> None:
    os.environ[_HANDED_OVER] = "1"
    command = [str(python), "-P", "-m", "phi_scaffold", *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "nt":  # exec there returns to the shell before the work is done
            sys.exit(subprocess.run(command, check=False).returncode)
        os.execv(command[0], command)
    except OSError as e:
        venv = python.parents[1]
        fix = f"delete {venv}, and run `{setup_command()}` in {venv.parent}"
        raise MissingDependency(f"{python} cannot be run: {(e.strerror or str(e)).lower()}", fix=fix) from None
