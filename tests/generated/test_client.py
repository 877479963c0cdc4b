"""The client of a project, which calls `phi-scaffold serve` through the openai package."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.new import generate
from tests.generated.conftest import Ask, ended, start

KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def server(made: ProjectFolder) -> Iterator[str]:
    """The address of the server of the made project."""
    command = [sys.executable, "-m", "phi_scaffold", "serve", "--project", str(made.root), "--model", "onnx"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--api-key", KEY, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        yield json.loads(line)["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_the_client_streams_the_answer_of_the_model(ask: Ask, server: str) -> None:
    code, out, err = ask(
        "client.py", "--prompt", "we won the game", "--max-new-tokens", "12", OPENAI_BASE_URL=server, OPENAI_API_KEY=KEY
    )
    assert (code, err) == (0, "models: onnx\n")
    assert (0, out) == ask("chat_onnx.py", "--prompt", "we won the game", "--max-new-tokens", "12")[:2]


def test_the_client_of_extraction_gets_json(server: str, tmp_path: Path) -> None:
    """The tiny model knows nothing of JSON: what it says of its own will is none, what it says guided begins as the record does."""
    folder = generate.new(tmp_path / "p", generate.Answers("smollm2-135m", task="extraction")).folder
    call = (folder / "inferences" / "client.py", "--max-new-tokens", "200")
    code, out, _ = ended(start(*call, cwd=tmp_path, OPENAI_BASE_URL=server, OPENAI_API_KEY=KEY))
    guided = out.splitlines()[-1]
    assert code == 0
    assert guided.replace(" ", "").startswith('{"item":')


def test_the_client_says_what_is_wrong(ask: Ask, server: str) -> None:
    nobody = ask("client.py", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert nobody[0] == 1
    assert "no server at http://127.0.0.1:9/v1: start one with `phi-scaffold serve`" in nobody[2]
    stranger = ask("client.py", OPENAI_BASE_URL=server, OPENAI_API_KEY="another")
    assert stranger[0] == 1
    assert "key" in stranger[2]
    other = ask("client.py", "--model", "onyx", OPENAI_BASE_URL=server, OPENAI_API_KEY=KEY)
    assert other[0] == 1
    assert "onyx" in other[2]
