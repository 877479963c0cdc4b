"""What `phi-scaffold serve` costs and keeps: an ONNX model through it, beside the plain loop of ONNX Runtime GenAI in this process.

    python bench/serve.py ONNX_FOLDER [SECONDS [PART …]]

PARTS: stream (decode speed of a stream, as a client sees it, beside the plain loop), turns (time to the first token of the tenth turn
of a long chat beside a fresh start), crowd (32 clients for SECONDS: answers, refusals, memory, and whether each answer is the one
given alone), parallel (throughput by --parallel), batch (what batches of the runtime would bring, and whether they keep the answers).
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
    """ChatML: the user's turns and the assistant's by turns, up to where the assistant is to speak."""
    said = f"<|im_start|>system\n{system}<|im_end|>\n"
    for role, text in zip(itertools.cycle(("user", "assistant")), turns, strict=False):
        said += f"<|im_start|>{role}\n{text}<|im_end|>\n"
    return said + "<|im_start|>assistant\n"


# -- a client that costs little ---------------------------------------------------------------------------------------------------


class Client:
    """One connection, and nothing that a client does beyond the protocol."""

    def __init__(self, url: str, model: str) -> None:
        self.host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
        self.model = model
        self.socket = socket.create_connection((self.host, int(port)))
        self.rest = b""

    def close(self) -> None:
        self.socket.close()

    def _ask(self, body: dict[str, Any]) -> int:
        raw = json.dumps({"model": self.model, "temperature": 0, **body}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.socket.recv(65536)
        self.headers, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return int(self.headers.split(b" ", 2)[1])

    def whole(self, prompt: str, max_tokens: int) -> tuple[int, str, int]:
        """Status, text and tokens of an answer."""
        status = self._ask({"prompt": prompt, "max_tokens": max_tokens})
        fields = dict(line.lower().split(b": ", 1) for line in self.headers.split(b"\r\n")[1:])
        while len(self.rest) < int(fields[b"content-length"]):
            self.rest += self.socket.recv(65536)
        answer, self.rest = json.loads(self.rest), b""
        if status != 200:
            return status, "", int(fields.get(b"retry-after", 1))
        return status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

    def stream(self, prompt: str, max_tokens: int) -> tuple[float, float, str, dict[str, Any]]:
        """Seconds to the first event, seconds from there to the end of the answer, its text and its usage."""
        begin = time.perf_counter()
        status = self._ask(
            {"prompt": prompt, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        )
        assert status == 200, status
        got, first = self.rest, 0.0
        while b"[DONE]\n\n" not in got:
            if not first and b"data: " in got:
                first = time.perf_counter()
            got += self.socket.recv(65536)
        end = time.perf_counter()
        while not got.endswith(b"0\r\n\r\n"):
            got += self.socket.recv(65536)
        self.rest = b""
        events = [json.loads(line[6:]) for line in got.split(b"\n") if line.startswith(b"data: {")]
        text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
        return first - begin, end - first, text, events[-1]["usage"]

    def metric(self, name: str) -> float:
        with socket.create_connection(self.socket.getpeername()) as one:
            one.sendall(f"GET /metrics HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            got = b"".join(iter(lambda: one.recv(65536), b"")).decode()
        return next(
            (float(line.split()[-1]) for line in got.splitlines() if line.startswith(f"phi_scaffold_{name}")), 0.0
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
    """ONNX Runtime GenAI as its examples use it, with the threads that we give it too."""

    def __init__(self, folder: Path) -> None:
        from phi_runtime.inference.onnx import open_model, runtime

        self.og = og = runtime()
        self.model = open_model(folder)
        self.tokenizer = og.Tokenizer(self.model)
        self.ends = set(self.tokenizer.eos_token_ids)

    def generator(self, ids: Any, room: int, batch: int = 1) -> Any:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=room, do_sample=False, batch_size=batch)
        generator = self.og.Generator(self.model, parameters)
        generator.append_tokens(ids)
        return generator

    def stream(self, prompt: str, max_tokens: int) -> tuple[float, str, int]:
        """Seconds from the first token to the last, the text, and the tokens."""
        ids = self.tokenizer.encode(prompt)
        generator = self.generator(ids, len(ids) + max_tokens)
        decoder, text, count, first = self.tokenizer.create_stream(), [], 0, 0.0
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            count += 1
            if token not in self.ends:
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
                time.sleep(0.1)  # until the threads of the other have ended their wait for work
                if name == "serve":
                    _, seconds, told, usage = client.stream(prompt, TOKENS)
                    count = usage["completion_tokens"]
                else:
                    seconds, said, count = plain.stream(prompt, TOKENS)
                measured[name] = (count - 1) / seconds
            for name, rate in measured.items():
                rates[name].append(rate)
            rates["ratio"].append(measured["serve"] / measured["plain loop"])
    print(f"decode, tokens/s, {ROUNDS} rounds of {count} tokens in turn; same text: {told == said}")
    for name, found in rates.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"  {name:12} median {middle:8.3f}   quartiles {low:.3f} {high:.3f}   best {max(found):.3f}")


def turns(model: Path, project: Path, _: float) -> None:
    with served(model, project) as client:
        first, fresh, prompt_tokens, cached = [], [], 0, 0
        for number in range(3):
            said: list[str] = []
            for turn in range(10):
                topic = TOPICS[(turn + number) % len(TOPICS)]
                said.append(
                    f"Round {number}. Tell me something about a {topic}, and how it was seen by the people of the valley. "
                    * 3
                )
                seconds, _, text, usage = client.stream(chat(*said), 40)
                said.append(text)
            first.append(seconds)
            prompt_tokens, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
            # the same length from another beginning, which no cache holds
            fresh.append(client.stream(chat(*said[:-1], system="They are a helpful assistant."), 40)[0])
    print(f"time to the first token, turn 10 of a chat ({prompt_tokens} tokens, {cached} of them cached), medians of 3")
    print(f"  in the chat {statistics.median(first) * 1000:7.0f} ms")
    print(
        f"  fresh       {statistics.median(fresh) * 1000:7.0f} ms   ratio {statistics.median(first) / statistics.median(fresh):.3f}"
    )


def work(
    url_of: Client, asked: list[tuple[str, int]], alone: dict[str, str], clients: int, seconds: float
) -> tuple[Counter[str], int]:
    """What `clients` at once see in `seconds`: statuses, wrong answers, and tokens."""
    counts: Counter[str] = Counter()
    tokens, lock = [0], threading.Lock()
    until = time.monotonic() + seconds

    def one(number: int) -> None:
        chosen = random.Random(number)
        peer = url_of.socket.getpeername()
        client = Client(f"http://{peer[0]}:{peer[1]}/v1", url_of.model)
        while time.monotonic() < until:
            prompt, length = chosen.choice(asked)
            status, text, count = client.whole(prompt, length)
            with lock:
                counts[str(status)] += 1
                if status == 200:
                    tokens[0] += count
                    counts["other than alone"] += text != alone.get(prompt, text)
            if status == 429:
                time.sleep(min(count, max(until - time.monotonic(), 0)))
        client.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts, tokens[0]


def crowd(model: Path, project: Path, seconds: float) -> None:
    asked = [(chat(f"Tell me about a {topic}."), 12 + 2 * number) for number, topic in enumerate(TOPICS)]
    with served(model, project, "--max-queue", "16") as client:
        alone = {prompt: client.whole(prompt, length)[1] for prompt, length in asked}
        work(client, asked, alone, CLIENTS, min(seconds / 4, 10))  # what grows once has grown
        names = ("models_resident_bytes", "server_resident_bytes")
        before = [client.metric(name) for name in names]
        started = time.monotonic()
        counts, tokens = work(client, asked, alone, CLIENTS, seconds)
        wall_s = time.monotonic() - started
        time.sleep(1)
        after = [client.metric(name) for name in names]
        left = client.metric("requests_active")
    print(f"{CLIENTS} clients for {wall_s:.0f} s, --max-queue 16: {dict(counts)}")
    print(f"  {tokens / wall_s:.0f} tokens/s; still active after it: {left:.0f}")
    for name, was, now in zip(names, before, after, strict=True):
        print(f"  {name:24} {was / 1e6:7.1f} → {now / 1e6:7.1f} MB")


def parallel(model: Path, project: Path, seconds: float) -> None:
    asked = [(chat(f"Tell me about a {topic}."), 32) for topic in TOPICS]
    print(f"8 clients for {min(seconds, 15):.0f} s each")
    for count in (1, 2, 4, 8):
        with served(model, project, "--parallel", str(count)) as client:
            work(client, asked, {}, 4, 3)
            counts, tokens = work(client, asked, {}, 8, min(seconds, 15))
            print(f"  --parallel {count}: {tokens / min(seconds, 15):6.0f} tokens/s, {counts['200']} answers")


def batch(model: Path, _: Path, __: float) -> None:
    import numpy as np

    plain = Plain(model)
    rows = [np.array(plain.tokenizer.encode(chat(f"Tell me about a {topic}.")), dtype=np.int32) for topic in TOPICS]
    length = Counter(len(row) for row in rows).most_common(1)[0][0]  # of one length, so that nothing is padded
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
            for place in range(count):
                written = [int(token) for token in generator.get_sequence(place)]
                if count == 1:
                    alone[start] = written
                compared += 1
                same += written == alone[start + place]
        print(f"  batch {count}: {best:6.0f} tokens/s at best; {same} of {compared} answers as alone")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("seconds", type=float, nargs="?", default=60.0)
    arguments.add_argument("parts", nargs="*", metavar="PART", default=PARTS)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        project = Path(temporary) / "project"
        new = [sys.executable, "-m", "phi_scaffold", "new", str(project), "--yes", "--no-git", "--quiet"]
        subprocess.run(new, check=True, stdout=subprocess.DEVNULL)
        for part in given.parts:
            globals()[part](given.model.absolute(), project, given.seconds)


if __name__ == "__main__":
    main()
