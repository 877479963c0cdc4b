"""Versions, CHANGELOG.md and the archives of released templates agree; `tools/release.py` refuses what is no release."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tools import release

from phi_scaffold import __version__
from phi_scaffold.update import releases

CHANGELOG = (release.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)


def test_every_released_version_has_its_template_and_its_section() -> None:
    assert sorted(SECTIONS) == releases.released_versions()
    assert release.UNTOUCHED == releases.UNTOUCHED
    assert release.version(release.ROOT) == __version__


@pytest.mark.parametrize("version", releases.released_versions())
def test_an_archive_is_the_template_of_its_version(tmp_path: Path, version: str) -> None:
    root = releases.unpack(version, tmp_path)
    assert f"  default: {version}\n" in (root / "copier.yml").read_text(encoding="utf-8")
    assert (root / "template" / "README.md.jinja").is_file()
    assert not [name for name in releases.UNTOUCHED if (root / "template" / name).exists()]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with what a release consists of, at a development version."""
    root = tmp_path / "repository"
    for name in ("copier.yml", "CHANGELOG.md", "scaffolder/phi_scaffold/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(release.ROOT / name, root / name)
    shutil.copytree(release.ROOT / "template" / "setup", root / "template" / "setup")
    (root / release.RELEASES).mkdir(parents=True)
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- A new command.\n", encoding="utf-8")
    git(root, "init", "--quiet")
    commit(root)
    return root


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "state")


def test_a_prepared_commit_is_a_release_and_any_other_is_not(repository: Path) -> None:
    release.prepare(repository, "7.1.0", "2027-01-31")
    assert release.problems(repository) == ["there are uncommitted changes"]
    commit(repository)
    assert release.problems(repository) == []
    assert "## [Unreleased]\n\n## [7.1.0] - 2027-01-31\n\n- A new" in (repository / "CHANGELOG.md").read_text()
    git(repository, "tag", "v7.1.0")
    assert release.problems(repository) == ["the tag v7.1.0 exists"]
    git(repository, "tag", "--delete", "v7.1.0")
    (repository / "template" / "setup" / "setup.sh").write_text("changed")
    commit(repository)
    assert release.problems(repository) == ["7.1.0.tar.xz is not the template"]


@pytest.mark.parametrize("version", ["7.1", "7.1.0.dev0", "v7.1.0"])
def test_only_complete_versions_are_released(repository: Path, version: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(version)):
        release.prepare(repository, version, "2027-01-31")


def test_a_version_is_released_once_and_with_notes(repository: Path) -> None:
    release.prepare(repository, "7.1.0", "2027-01-31")
    for version in ("7.1.0", "7.2.0"):
        with pytest.raises(SystemExit, match="CHANGELOG"):
            release.prepare(repository, version, "2027-01-31")
