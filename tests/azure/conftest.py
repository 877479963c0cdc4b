"""The stand-in and Azure's own client; each test starts with an empty cloud.

Tests run with the newest release of the client; those marked `EACH_CLIENT`, in which releases differ or that are the main way
through, with the oldest one too.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.azure.environment import azure_python
from tests.azure.projects import HUB_MODEL, Shell
from tests.azure.standin import Cloud, Standin
from tests.azure.standin.cloud import GROUP, HUB_TOKEN, SUBSCRIPTION, WORKSPACE
from tests.layered_environment import NoEnvironment
from tests.phi_runtime.pipeline.test_fetch import HubServer


@dataclass(frozen=True)
class Client:
    """Puts requests to Azure's client, see client.py: `client.ask("submit", file="job.yml")`."""

    process: subprocess.Popen[str]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer: `ok` with a value, or `error` with the name of an exception."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __call__(self, do: str, **arguments: Any) -> Any:
        """Return the value of a request that succeeds."""
        answer = self.ask(do, **arguments)
        assert "ok" in answer, answer
        return answer["ok"]


@pytest.fixture(scope="session", params=["newest"])
def python(request: pytest.FixtureRequest) -> Path:
    """Python with a release of azure-ai-ml. Tests are skipped, saying why, where it cannot be installed."""
    try:
        return azure_python(request.param)
    except NoEnvironment as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def standin(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    machine = {
        "OMP_NUM_THREADS": "1",
        "PHI_SCAFFOLD_CORES": "1",
        "PHI_SCAFFOLD_BFLOAT16": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with Standin(tmp_path_factory.mktemp("azure"), python, machine) as running:
        yield running


@pytest.fixture
def cloud(standin: Standin) -> Iterator[Cloud]:
    """The state of the stand-in, empty. A failure of the stand-in itself fails the test."""
    standin.cloud.reset()
    yield standin.cloud
    assert standin.cloud.errors == []


@pytest.fixture(scope="session")
def client_process(
    python: Path, standin: Standin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path_factory.mktemp("client")  # no git repository, whose branch and commit the client would send
    variables = os.environ | standin.environment | {"HOME": str(folder), "AZUREML_RUN_POLLING_INTERVAL_MIN": "1"}
    where = (SUBSCRIPTION, GROUP, WORKSPACE)
    with (folder / "printed.txt").open("w") as printed:
        command = [str(python), "-P", str(Path(__file__).with_name("client.py")), *where]
        with subprocess.Popen(
            command, cwd=folder, env=variables, stdin=-1, stdout=-1, stderr=printed, text=True
        ) as process:
            yield process
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def client(client_process: subprocess.Popen[str], cloud: Cloud) -> Client:  # noqa: ARG001
    return Client(client_process)


@pytest.fixture(scope="session")
def hub(standin: Standin, tiny_phi3: Path) -> Iterator[HubServer]:
    """The hub of the jobs, with the tiny model, which the token in the key vault opens."""
    server = HubServer({path.name: path.read_bytes() for path in tiny_phi3.iterdir()}, HUB_MODEL, HUB_TOKEN)
    server.gated = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    standin.cloud.machine["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def shell(python: Path, standin: Standin, hub: HubServer) -> Shell:  # noqa: ARG001
    return Shell(python, standin.environment)
