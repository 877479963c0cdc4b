"""Code of a project runs only where the user set it up, or said so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phi_runtime.core import project as folders
from phi_runtime.core import trust as trust_module
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import find_project, root_of
from phi_runtime.core.trust import is_own, is_trusted, record_file, trust

Disown = Callable[[Path], None]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def disown(monkeypatch: pytest.MonkeyPatch) -> Disown:
    """Makes a path look like another user's; only root could really change its owner."""
    strangers: set[Path] = set()

    def owned(path: Path) -> bool:
        return path not in strangers and is_own(path)

    for module in (trust_module, folders):
        monkeypatch.setattr(module, "is_own", owned)
    return strangers.add


def project(root: Path) -> Path:
    (root / "fine-tuning").mkdir(parents=True)
    (root / "fine-tuning" / "olive-config.json").write_text("{}")
    return root


def test_a_project_is_not_trusted_until_it_is_set_up(tmp_path: Path) -> None:
    root, other = project(tmp_path / "p"), project(tmp_path / "other")
    assert not is_trusted(root)
    trust(root, "setup")
    assert is_trusted(root)
    assert is_trusted(root / "datasets" / "..")
    assert not is_trusted(other)
    trust(other, "user")
    assert is_trusted(root), "the record keeps what it had"


@pytest.mark.parametrize("part", ["", ".venv", "fine-tuning"])
def test_setup_is_not_enough_for_files_of_another_user(tmp_path: Path, disown: Disown, part: str) -> None:
    root = project(tmp_path / "p")
    (root / ".venv").mkdir()
    trust(root, "setup")
    disown(root / part)
    assert not is_trusted(root)
    trust(root, "user")
    assert is_trusted(root)


@pytest.mark.parametrize("text", ["", "[]", "not JSON", '{"a": 1}'])
def test_a_damaged_record_trusts_nothing_and_is_written_again(tmp_path: Path, text: str) -> None:
    root = project(tmp_path / "p")
    record_file().parent.mkdir(parents=True)
    record_file().write_text(text)
    assert not is_trusted(root)
    trust(root, "user")
    assert is_trusted(root)


@pytest.mark.parametrize("part", ["", "fine-tuning", "fine-tuning/olive-config.json"])
def test_a_project_of_another_user_above_the_current_folder_is_not_taken(
    tmp_path: Path, disown: Disown, part: str
) -> None:
    root = project(tmp_path / "p")
    mine = root / "mine"
    mine.mkdir()
    disown(root / part)
    with pytest.raises(UsageError, match="another user") as refused:
        find_project(mine)
    assert f"--project {root}" in refused.value.fix
    assert find_project(root, explicit=True).root == root
    assert root_of(mine / "a.json") is None


def test_the_search_ends_at_a_folder_of_another_user(tmp_path: Path, disown: Disown) -> None:
    root = project(tmp_path / "p")
    mine = root / "theirs" / "mine"
    mine.mkdir(parents=True)
    assert find_project(mine).root == root
    disown(root / "theirs")
    with pytest.raises(UsageError, match="not in a phi-scaffold project"):
        find_project(mine)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a folder away")
def test_owners_are_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, 1234, -1)
    assert not is_own(tmp_path)
    monkeypatch.setenv("SUDO_UID", "1234")
    assert is_own(tmp_path)
