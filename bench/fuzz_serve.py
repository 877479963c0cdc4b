"""Bodies that schemathesis generates from the OpenAPI description of `phi-scaffold serve`, valid and invalid, sent to a server.

    python bench/fuzz_serve.py ONNX_FOLDER [--bodies 20000] [--minutes 60] [--seed 0] [--json]

Prints the number of different bodies, the answers by status, the slowest, the bodies that got 500 or none, the tracebacks of the
log and the growth of the memory of each process.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode
from soak import Soak, new_project, show

from phi_runtime.serving.app import ServingLimits, build_app

SLOW_S = 5.0
ROUND = 400  # bodies with the same seed: the time of hypothesis for each grows with their number
PATHS = ("/v1/chat/completions", "/v1/completions")


def description(model: str) -> dict[str, Any]:
    """Return the OpenAPI description of the server, narrowed so that more valid bodies get past the first checks."""
    nothing: Any = SimpleNamespace()
    spec: dict[str, Any] = build_app(nothing, ServingLimits(), None, []).openapi()
    components = spec["components"]["schemas"]
    for component in components.values():
        component["additionalProperties"] = False
    for name in ("ChatRequest", "CompletionRequest"):
        components[name]["properties"]["model"] = {"type": "string", "enum": [model]}
    message = components["Message"]
    message["properties"] |= {
        "role": {"type": "string", "enum": ["system", "user", "assistant"]},
        "content": {"type": "string", "minLength": 1},
    }
    message["required"] = ["role", "content"]
    return spec


class Fuzz:
    """Sends bodies to a server and counts the answers."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url.removesuffix("/v1"), timeout=60)
        self.counts: Counter[str] = Counter()
        self.bodies: set[int] = set()
        self.slowest_s = 0.0
        self.failures: list[str] = []

    def send(self, path: str, body: Any) -> None:
        raw = json.dumps(body, default=str).encode(errors="surrogatepass")
        self.bodies.add(hash((path, raw)))
        start = time.monotonic()
        try:
            answer = self.client.post(path, content=raw, headers={"Content-Type": "application/json"})
            status = str(answer.status_code)
        except httpx.HTTPError as e:
            status = type(e).__name__
        seconds = time.monotonic() - start
        self.slowest_s = max(self.slowest_s, seconds)
        self.counts[status] += 1
        if status not in ("200", "400", "404", "413", "429") or seconds > SLOW_S:
            self.failures.append(f"{status} after {seconds:.1f} s: {path} {raw[:2000]!r}")


def send_bodies(fuzz: Fuzz, spec: dict[str, Any], count: int, seconds: float, number: int) -> None:
    """Send at least `count` bodies, half of them valid by the description, in rounds with the seeds from `number` on."""
    schema = schemathesis.openapi.from_dict(spec)
    begin = time.monotonic()
    while (done := sum(fuzz.counts.values())) < count and time.monotonic() < begin + seconds:
        send_round(fuzz, schema, min(ROUND, count - done), number)
        number += 1
        print(f"{sum(fuzz.counts.values())} bodies, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


def send_round(fuzz: Fuzz, schema: Any, count: int, number: int) -> None:
    options = settings(
        max_examples=math.ceil(count / 4),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for path in PATHS:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            def send(case: Any) -> None:
                fuzz.send(case.path, case.body)

            seed(number)(options(given(case=schema[path]["POST"].as_strategy(generation_mode=mode))(send)))()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        model = arguments.model.absolute()
        server = Soak(model, new_project(Path(temporary)), 0, 0, 0, "--max-tokens", "8")
        threading.Thread(target=server.read_log, daemon=True).start()
        try:
            fuzz = Fuzz(server.url)
            before = {name: process.memory_info().rss for name, process in server.children().items()}
            send_bodies(fuzz, description(str(model)), arguments.bodies, 60 * arguments.minutes, arguments.seed)
            memory = {
                name: round((process.memory_info().rss - before.get(name, 0)) / 1e6)
                for name, process in server.children().items()
            }
        finally:
            server.process.terminate()
            server.process.wait(60)
    figures = {
        "different_bodies": len(fuzz.bodies),
        "counts": dict(fuzz.counts),
        "slowest_s": round(fuzz.slowest_s, 2),
        "failures": fuzz.failures,
        "tracebacks": sum("Traceback" in line for line in server.log),
        "memory_growth_mb": memory,
    }
    show(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
