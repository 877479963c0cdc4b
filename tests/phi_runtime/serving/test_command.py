"""`phi-scaffold serve`, where it fails before it serves."""

from __future__ import annotations

import shutil
import socket
import sys

import numpy as np
import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.errors import MissingDependency, UsageError, from_wire
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.wire import to_json
from phi_runtime.serving.wire import LoadRequest
from phi_runtime.workers.process import Worker
from tests.conftest import Cli
from tests.phi_runtime.serving.conftest import Server


def test_a_public_address_needs_a_key(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHI_SCAFFOLD_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        refused = cli("serve", "--project", project.root, "--host", host)
        assert refused.code == 2
        assert "no API key" in refused.err
        assert "PHI_SCAFFOLD_API_KEY" in refused.err
        assert "loading" not in refused.err


def test_two_servers_cannot_share_a_port(server: Server, project: ProjectFolder, cli: Cli) -> None:
    port = server.url.rpartition(":")[2].partition("/")[0]
    refused = cli("serve", "--project", project.root, "--port", port)
    assert refused.code == 6
    assert f"port {port} of 127.0.0.1 is not available" in refused.err
    assert "--port" in refused.err.splitlines()[-1]


def test_an_address_that_is_not_there(project: ProjectFolder, cli: Cli) -> None:
    refused = cli("serve", "--project", project.root, "--host", "no.such.host.invalid", "--api-key", "x")
    assert refused.code == 2
    assert "no.such.host.invalid" in refused.err


def test_an_address_of_another_machine_is_no_port_in_use() -> None:
    from phi_runtime.serving.server import listen

    with pytest.raises(UsageError, match=r"`192\.0\.2\.1` is not an address of this machine") as refused:
        listen("192.0.2.1", 0)
    assert "--host 127.0.0.1" in refused.value.fix


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--model", "onyx"], 2, "did you mean `onnx`"),
        (["--adapter", "style"], 2, "NAME=FOLDER"),
        (["--adapter", "style=nowhere"], 2, "holds no adapter"),
        (["--adapter", "style=gen-model/adapter"], 2, "accepts no adapters"),
        (["--model", "base", "--adapter", "style=foreign"], 2, "does not fit"),
        (["--model", "fine-tuning"], 2, "there is no model in"),
    ],
)
def test_models_and_adapters_that_are_not_there(
    project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(project.root)
    if "style=foreign" in flags:  # an adapter of a model that is twice as wide
        from safetensors.numpy import load_file, save_file

        shutil.copytree(project.gen_model / "adapter", project.root / "foreign")
        weights = project.root / "foreign" / "adapter_model.safetensors"
        save_file({name: np.concatenate([each, each], -1) for name, each in load_file(weights).items()}, weights)
    refused = cli("serve", "--port", "0", *flags)
    assert (refused.code, "Traceback" in refused.err) == (code, False), refused.err
    assert said in refused.err


def test_a_truncated_model_is_reported(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    broken = project.root / "broken"
    broken.mkdir()
    for file in (project.gen_model / "onnx").iterdir():
        if file.is_file():
            content = file.read_bytes()
            (broken / file.name).write_bytes(content[: len(content) // 2] if file.name == "model.onnx" else content)
    refused = cli("serve", "--port", "0", "--model", "broken")
    assert refused.code == 1
    assert "cannot load the ONNX model" in refused.err


def test_missing_packages_are_named(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("phi_runtime.serving", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused = cli("serve", "--project", project.root, "--port", "0")
    assert refused.code == 5
    assert "setup.sh --with serve" in refused.err


def test_a_library_that_the_models_miss_is_named_with_its_fix(project: ProjectFolder) -> None:
    code = "import sys; sys.modules['torch'] = None; from phi_runtime.serving.worker import main; main()"
    with Worker([sys.executable, "-c", code], "the models") as worker:
        worker.send(to_json(LoadRequest(project, Overrides(), ["base"])))
        message = worker.receive()
    assert message is not None
    error = from_wire(message["error"])
    assert isinstance(error, MissingDependency)
    assert "torch" in error.what
    assert "setup" in error.fix


def test_it_listens_on_ipv6_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    from phi_runtime.serving.server import _url, listen

    try:
        door = listen("::1", 0)
    except Exception:
        pytest.skip("no IPv6")
    with door:
        assert _url(door).startswith("http://[::1]:")
