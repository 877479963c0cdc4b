"""Output into pipes and closed streams."""

from __future__ import annotations

import os
import subprocess
import sys

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
def test_closed_streams_are_no_failure() -> None:
    command = [sys.executable, "-m", "phi_scaffold", "schema"]
    shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command]
    assert subprocess.run(shell).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full")
def test_output_to_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = subprocess.run(
            [sys.executable, "-m", "phi_scaffold", "schema"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 8
    assert "the disk is full" in process.stderr
