"""Soak test of `phi-scaffold serve`: many clients at once, with cancellations and kills of the worker.

    python bench/soak.py ONNX_FOLDER [--clients 32] [--minutes 10] [--kills 3] [--json]

The clients send chats, completions, streams and guided answers, and leave some of them at random points. The process of the
models is killed a few times; in the second half the memory of each process is sampled, and its medians at the start and at the
end of that half are compared, next to the requests that were admitted in it. At last SIGTERM must end the server after the
answers that it accepted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from serve import TOPICS  # bench/serve.py

SAMPLE_S = 0.25


class Soak:
    """A server, its clients, and the memory of its processes."""

    def __init__(self, model: Path, project: Path, clients: int, seconds: float, kills: int, *flags: str) -> None:
        self.model, self.clients, self.seconds, self.kills = model, clients, seconds, kills
        command = [sys.executable, "-m", "phi_scaffold", "serve", "--project", project, "--model", model, "--port", "0"]
        environment = os.environ | {"PHI_SCAFFOLD_HANDED_OVER": "1"}
        self.process = subprocess.Popen(
            [*map(str, command), "--json", "--quiet", "--max-queue", "16", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()
        self.first_token_s: list[float] = []
        self.memory: dict[str, list[float]] = {"server": [], "worker": [], "guide_worker": []}
        self.sampled_requests = 0
        self.ending = threading.Event()
        self.killed = threading.Event()  # a worker was killed and the models are not ready yet
        self._lock = threading.Lock()

    # -- clients -------------------------------------------------------------------------------------------------------

    def run_client(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self.ending.is_set():
                unstable = self.killed.is_set()
                status = self.send(client, rng)
                if status in ("500", "503", "broken") and (unstable or self.killed.is_set() or self.ending.is_set()):
                    status += " at a kill or the end"
                with self._lock:
                    self.counts[status] += 1
                if not status.startswith("200"):
                    time.sleep(0.2)

    def send(self, client: httpx.Client, rng: random.Random) -> str:
        """Send a request and return its status: that of HTTP, 499 if the client left, late if it waited in vain, or broken."""
        text = " ".join(rng.choices(TOPICS[:12], k=rng.choice([2, 10, 40])))
        body: dict[str, Any] = {
            "model": str(self.model),
            "max_tokens": rng.choice([2, 8, 32]),
            "stream": rng.random() < 0.5,
        }
        body["temperature"] = rng.choice([0, 0, 1])
        path = rng.choice(["/completions", "/chat/completions"])
        body |= {"prompt": text} if path == "/completions" else {"messages": [{"role": "user", "content": text}]}
        if rng.random() < 0.25:
            schema = {"type": "object", "properties": {f"k{rng.randrange(200)}": {"type": "integer"}}}
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        leaves_after = rng.randrange(6) if rng.random() < 0.2 else None
        try:
            if not body["stream"]:
                leaves_s = rng.uniform(0.01, 1) if leaves_after is not None else 120
                return str(client.post(path, json=body, timeout=leaves_s).status_code)
            start = time.monotonic()
            with client.stream("POST", path, json=body) as response:
                for part, line in enumerate(response.iter_lines()):
                    if not part and response.status_code == 200:
                        self.first_token_s.append(time.monotonic() - start)
                    if part == leaves_after:
                        return "499"
                    if line.startswith('data: {"error"'):
                        return "500"
                return str(response.status_code)
        except httpx.TimeoutException:
            return "late" if leaves_after is None else "499"
        except httpx.HTTPError:
            return "broken"

    # -- the server ----------------------------------------------------------------------------------------------------

    def children(self) -> dict[str, psutil.Process]:
        """Return the processes of the server by the names of their modules."""
        found = {"server": psutil.Process(self.process.pid)}
        for child in found["server"].children():
            for name in ("worker", "guide_worker"):
                if f"phi_runtime.serving.{name}" in child.cmdline():
                    found[name] = child
        return found

    def kill_worker(self) -> None:
        """Kill the process of the models, and wait until its successor is ready."""
        self.killed.set()
        self.children()["worker"].kill()
        time.sleep(0.5)
        health = self.url.removesuffix("/v1") + "/health"
        while httpx.get(health, timeout=60).status_code != 200:
            time.sleep(0.1)
        time.sleep(0.5)  # for answers of before
        self.killed.clear()

    @property
    def admitted(self) -> int:
        with self._lock:
            return sum(count for status, count in self.counts.items() if status in ("200", "499"))

    def sample(self, seconds: float) -> None:
        """Sample the memory of each process, and count the requests of that time."""
        until, before = time.monotonic() + seconds, self.admitted
        while time.monotonic() < until:
            for name, process in self.children().items():
                self.memory[name].append(process.memory_info().rss / 1e6)
            time.sleep(SAMPLE_S)
        self.sampled_requests = self.admitted - before

    def read_log(self) -> None:
        assert self.process.stderr
        self.log += self.process.stderr

    def run(self) -> dict[str, Any]:
        """Run all of it, and return the figures."""
        threads = [threading.Thread(target=self.read_log)]
        threads += [threading.Thread(target=self.run_client, args=(number,)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        for _ in range(self.kills):
            time.sleep(self.seconds / 16)
            self.kill_worker()
        time.sleep(max(0, started + self.seconds / 2 - time.monotonic()))  # memory that grows once has grown
        self.sample(self.seconds / 2)
        self.ending.set()
        self.process.send_signal(signal.SIGTERM)
        exit_code = self.process.wait(120)
        for thread in threads:
            thread.join(150)
        return {
            "counts": dict(self.counts),
            "exit_code": exit_code,
            "tracebacks": sum("Traceback" in line for line in self.log),
            "hanging_clients": sum(thread.is_alive() for thread in threads),
            "time_to_first_token_s": _quantiles(self.first_token_s),
            "sampled_requests": self.sampled_requests,
            "memory_mb": {name: _ends(values) for name, values in self.memory.items() if values},
        }


def new_project(folder: Path) -> Path:
    """Create a project, which the server needs."""
    command = [sys.executable, "-m", "phi_scaffold", "new", str(folder / "project"), "--yes", "--no-git", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "project"


def _quantiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20) if len(values) > 1 else [0.0] * 19
    return {"median": round(cuts[9], 3), "p95": round(cuts[18], 3)}


def _ends(values: list[float]) -> dict[str, float]:
    """Return the medians of the first and the last fifth, and the growth in percent."""
    count = max(1, len(values) // 5)
    start, end = statistics.median(values[:count]), statistics.median(values[-count:])
    return {"start": round(start, 1), "end": round(end, 1), "growth_percent": round(100 * (end / start - 1), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        project = new_project(Path(temporary))
        soak = Soak(arguments.model.absolute(), project, arguments.clients, arguments.minutes * 60, arguments.kills)
        try:
            figures = soak.run()
        finally:
            soak.process.kill()
    show(figures, as_json=arguments.json)


def show(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures of a bench."""
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
