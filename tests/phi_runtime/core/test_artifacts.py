"""An artifact is complete or absent."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from phi_runtime.core import artifacts
from phi_runtime.core.artifacts import (
    CARD,
    delete_folder,
    digest,
    free_name,
    put_in_place,
    read_json,
    read_json_lines,
    read_manifest,
    read_object,
    require_free_space,
    seal,
    staged,
    versions,
    write_json,
    write_text,
)
from phi_runtime.core.errors import Conflict, OutOfResources
from phi_runtime.core.locks import exclusive, is_held


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"12345")
    (folder / "sub" / "config.json").write_text("{}")
    seal(folder, key="k", kind="hf", facts={"steps": 3})
    return folder


def test_a_sealed_folder_has_its_key_content_and_facts(sealed: Path) -> None:
    manifest = read_manifest(sealed)
    assert manifest is not None
    assert (manifest.key, manifest.kind, manifest.facts) == ("k", "hf", {"steps": 3})
    assert manifest.files == {"sub/config.json": 2, "weights.bin": 5}


@pytest.mark.parametrize("damage", ["truncate", "remove", "no manifest", "half a manifest"])
def test_a_damaged_folder_is_no_artefact(sealed: Path, damage: str) -> None:
    if damage == "truncate":
        (sealed / "weights.bin").write_bytes(b"123")
    elif damage == "remove":
        (sealed / "weights.bin").unlink()
    elif damage == "no manifest":
        (sealed / "manifest.json").unlink()
    else:
        (sealed / "manifest.json").write_text((sealed / "manifest.json").read_text()[:20])
    assert read_manifest(sealed) is None


def test_content_tells_results_apart_that_the_same_inputs_made(tmp_path: Path) -> None:
    contents = []
    for text in ("a", "b", "a"):
        folder = tmp_path / str(len(contents))
        folder.mkdir()
        (folder / "f").write_text(text)
        contents.append(seal(folder, key="k", kind="hf", facts={}).content)
    assert contents[0] == contents[2] != contents[1]


def test_putting_in_place_replaces_the_old_one_whole_and_keeps_the_folder_in_git(sealed: Path, tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / ".gitkeep").touch()
    (target / "old.bin").touch()
    put_in_place(sealed, target)
    assert read_manifest(target) is not None
    assert not (target / "old.bin").exists()
    assert (target / ".gitkeep").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_too_little_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: usage(10, 10, int(1e9)))
    with pytest.raises(OutOfResources, match=r"needs 2\.0 GB .* 1\.0 GB free") as caught:
        require_free_space(tmp_path, int(2e9), "merging")
    assert caught.value.exit_code == 8


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock):
        assert is_held(lock)
        with pytest.raises(Conflict) as caught, exclusive(lock):
            pass
        assert caught.value.exit_code == 6
    assert not is_held(lock)


@pytest.mark.parametrize("link", ["config.json", ".config.json.partial"])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "profile"
    victim.write_text("mine")
    (tmp_path / link).symlink_to(victim)
    write_text(tmp_path / "config.json", "new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "config.json").is_symlink()
    assert (tmp_path / "config.json").read_text() == "new"


def test_a_backup_never_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "config.json.bak").symlink_to(tmp_path / "not there")
    assert free_name(tmp_path / "config.json") == tmp_path / "config.json.bak1"


def test_a_kill_between_the_two_renames_loses_no_edited_card(tmp_path: Path) -> None:
    target, old = tmp_path / "adapter", tmp_path / ".adapter.old"
    put_in_place(sealed_model(tmp_path / "first", "1"), target)
    (target / CARD).write_text("written by the user")
    target.replace(old)  # and here the process is killed
    put_in_place(sealed_model(tmp_path / "second", "2"), target)
    assert (target / CARD).read_text() == "written by the user"
    assert read_manifest(target).key == "2"  # type: ignore[union-attr]
    assert not old.exists()


def sealed_model(folder: Path, key: str) -> Path:
    folder.mkdir()
    (folder / "weights").write_text(key)
    seal(folder, key=key, kind="adapter", facts={})
    return folder


def test_a_version_is_read_once_and_a_package_that_is_installed_later_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert versions(("pytest", "phi-later")) == {"pytest": pytest.__version__}
    later = tmp_path / "phi_later-1.5.dist-info"
    later.mkdir()
    (later / "METADATA").write_text("Metadata-Version: 2.1\nName: phi-later\nVersion: 1.5\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert versions(("phi-later",)) == {"phi-later": "1.5"}
    monkeypatch.setattr("importlib.metadata.version", lambda _: "read again")
    assert versions(("pytest", "phi-later")) == {"pytest": pytest.__version__, "phi-later": "1.5"}


def test_names_of_files_that_are_not_utf_8_can_be_recorded(tmp_path: Path) -> None:
    name = os.fsdecode(b"k\xffx")
    write_json(tmp_path / "record.json", {"files": [name, "häuser"]})
    assert read_json(tmp_path / "record.json") == {"files": [name, "häuser"]}
    assert digest(name) != digest(os.fsdecode(b"k\xfex"))


def test_a_folder_whose_deletion_was_killed_is_absent_and_its_rest_goes_with_the_next_one(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        if path.exists():
            (path / "weights.bin").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_folder(sealed)
    assert not sealed.exists()
    assert list(sealed.parent.iterdir())
    delete_folder(sealed)
    assert not list(sealed.parent.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"a": ', b"\xff", b'{"a": ' * 100_000])
def test_a_file_without_a_readable_object_is_an_empty_object(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_bytes(content)
    assert read_object(file) == {}


def test_lines_that_were_cut_off_or_are_no_objects_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    assert read_json_lines(file) == []
    file.write_text('{"step": 1}\n[2]\n\n{"text": "a\u2028b"}\n{"st', encoding="utf-8")
    assert read_json_lines(file) == [{"step": 1}, {"text": "a\u2028b"}]


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text("old")

    def interrupted() -> None:
        with staged(file) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert file.read_text() == "old"
