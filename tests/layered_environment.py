"""Virtual environments that see the libraries of the tests' environment and add a few packages of their own.

This saves minutes and gigabytes: torch above all is never downloaded twice.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

from filelock import FileLock

BUILD = Path(__file__).resolve().parents[1] / "build"


class NoEnvironment(Exception):
    """The environment does not exist and cannot be created; the message says why."""


def named_or_made(variable: str, folder: Path, *requirements: str, newest_pip: bool = False) -> Path:
    """Return the Python that the environment variable names, or that of an environment created once in `folder`.

    Args:
        variable: Environment variable with the path of a Python.
        folder: Folder of the environment that is created without it.
        requirements: Packages that pip installs there.
        newest_pip: Upgrade pip first, for packages that the pip of `venv` cannot resolve.

    Raises:
        NoEnvironment: The variable names no file, or pip cannot install the packages.
    """
    if not (named := os.environ.get(variable)):
        return _make(folder, requirements, newest_pip)
    if not Path(named).is_file():
        raise NoEnvironment(f"{variable} names {named}, which does not exist")
    return Path(named)


def _make(folder: Path, requirements: tuple[str, ...], newest_pip: bool) -> Path:
    scripts, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    python, installed = folder / scripts / name, folder / "installed.txt"
    libraries = sysconfig.get_path("purelib")
    content = "\n".join((libraries, *requirements))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if not installed.is_file() or installed.read_text(encoding="utf-8") != content:
            venv.create(folder, with_pip=True, clear=True)
            if newest_pip:
                _pip(python, "--upgrade", "pip")
            _look_behind(python, libraries)
            _pip(python, *requirements)
            installed.write_text(content, encoding="utf-8")
    return python


def _look_behind(python: Path, libraries: str) -> None:
    """Put `libraries` behind the packages of the new environment, where pip counts what is in them as installed."""
    find = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "tests-environment.pth").write_text(f"{libraries}\n", encoding="utf-8")


def _pip(python: Path, *arguments: str) -> None:
    flags = ("--quiet", "--disable-pip-version-check", "--retries", "2")
    done = subprocess.run([str(python), "-m", "pip", "install", *flags, *arguments], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise NoEnvironment(f"pip cannot install {arguments[0]}: {last}")
