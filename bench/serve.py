"""Cost and correctness of `phi-scaffold serve`: an ONNX model through it, compared with a plain ONNX Runtime GenAI loop.

    python bench/serve.py ONNX_FOLDER [SECONDS [PART …]]

PARTS: stream (decode speed that a client sees, compared with the plain loop), turns (time to the first token of the tenth turn of a
long chat, compared with a fresh start), crowd (32 clients for SECONDS: answers, refusals, memory, and whether each answer is the
one without load), parallel (throughput by --parallel), batch (throughput of the runtime's batches, and whether answers are equal).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

PARTS = ("stream", "turns", "crowd", "parallel", "batch")
CLIENTS = 32
ROUNDS = 25
TOKENS = 128
TOPICS = [
    *("fox", "river", "winter", "market", "sailor", "garden", "clock", "mountain"),
    *("letter", "bakery", "train", "lantern", "island", "piano", "storm", "bridge"),
]


def chat(*turns: str, system: str = "You are a helpful assistant.") -> str:
    """Render user and assistant turns as ChatML, up to the next answer."""
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n"
    for role, text in zip(itertools.cycle(("user", "assistant")), turns, strict=False):
        prompt += f"<|im_start|>{role}\n{text}<|im_end|>\n"
    return prompt + "<|im_start|>assistant\n"


# -- a client with little overhead ---------------------------------------------------------------------------------------------------


class Client:
    """One connection that speaks the bare protocol."""

    def __init__(self, url: str, model: str) -> None:
        self.host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
        self.model = model
        self.socket = socket.create_connection((self.host, int(port)))
        self.buffer = b""

    def close(self) -> None:
        self.socket.close()

    def _send(self, body: dict[str, Any]) -> int:
        raw = json.dumps({"model": self.model, "temperature": 0, **body}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536)
        self.headers, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return int(self.headers.split(b" ", 2)[1])

    def complete(self, prompt: str, max_tokens: int) -> tuple[int, str, int]:
        """Return status, text and tokens of an answer; for 429, the seconds to wait instead of the tokens."""
        status = self._send({"prompt": prompt, "max_tokens": max_tokens})
        fields = dict(line.lower().split(b": ", 1) for line in self.headers.split(b"\r\n")[1:])
        while len(self.buffer) < int(fields[b"content-length"]):
            self.buffer += self.socket.recv(65536)
        answer, self.buffer = json.loads(self.buffer), b""
        if status != 200:
            return status, "", int(fields.get(b"retry-after", 1))
        return status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

    def stream(self, prompt: str, max_tokens: int) -> tuple[float, float, str, dict[str, Any]]:
        """Return the seconds to the first event and from there to the end, the text, and the usage."""
        begin = time.perf_counter()
        status = self._send(
            {"prompt": prompt, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        )
        assert status == 200, status
        data, first = self.buffer, 0.0
        while b"[DONE]\n\n" not in data:
            if not first and b"data: " in data:
                first = time.perf_counter()
            data += self.socket.recv(65536)
        end = time.perf_counter()
        while not data.endswith(b"0\r\n\r\n"):
            data += self.socket.recv(65536)
        self.buffer = b""
        events = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
        text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
        return first - begin, end - first, text, events[-1]["usage"]

    def metric(self, name: str) -> float:
        with socket.create_connection(self.socket.getpeername()) as connection:
            connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        return next(
            (float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"phi_scaffold_{name}")), 0.0
        )


@contextmanager
def served(model: Path, project: Path, *flags: str) -> Iterator[Client]:
    command = [sys.executable, "-m", "phi_scaffold", "serve", "--project", str(project), "--model", str(model)]
    command += ["--port", "0", "--json", "--quiet", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PHI_SCAFFOLD_HANDED_OVER": "1"}
    )
    try:
        assert process.stdout is not None
        client = Client(json.loads(process.stdout.readline())["url"], str(model))
        yield client
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


# -- the plain loop ---------------------------------------------------------------------------------------------------------------


class Plain:
    """ONNX Runtime GenAI as in its examples, with the number of threads that we use."""

    def __init__(self, folder: Path) -> None:
        from phi_runtime.inference.onnx_folder import open_model, runtime

        self.og = og = runtime()
        self.model = open_model(folder)
        self.tokenizer = og.Tokenizer(self.model)
        self.stop_ids = set(self.tokenizer.eos_token_ids)

    def generator(self, ids: Any, capacity: int, batch: int = 1) -> Any:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=capacity, do_sample=False, batch_size=batch)
        generator = self.og.Generator(self.model, parameters)
        generator.append_tokens(ids)
        return generator

    def stream(self, prompt: str, max_tokens: int) -> tuple[float, str, int]:
        """Return the seconds from the first token to the last, the text, and the number of tokens."""
        ids = self.tokenizer.encode(prompt)
        generator = self.generator(ids, len(ids) + max_tokens)
        decoder, text, count, first = self.tokenizer.create_stream(), [], 0, 0.0
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            count += 1
            if token not in self.stop_ids:
                text.append(decoder.decode(token))
            first = first or time.perf_counter()
        return time.perf_counter() - first, "".join(text), count


# -- the parts --------------------------------------------------------------------------------------------------------------------


def stream(model: Path, project: Path, _: float) -> None:
    plain = Plain(model)
    prompt = chat("Write a long story about a fox who wants to cross the river.")
    rates: dict[str, list[float]] = {"plain loop": [], "serve": [], "ratio": []}
    with served(model, project) as client:
        plain.stream(prompt, 64)
        client.stream(prompt, 64)
        for number in range(ROUNDS):
            measured = {}
            for name in ("plain loop", "serve") if number % 2 else ("serve", "plain loop"):
                time.sleep(0.1)  # until the other's threads have stopped spinning
                if name == "serve":
                    _, seconds, served_text, usage = client.stream(prompt, TOKENS)
                    count = usage["completion_tokens"]
                else:
                    seconds, plain_text, count = plain.stream(prompt, TOKENS)
                measured[name] = (count - 1) / seconds
            for name, rate in measured.items():
                rates[name].append(rate)
            rates["ratio"].append(measured["serve"] / measured["plain loop"])
    print(f"decode, tokens/s, {ROUNDS} rounds of {count} tokens in turn; same text: {served_text == plain_text}")
    for name, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"  {name:12} median {middle:8.3f}   quartiles {low:.3f} {high:.3f}   best {max(values):.3f}")


def turns(model: Path, project: Path, _: float) -> None:
    with served(model, project) as client:
        first, fresh, prompt_tokens, cached = [], [], 0, 0
        for number in range(3):
            messages: list[str] = []
            for turn in range(10):
                topic = TOPICS[(turn + number) % len(TOPICS)]
                messages.append(
                    f"Round {number}. Tell me something about a {topic}, and how it was seen by the people of the valley. "
                    * 3
                )
                seconds, _, text, usage = client.stream(chat(*messages), 40)
                messages.append(text)
            first.append(seconds)
            prompt_tokens, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
            # the same length with another beginning, which is in no cache
            fresh.append(client.stream(chat(*messages[:-1], system="They are a helpful assistant."), 40)[0])
    print(f"time to the first token, turn 10 of a chat ({prompt_tokens} tokens, {cached} of them cached), medians of 3")
    print(f"  in the chat {statistics.median(first) * 1000:7.0f} ms")
    print(
        f"  fresh       {statistics.median(fresh) * 1000:7.0f} ms   ratio {statistics.median(first) / statistics.median(fresh):.3f}"
    )


def work(
    server: Client, requests: list[tuple[str, int]], alone: dict[str, str], clients: int, seconds: float
) -> tuple[Counter[str], int]:
    """Run concurrent `clients` for `seconds`, and return counts of statuses and wrong answers, and the tokens."""
    counts: Counter[str] = Counter()
    tokens, lock = [0], threading.Lock()
    until = time.monotonic() + seconds

    def run_client(number: int) -> None:
        rng = random.Random(number)
        peer = server.socket.getpeername()
        client = Client(f"http://{peer[0]}:{peer[1]}/v1", server.model)
        while time.monotonic() < until:
            prompt, length = rng.choice(requests)
            status, text, count = client.complete(prompt, length)
            with lock:
                counts[str(status)] += 1
                if status == 200:
                    tokens[0] += count
                    counts["wrong answers"] += text != alone.get(prompt, text)
            if status == 429:
                time.sleep(min(count, max(until - time.monotonic(), 0)))
        client.close()

    threads = [threading.Thread(target=run_client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts, tokens[0]


def crowd(model: Path, project: Path, seconds: float) -> None:
    requests = [(chat(f"Tell me about a {topic}."), 12 + 2 * number) for number, topic in enumerate(TOPICS)]
    with served(model, project, "--max-queue", "16") as client:
        alone = {prompt: client.complete(prompt, length)[1] for prompt, length in requests}
        work(client, requests, alone, CLIENTS, min(seconds / 4, 10))  # warm-up: memory that grows once has grown
        names = ("models_resident_bytes", "server_resident_bytes")
        start_bytes = [client.metric(name) for name in names]
        started = time.monotonic()
        counts, tokens = work(client, requests, alone, CLIENTS, seconds)
        wall_s = time.monotonic() - started
        time.sleep(1)
        end_bytes = [client.metric(name) for name in names]
        active = client.metric("requests_active")
    print(f"{CLIENTS} clients for {wall_s:.0f} s, --max-queue 16: {dict(counts)}")
    print(f"  {tokens / wall_s:.0f} tokens/s; requests still active: {active:.0f}")
    for name, start, end in zip(names, start_bytes, end_bytes, strict=True):
        print(f"  {name:24} {start / 1e6:7.1f} → {end / 1e6:7.1f} MB")


def parallel(model: Path, project: Path, seconds: float) -> None:
    requests = [(chat(f"Tell me about a {topic}."), 32) for topic in TOPICS]
    print(f"8 clients for {min(seconds, 15):.0f} s each")
    for count in (1, 2, 4, 8):
        with served(model, project, "--parallel", str(count)) as client:
            work(client, requests, {}, 4, 3)
            counts, tokens = work(client, requests, {}, 8, min(seconds, 15))
            print(f"  --parallel {count}: {tokens / min(seconds, 15):6.0f} tokens/s, {counts['200']} answers")


def batch(model: Path, _: Path, __: float) -> None:
    import numpy as np

    plain = Plain(model)
    rows = [np.array(plain.tokenizer.encode(chat(f"Tell me about a {topic}.")), dtype=np.int32) for topic in TOPICS]
    length = Counter(len(row) for row in rows).most_common(1)[0][0]  # rows of one length need no padding
    rows = [row for row in rows if len(row) == length]
    alone: dict[int, list[int]] = {}
    print(f"batches of the runtime, {length} tokens of prompt, 48 of answer")
    for count in (1, 2, 4, 8):
        if count > len(rows):
            break
        best, same, compared = 0.0, 0, 0
        for start in range(0, len(rows) - count + 1, count):
            generator = plain.generator(np.stack(rows[start : start + count]), length + 48, count)
            begin = time.perf_counter()
            while not generator.is_done():
                generator.generate_next_token()
            best = max(best, count * 47 / (time.perf_counter() - begin))
            for index in range(count):
                written = [int(token) for token in generator.get_sequence(index)]
                if count == 1:
                    alone[start] = written
                compared += 1
                same += written == alone[start + index]
        print(f"  batch {count}: {best:6.0f} tokens/s at best; {same} of {compared} answers as without batching")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("seconds", type=float, nargs="?", default=60.0)
    parser.add_argument("parts", nargs="*", metavar="PART", default=PARTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        project = Path(temporary) / "project"
        new = [sys.executable, "-m", "phi_scaffold", "new", str(project), "--yes", "--no-git", "--quiet"]
        subprocess.run(new, check=True, stdout=subprocess.DEVNULL)
        for part in arguments.parts:
            globals()[part](arguments.model.absolute(), project, arguments.seconds)


if __name__ == "__main__":
    main()
