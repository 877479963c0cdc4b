"""Write the requirements of generated projects, template/setup/requirements*.txt: exact versions with their SHA-256.

    python tools/lock.py              # keep the versions that are there
    python tools/lock.py --upgrade    # raise them, within the bounds of pyproject.toml

Needs `uv` and `packaging`. The versions and hashes are those of the package index, for each supported Python and platform;
only wheels count. `tests/test_lock.py` compares the files with pyproject.toml.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "template" / "setup"
DEVICES = ("cpu", "cuda", "directml")
# Files by the extras of pyproject.toml that they hold, in addition to those of requirements.txt.
OPTIONAL = {
    "azure": ("azure",),
    "data": ("data",),
    "keyvault": ("keyvault",),
    "qlora": ("qlora",),
    "serve": ("serve", "client"),
    "sweep": ("sweep",),
    "web": ("web",),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
# Supported platforms, and the platform tags of the wheels that they install.
PLATFORMS = (
    ({**LINUX, "platform_machine": "x86_64"}, r"(many)?linux\w*_x86_64"),
    ({**LINUX, "platform_machine": "aarch64"}, r"(many)?linux\w*_aarch64"),
    (
        {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
        r"macosx_\w+_(arm64|universal2)",
    ),
    (
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
        "win_amd64",
    ),
)
ENVIRONMENTS = [
    {**platform, "python_version": python, "python_full_version": f"{python}.0", "wheels": wheels}
    for python, (platform, wheels) in product(PYTHONS, PLATFORMS)
]
# Platforms whose torch is on PyPI, by device; the others have a build in an index of PyTorch, by platform and label.
TORCH_ON_PYPI = {
    "cpu": "sys_platform != 'linux'",
    "cuda": "sys_platform == 'linux'",
    "directml": "sys_platform == 'win32'",
}
TORCH_BUILDS = {"cpu": ("linux", "cpu"), "cuda": ("win32", "cu130")}
TORCH_INDEX = "https://download.pytorch.org/whl/{}/torch/"
MISSING: list[str] = []


@dataclass(frozen=True, order=True)
class Pin:
    """A requirement line: a package at a version, the environments that need it, and the hashes of its wheels."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    def __str__(self) -> str:
        return " \\\n    ".join([self.requirement, *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--upgrade", action="store_true", help="raise the versions, within the bounds of pyproject.toml"
    )
    upgrade = parser.parse_args().upgrade
    kept = [] if upgrade else [pin.requirement for pin in present_pins() if "+" not in pin.version]
    extras = [*DEVICES, *(extra for group in OPTIONAL.values() for extra in group)]
    everything = resolve(extras, constraints=kept)
    versions = [pin.requirement for pin in everything]
    devices = {device: on_device(device, resolve([device], constraints=versions)) for device in DEVICES}
    common = set.intersection(*map(set, devices.values()))
    write("requirements.txt", "The runtime, on every device.", common)
    for device, pins in devices.items():
        write(
            f"requirements-{device}.txt",
            f"The runtime on {device}, in addition to requirements.txt.",
            set(pins) - common,
        )
    for name, group in OPTIONAL.items():
        pins = [pin for pin in resolve(["training", *group], constraints=versions) if not is_torch(pin.name)]
        write(f"requirements-{name}.txt", f"Optional packages: setup --with {name}", set(pins) - common)
    write("requirements-pip.txt", "pip itself.", set(resolve_text("pip", kept)))
    torch = next(pin.version for pin in everything if pin.name == "torch")
    for device, (platform, label) in TORCH_BUILDS.items():
        write_torch(device, f"{torch}+{label}", platform)
    print(*sorted(set(MISSING)), sep="\n")


def resolve(extras: Iterable[str], constraints: Iterable[str]) -> list[Pin]:
    """Return what phi-scaffold with `extras` needs."""
    flags = [flag for extra in extras for flag in ("--extra", extra)]
    return compiled([str(ROOT / "pyproject.toml"), *flags], constraints)


def resolve_text(requirement: str, constraints: Iterable[str]) -> list[Pin]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "in.txt")
        file.write_text(requirement, encoding="utf-8")
        return compiled([str(file)], constraints)


def compiled(arguments: list[str], constraints: Iterable[str]) -> list[Pin]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints), encoding="utf-8")
        command = ["uv", "pip", "compile", "--universal", "--no-build", "--python-version", PYTHONS[0]]
        command += ["--format", "pylock.toml", "--quiet", "--constraint", str(file), *arguments]
        lock = tomllib.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return [pin for package in lock["packages"] for pin in pins_of(package)]


def pins_of(package: dict[str, Any]) -> Iterator[Pin]:
    marker = package.get("marker", "")
    needing = [environment for environment in ENVIRONMENTS if not marker or Marker(marker).evaluate(environment)]
    if not needing:
        return
    digests = {unquote(wheel["url"].rpartition("/")[2]): wheel["hashes"]["sha256"] for wheel in package["wheels"]}
    fitting = [{wheel for wheel in digests if installs(environment, wheel)} for environment in needing]
    for environment, wheels in zip(needing, fitting, strict=True):
        if not wheels:
            where = (
                f"{environment['python_version']} on {environment['sys_platform']} {environment['platform_machine']}"
            )
            MISSING.append(f"{package['name']}=={package['version']} has no wheel for Python {where}")
    hashes = tuple(sorted(digests[wheel] for wheel in set().union(*fitting)))
    yield Pin(package["name"], package["version"], "" if len(needing) == len(ENVIRONMENTS) else shorter(marker), hashes)


def installs(environment: dict[str, str], wheel: str) -> bool:
    """Return True if pip can install the wheel `wheel`, a file name, in `environment`."""
    minor = int(environment["python_version"].removeprefix("3."))
    for tag in parse_wheel_filename(wheel)[3]:
        version = int(re.fullmatch(r"[a-z]+\d(\d*)", tag.interpreter)[1] or 0)
        pure = tag.interpreter.startswith("py3") and version <= minor
        stable = tag.interpreter.startswith("cp3") and tag.abi == "abi3" and version <= minor
        own = tag.interpreter == f"cp3{minor}" and tag.abi in (f"cp3{minor}", "none")
        if (pure or stable or own) and re.fullmatch(rf"any|{environment['wheels']}", tag.platform):
            return True
    return False


def shorter(marker: str) -> str:
    """Return `marker` without the terms that are true in every supported environment."""
    for term in (f"python_full_version >= '{PYTHONS[0]}'", "sys_platform != 'emscripten'"):
        marker = re.sub(rf" and {re.escape(term)}|{re.escape(term)} and ", "", marker)
    return marker


def on_device(device: str, pins: Iterable[Pin]) -> list[Pin]:
    """Return the pins that are for `device`: torch where PyPI has its build, and CUDA libraries on cuda alone."""
    kept = [pin for pin in pins if not is_torch(pin.name) or device == "cuda" or pin.name == "torch"]
    return [replace(pin, marker=TORCH_ON_PYPI[device]) if pin.name == "torch" else pin for pin in kept]


def is_torch(name: str) -> bool:
    """Return True for torch and the CUDA libraries that it needs."""
    return name == "torch" or bool(re.fullmatch(r"(nvidia-(?!ml-py)|cuda-).+|triton", name))


def present_pins() -> list[Pin]:
    """Return the pins that the files have now."""
    entries = [
        e for file in SETUP.glob("*.txt") for e in file.read_text(encoding="utf-8").replace("\\\n", "").split("\n")
    ]
    matches = filter(
        None, (re.match(r"([\w.-]+)==(\S+?)(?: ; (.+?))?((?: +--hash=\S+)*)$", entry) for entry in entries)
    )
    return [Pin(m[1], m[2], m[3] or "", tuple(re.findall("sha256:([0-9a-f]{64})", m[4]))) for m in matches]


def write(name: str, purpose: str, pins: Iterable[Pin]) -> None:
    """Write the file `name` of the template, with a comment that says what it is for."""
    text = f"# {purpose} Complete, with the hash of each wheel; written by tools/lock.py of phi-scaffold.\n"
    (SETUP / name).write_text(text + "".join(f"{pin}\n" for pin in sorted(pins)), encoding="utf-8", newline="\n")


def write_torch(device: str, version: str, platform: str) -> None:
    """Write the build of torch that PyPI does not have, with the hashes of PyTorch's index; else keep those that are there."""
    name, label = f"torch-{device}.txt", version.partition("+")[2]
    try:
        with urllib.request.urlopen(TORCH_INDEX.format(label), timeout=30) as page:
            links = re.findall(r"/([^/\"#]+\.whl)#sha256=([0-9a-f]{64})", page.read().decode())
        wheels = {unquote(wheel): digest for wheel, digest in links}
        hashes = {
            h
            for w, h in wheels.items()
            if w.startswith(f"torch-{version}-")
            and any(installs(e, w) for e in ENVIRONMENTS if platform == e["sys_platform"])
        }
    except OSError as e:
        hashes = {h for pin in present_pins() if pin.version == version for h in pin.hashes}
        print(f"{TORCH_INDEX.format(label)} cannot be read ({e}): {name} keeps {len(hashes)} hashes")
    marker = f"sys_platform == '{platform}'"
    write(
        name,
        f"torch on {device}, from {TORCH_INDEX.format(label)}.",
        [Pin("torch", version, marker, tuple(sorted(hashes)))],
    )


if __name__ == "__main__":
    main()
