"""Release a version: `prepare` it, commit, `tag` it, then begin the `next` one.

    python tools/release.py prepare 0.2.0       # version, date in CHANGELOG.md, archive of the template; commit these
    python tools/release.py tag                 # check tag = version = changelog = template, build dist/, create the tag
    python tools/release.py next 0.3.0.dev0     # the version of the commits that follow; commit it

`phi-scaffold update` needs the archives in scaffolder/phi_scaffold/update/releases/: keep each of them.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNTOUCHED = ("datasets", "gen-model", "model-cache")  # as in phi_scaffold.update.releases
RELEASES = "scaffolder/phi_scaffold/update/releases"
_VERSION_IN = {
    "scaffolder/phi_scaffold/__init__.py": r'(?<=__version__ = ")[^"]+',
    "copier.yml": r"(?<=phi_scaffold_version:\n  type: str\n  when: false\n  default: )\S+",
}
_UNRELEASED = "## [Unreleased]"


def version(root: Path) -> str:
    """Return the version in the package. Raises SystemExit if copier.yml has another."""
    found = {name: re.findall(pattern, _read(root / name)) for name, pattern in _VERSION_IN.items()}
    if len({tuple(versions) for versions in found.values()}) != 1:
        raise SystemExit(f"the versions differ: {found}")
    return str(next(iter(found.values()))[0])


def pack(root: Path) -> bytes:
    """Return an archive of copier.yml and template/; the same files give the same bytes."""
    files = sorted(p for p in (root / "template").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    stored = [p for p in files if p.relative_to(root / "template").parts[0] not in UNTOUCHED]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for path in [root / "copier.yml", *stored]:
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            content = path.read_bytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _files(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive: other versions of xz compress them to other bytes."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def prepare(root: Path, new: str, day: str) -> None:
    """Write the version, the heading of CHANGELOG.md and the archive of the template."""
    changelog = _read(root / "CHANGELOG.md")
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise SystemExit(f"`{new}` is not MAJOR.MINOR.PATCH")
    if f"## [{new}]" in changelog:
        raise SystemExit(f"CHANGELOG.md has a section {new} already")
    if not re.search(rf"{re.escape(_UNRELEASED)}\n+(?!## )\S", changelog):
        raise SystemExit(f"CHANGELOG.md says nothing under {_UNRELEASED}")
    _set_version(root, new)
    heading = f"{_UNRELEASED}\n\n## [{new}] - {day}"
    _write(root / "CHANGELOG.md", changelog.replace(_UNRELEASED, heading, 1))
    archive = root / RELEASES / f"{new}.tar.xz"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(pack(root))
    print(f"prepared {new}; run `python -m tests.generated.test_matrix`, commit, then `python tools/release.py tag`")


def problems(root: Path) -> list[str]:
    """Return the reasons why the present commit is not the release that its version names."""
    current, changelog = version(root), _read(root / "CHANGELOG.md")
    archive = root / RELEASES / f"{current}.tar.xz"
    sections = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    first = next((section for section in sections if section[0] != "Unreleased"), ("", ""))
    unreleased = changelog.partition(_UNRELEASED)[2].partition("\n## ")[0].strip()
    return [
        reason
        for reason, holds in {
            f"version {current} is not MAJOR.MINOR.PATCH": not re.fullmatch(r"\d+\.\d+\.\d+", current),
            f"CHANGELOG.md begins with {first[0]}, not {current}": first[0] != current,
            f"CHANGELOG.md has no date for {first[0]}": not re.fullmatch(r" - \d{4}-\d\d-\d\d", first[1]),
            f"CHANGELOG.md has lines under {_UNRELEASED}": bool(unreleased),
            f"{archive.name} is not the template": not archive.is_file()
            or _files(archive.read_bytes()) != _files(pack(root)),
            f"the tag v{current} exists": bool(_git(root, "tag", "--list", f"v{current}")),
            "there are uncommitted changes": bool(_git(root, "status", "--porcelain")),
        }.items()
        if holds
    ]


def tag(root: Path) -> None:
    """Build the wheel and the source distribution into dist/, check them, and create the tag."""
    if found := problems(root):
        raise SystemExit("not a release:\n" + "\n".join(f"- {reason}" for reason in found))
    current = version(root)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(root / "dist"), str(root)], check=True)
    wheel = root / "dist" / f"phi_scaffold-{current}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    archives = {f"phi_scaffold/update/releases/{path.name}" for path in (root / RELEASES).glob("*.tar.xz")}
    if missing := {*archives, "phi_scaffold/_template/copier.yml"} - names:
        raise SystemExit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    _git(root, "tag", "--annotate", f"v{current}", "--message", f"phi-scaffold {current}")
    print(
        f"tagged v{current}; next: git push origin v{current}, twine upload dist/*, then `python tools/release.py next`"
    )


def _set_version(root: Path, new: str) -> None:
    for name, pattern in _VERSION_IN.items():
        _write(root / name, re.sub(pattern, new, _read(root / name)))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=("prepare", "tag", "next"))
    parser.add_argument("version", nargs="?", help="of prepare and next")
    parser.add_argument("--date", default=date.today().isoformat(), help="day of the release; default: today")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if (arguments.step == "tag") != (arguments.version is None):
        parser.error("`prepare` and `next` need a version, `tag` none")
    if arguments.step == "prepare":
        prepare(arguments.root, arguments.version, arguments.date)
    elif arguments.step == "tag":
        tag(arguments.root)
    else:
        _set_version(arguments.root, arguments.version)


if __name__ == "__main__":
    main()
