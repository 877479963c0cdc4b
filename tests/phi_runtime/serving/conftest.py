"""A trained project, and real servers on it: processes of the command line, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.pipeline.engine import run
from phi_scaffold.new.catalog import catalog
from tests.conftest import Listener, tiny_project
from tests.phi_runtime.export.tiny_adapters import add_adapters, build_graph, make_adapter
from tests.phi_runtime.serving.templates import MISTRAL, QWEN

LONG = "[a-z]{300}"  # a guide: an answer of about as many tokens, whatever the model would like to say


@dataclass
class Server:
    """A server that is ready. What it prints on stderr goes into `log`."""

    process: subprocess.Popen[str]
    url: str
    models: list[str]
    log: Path
    key: str = "none"
    clients: list[OpenAI] = field(default_factory=list)
    first_worker: int = 0

    def __post_init__(self) -> None:
        self.first_worker = self.worker()

    @property
    def client(self) -> OpenAI:
        """The openai package against this server; it does not retry."""
        if not self.clients:
            self.clients.append(OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=120))
        return self.clients[0]

    def post(self, path: str = "/chat/completions", **given: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, verify=False, **given)  # reading all certificates takes 30 ms

    def get(self, path: str, **given: Any) -> httpx.Response:
        """`path` from the root: /health, /metrics."""
        return httpx.get(self.url.removesuffix("/v1") + path, timeout=60, verify=False, **given)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"phi_scaffold_{name}"))

    def worker(self) -> int:
        """The process of the models."""
        return self._child("phi_runtime.serving.worker")

    def guides(self) -> int:
        """The process that compiles guides."""
        return self._child("phi_runtime.serving.guide_worker")

    def _child(self, module: str) -> int:
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if module in child.cmdline():
                    return child.pid
        raise AssertionError(f"no {module} runs")

    @contextmanager
    def frozen(self, process: int | None = None) -> Iterator[None]:
        """Stop the worker (or another process) inside the block, so that an answer takes as long as a test needs."""
        process = process or self.first_worker
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def until(self, true: Callable[[], bool]) -> None:
        """Waits until something holds; fails after a minute."""
        for _ in range(1200):
            if true():
                return
            time.sleep(0.05)
        raise AssertionError("the condition did not hold within a minute")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def project(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> ProjectFolder:
    """A project that has run. In it also `talker`, its ONNX model as if it had been trained on conversations, `caller` and `special`,
    the same with tools, and `styled`, a graph with two adapters."""
    made = tiny_project(tmp_path_factory.mktemp("served") / "tiny", tiny_phi3)
    run(made, Listener())
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    chatml = catalog().prompt_formats["chatml"].chat_template
    for name, template in {"talker": chatml, "caller": QWEN, "special": MISTRAL}.items():
        shutil.copytree(made.gen_model / "onnx", made.root / name)
        ChatTemplate(template, "messages", names, ("<|endoftext|>", *names.values())).save(made.root / name)
    adapters = {
        name: make_adapter(tiny_phi3, made.root / name, ["qkv_proj", "o_proj"], seed=seed)
        for seed, name in enumerate(("old", "new"), start=1)
    }
    styled = build_graph(tiny_phi3, made.root / "build", "int4").rename(made.root / "styled")
    add_adapters(styled, tiny_phi3, adapters)
    return made


def started(project: ProjectFolder, log: Path, *flags: str | Path, **environment: str) -> Server:
    command = [
        sys.executable,
        "-m",
        "phi_scaffold",
        "serve",
        "--project",
        project.root,
        "--port",
        "0",
        "--json",
        *flags,
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            cwd=project.root,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
    assert process.stdout is not None
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    assert line, log.read_text()
    ready = json.loads(line)
    assert "url" in ready, line
    return Server(process, ready["url"], ready["models"], log)


def ended(server: Server) -> None:
    for client in server.clients:
        client.close()
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()
    assert server.process.stdout is not None
    server.process.stdout.close()


@pytest.fixture(scope="session")
def shared_server(project: ProjectFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    names = ("onnx", "base", "adapter", "talker", "styled", "caller", "special")
    made = started(project, log, *(flag for name in names for flag in ("--model", name)))
    yield made
    ended(made)


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The server that most tests share. A test that ends its worker fails, and not those that come while it is restarted."""
    shared_server.until(lambda: shared_server.get("/health").status_code == 200)
    shared_server.until(lambda: shared_server.metric("requests_active") == 0)
    worker = shared_server.worker()
    yield shared_server
    log = shared_server.log.read_text()[-3000:]
    assert shared_server.process.poll() is None, log
    assert shared_server.worker() == worker, log


@pytest.fixture
def start(project: ProjectFolder, tmp_path: Path) -> Iterator[Start]:
    """Starts a server for one test: `start("--parallel", "1", KEY="value")`; the model is onnx unless flags name one."""
    servers: list[Server] = []

    def begin(*flags: str | Path, **environment: str) -> Server:
        named = () if "--model" in flags else ("--model", "onnx")
        servers.append(started(project, tmp_path / f"log-{len(servers)}", *named, *flags, **environment))
        return servers[-1]

    yield begin
    for each in servers:
        ended(each)
