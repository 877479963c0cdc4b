"""Commands that train start once more with a setting of glibc; others, and users who have set it, are left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from phi_scaffold.cli import allocator

PROGRAM = """
import json, os, sys
from phi_scaffold.cli.allocator import VARIABLE, restart_to_train
restart_to_train(sys.argv[1:])
print(os.getpid(), os.environ.get(VARIABLE), json.dumps(sys.argv[1:]))
"""
is_faulty = allocator._keeps_freed_blocks()


def restarted(*arguments: str, **environment: str) -> tuple[str, list[str]]:
    """Return the setting of a process with `arguments` after its start, and its arguments."""
    variables = {name: value for name, value in os.environ.items() if name != allocator.VARIABLE} | environment
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    output = process.communicate(timeout=60)[0]
    pid, setting, found = output.rstrip().split(" ", 2)
    assert int(pid) == process.pid
    return setting, json.loads(found)


@pytest.mark.skipif(not is_faulty, reason="this C library uses freed blocks again")
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_command_that_trains_has_the_setting_and_its_arguments(command: str) -> None:
    assert restarted(command, "--set", "a b=1") == (allocator._SETTING, [command, "--set", "a b=1"])


@pytest.mark.parametrize("arguments", [[], ["status"], ["--help"], ["chat", "run"]])
def test_another_command_starts_once(arguments: list[str]) -> None:
    assert restarted(*arguments) == ("None", arguments)


def test_a_setting_of_the_user_stays() -> None:
    assert restarted("run", GLIBC_TUNABLES="glibc.malloc.perturb=0") == ("glibc.malloc.perturb=0", ["run"])


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("glibc 2.36", True),
        ("glibc 2.38", True),
        ("glibc 2.39", False),
        ("musl 1.2", False),
        ("", False),
        (None, False),
    ],
)
def test_the_fault_is_that_of_older_glibcs(
    version: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: version, raising=False)
    assert allocator._keeps_freed_blocks() is expected
