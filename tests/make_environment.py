"""Create the environment of the tests: `python tests/make_environment.py FOLDER`.

It is the environment of a generated project, from its setup script and pins, plus the test tools.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "web,serve,sweep,qlora,data"


def main(folder: Path) -> None:
    project = folder.parent / "test-project"
    light = folder.parent / "light-venv"
    scripts = "Scripts" if os.name == "nt" else "bin"
    if not light.exists():
        venv.create(light, with_pip=True)
    pip(light / scripts / "python", "--editable", str(ROOT))
    new = [str(light / scripts / "phi-scaffold"), "new", str(project), "--yes", "--no-git", "--force"]
    subprocess.run(new, check=True, stdout=subprocess.DEVNULL)
    if os.name == "nt":
        setup = [
            "powershell",
            "-ExecutionPolicy",
            "Bypass",
            "-File",
            str(project / "setup" / "setup.ps1"),
            "-With",
            EXTRAS,
        ]
    else:
        setup = ["bash", str(project / "setup" / "setup.sh"), "--with", EXTRAS]
    subprocess.run(setup, check=True, env=os.environ | {"PYTHON": sys.executable})
    if not folder.exists():
        folder.symlink_to(project.joinpath(".venv").resolve(), target_is_directory=True)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pip(folder / scripts / "python", *groups["test"], *groups["lint"])
    (folder / "installed.txt").touch()


def pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
