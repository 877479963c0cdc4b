"""Faults of disks and paths: what is wrong, which path, what to do, and the exit code."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from phi_runtime.core import os_failures
from phi_runtime.core.errors import OutOfResources, first_line
from phi_runtime.core.os_failures import failure_from_os_error
from phi_runtime.workers.failures import failure_from_exception


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.ENOSPC, 8, "full"),
        (errno.EDQUOT, 8, "full"),
        (errno.EROFS, 1, "read-only"),
        (errno.EACCES, 1, "permission"),
        (errno.EPERM, 1, "permission"),
        (errno.ENAMETOOLONG, 2, "too long"),
        (errno.ENOENT, 2, "does not exist"),
        (errno.EMFILE, 1, "ulimit"),
        (errno.EIO, 1, "error"),
    ],
)
def test_each_fault_has_its_path_its_code_and_what_to_do(number: int, code: int, word: str) -> None:
    failure = failure_from_os_error(OSError(number, os.strerror(number), "/data/rows.jsonl"))
    assert failure is not None
    assert failure.exit_code == code
    assert "/data/rows.jsonl" in str(failure)
    assert word in f"{failure.what} {failure.fix}"
    assert failure.fix


def test_real_faults_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, word in ((tmp_path / ("x" * 300), "too long"), (loop, "circle"), (tmp_path / "none", "not exist")):
        with pytest.raises(OSError) as raised:  # noqa: PT011
            path.read_text()
        failure = failure_from_os_error(raised.value)
        assert failure is not None
        assert word in failure.what
        assert len(failure.what) < 350
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(OSError) as raised:  # noqa: PT011
        Path.cwd()
    failure = failure_from_os_error(raised.value)
    assert failure is not None
    assert failure.what == "the current folder was deleted"


def test_other_faults_stay_what_they_are() -> None:
    assert failure_from_os_error(OSError("a library's own")) is None
    assert failure_from_os_error(ConnectionResetError(errno.ECONNRESET, "reset")) is None


def test_a_stage_says_its_name() -> None:
    failure = failure_from_exception(OSError(errno.ENOSPC, "full", "/models"), "`merge`")
    assert isinstance(failure, OutOfResources)
    assert str(failure) == "/models: error: `merge`: the disk is full"


def test_the_disk_that_is_full_is_named_and_not_the_one_that_the_work_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(os_failures, "is_full", lambda place: place.name in full)
    without_path = OSError(errno.ENOSPC, "No space left on device")
    found = {}
    for full in (["models"], ["temporary"], []):
        failure = failure_from_exception(without_path, "`merge`", folder=tmp_path / "models")
        found[tuple(full)] = str(failure.where)
    models, temporary = str(tmp_path / "models"), str(tmp_path / "temporary")
    assert found == {("models",): models, ("temporary",): temporary, (): models}


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("\n  one \ntwo"), "one"), (ValueError(), "ValueError"), (" \nx", "x"), ("", "")]
)
def test_the_first_line_of_an_error_is_never_missing(error: BaseException | str, line: str) -> None:
    assert first_line(error) == line
