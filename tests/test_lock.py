"""The requirements of generated projects, which tools/lock.py writes, are complete, hashed, and within pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "template" / "setup"
DEVICES = ("cpu", "cuda", "directml")
OPTIONAL = {
    "azure": ["azure"],
    "data": ["data"],
    "keyvault": ["keyvault"],
    "qlora": ["qlora"],
    "serve": ["serve", "client"],
    "sweep": ["sweep"],
    "web": ["web"],
}
ENTRY = re.compile(r"([a-z0-9-]+)==([^\s;]+)( ; [^\\\n]+?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)\n")


def pins(name: str) -> dict[str, Version]:
    """The versions of a file, which has nothing but a comment and pins with hashes."""
    text = (SETUP / name).read_text(encoding="utf-8")
    entries = list(ENTRY.finditer(text))
    assert text == text.partition("\n")[0] + "\n" + "".join(entry[0] for entry in entries), name
    assert all(entry[4] for entry in entries) or name == "torch-cuda.txt", f"{name}: each wheel has a hash"
    return {entry[1]: Version(entry[2]) for entry in entries}


def required(extra: str) -> list[Requirement]:
    """The requirements of phi-scaffold with an extra, and of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]
    own = [name for requirement in found if requirement.name == "phi-scaffold" for name in requirement.extras]
    return [r for r in found if r.name != "phi-scaffold"] + [r for name in own for r in required(name)]


@pytest.mark.parametrize("device", DEVICES)
def test_the_files_of_a_device_have_what_pyproject_requires(device: str) -> None:
    locked = {**pins("requirements.txt"), **pins(f"requirements-{device}.txt")}
    for requirement in required(device):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("name", OPTIONAL)
def test_the_files_of_optional_packages_have_what_pyproject_requires(name: str) -> None:
    locked = {**pins("requirements.txt"), **pins("requirements-cpu.txt"), **pins(f"requirements-{name}.txt")}
    for requirement in [r for extra in OPTIONAL[name] for r in required(extra)]:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_no_two_files_that_are_installed_together_pin_different_versions() -> None:
    for device in DEVICES:
        versions: dict[str, Version] = {}
        for name in (
            "requirements.txt",
            f"requirements-{device}.txt",
            *(f"requirements-{name}.txt" for name in OPTIONAL),
        ):
            for package, version in pins(name).items():
                assert versions.setdefault(package, version) == version, (name, package)


def test_only_cuda_has_libraries_of_cuda() -> None:
    cuda = {name for name in pins("requirements-cuda.txt") if name.startswith(("nvidia-", "cuda-"))}
    assert "nvidia-cublas" in cuda
    for file in SETUP.glob("requirements*.txt"):
        if file.name != "requirements-cuda.txt":
            assert not cuda & set(pins(file.name)), file


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_builds_of_torch_are_of_the_version_that_the_others_have(device: str) -> None:
    build = pins(f"torch-{device}.txt")["torch"]
    assert build.public == str(pins(f"requirements-{device}.txt")["torch"])
    assert build.local == {"cpu": "cpu", "cuda": "cu130"}[device]


def test_the_libraries_of_this_environment_are_at_their_pins() -> None:
    from importlib import metadata

    names = ("torch", "transformers", "peft", "onnxruntime-genai", "numpy", "gradio", "openai", "optuna", "datasets")
    files = ("requirements.txt", "requirements-cpu.txt", *(f"requirements-{name}.txt" for name in OPTIONAL))
    locked = {package: version for file in files for package, version in pins(file).items()}
    assert {n: Version(metadata.version(n)).public for n in names} == {n: str(locked[n]) for n in names}
