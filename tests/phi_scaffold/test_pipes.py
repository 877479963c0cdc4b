"""Output into pipes and closed streams, and a working folder that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (("schema",), ("models", "--json"), ("--help",))


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves_is_no_failure(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does after its first lines
    process = subprocess.run(
        [sys.executable, "-m", "phi_scaffold", *command], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes them")
@pytest.mark.parametrize("command", [*COMMANDS, ("models",)], ids=" ".join)
def test_closed_streams_are_no_failure(command: tuple[str, ...]) -> None:
    for closed in ("<&- >&- 2>&-", ">&-", "2>&-"):
        shell = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "phi_scaffold", *command]
        process = subprocess.run(shell, capture_output=True, text=True)
        assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full")
def test_output_to_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = subprocess.run(
            [sys.executable, "-m", "phi_scaffold", "schema"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 8
    assert "the disk is full" in process.stderr


@pytest.mark.skipif(os.name == "nt", reason="a folder in use cannot be deleted there")
def test_a_deleted_working_folder_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "phi_scaffold", "status"]
    shell = ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", str(tmp_path), *command]
    process = subprocess.run(shell, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "error: the current folder was deleted\n  help: change into another folder\n"
