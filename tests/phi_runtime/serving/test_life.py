"""Limits, cancellation and the end: what a server does when there is too much, or the client is gone, or it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import Stream
from openai.types import Completion

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.inference.generator import Guide, SamplingParams
from phi_runtime.serving.engine import Engine, State
from phi_runtime.serving.metrics import prometheus_text
from phi_runtime.serving.wire import GenerationRequest, LoadRequest, Part
from tests.phi_runtime.serving.conftest import LONG, Server, Start

LENGTHY: dict[str, Any] = {"model": "onnx", "prompt": "sunny", "max_tokens": 400, "extra_body": {"guided_regex": LONG}}
# 64 answers, which take seconds
MANY: dict[str, Any] = {**LENGTHY, "prompt": ["sunny"] * 8, "n": 8, "temperature": 1}


def begun(server: Server) -> Stream[Completion]:
    """A stream of many answers, of which the first part has come."""
    stream: Stream[Completion] = server.client.completions.create(**MANY, stream=True)
    next(iter(stream))
    return stream


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_a_client_that_goes_away_frees_its_place_and_nothing_of_it_is_left(start: Start) -> None:
    server = start("--parallel", "2", "--max-queue", "2")
    worker = server.worker()

    def cancel(count: int) -> None:
        for number in range(count):
            if number % 3:
                stream = begun(server)
                with server.frozen():
                    stream.close()
                    server.until(lambda: server.metric("requests_active") == 0)
            else:  # not streaming, and with answers that wait: the client gives up
                impatient = server.client.with_options(timeout=0.1)
                with server.frozen(), pytest.raises(openai.APITimeoutError):
                    impatient.completions.create(**MANY)
                server.until(lambda: server.metric("requests_active") == 0)

    cancel(9)
    before = threads(worker), threads(server.process.pid)
    memory = resident(worker)
    cancel(36)
    assert (threads(worker), threads(server.process.pid)) == before
    assert resident(worker) - memory < 40_000  # kB; each of the answers had its own cache
    whole = server.client.completions.create(**LENGTHY)
    assert len(whole.choices[0].text) == 300
    assert server.metric('requests_total{status="499"}') >= 30
    assert server.metric("requests_active") == 0


def test_more_than_the_queue_holds_is_refused_with_the_time_to_come_again(start: Start) -> None:
    server = start("--parallel", "1", "--max-queue", "1")
    arguments: dict[str, Any] = {"model": "onnx", "prompt": "x", "max_tokens": 2}
    with ThreadPoolExecutor(6) as pool:
        with server.frozen():
            taken = [pool.submit(server.client.completions.create, **arguments) for _ in range(2)]
            server.until(lambda: server.metric("requests_active") == 2)
            with pytest.raises(openai.RateLimitError) as caught:
                server.client.completions.create(**arguments)
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert caught.value.code == "queue_full"
            assert server.get("/health").status_code == 200
        assert all(each.result().id for each in taken)
        patient = server.client.with_options(max_retries=8)
        assert all(pool.map(lambda _: patient.completions.create(**arguments).id, range(6)))
    assert server.metric("refused_total") >= 1


def test_a_request_that_takes_too_long_is_ended(start: Start) -> None:
    server = start("--timeout", "1")
    with server.frozen(), pytest.raises(openai.InternalServerError) as caught:
        server.client.completions.create(**LENGTHY)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert caught.value.response.headers["x-should-retry"] == "false"
    stream = begun(server)
    with server.frozen(), pytest.raises(openai.APIError, match="longer than 1 s"):
        list(stream)  # after the first parts an error is an event of the stream
    assert server.metric("requests_active") == 0
    assert server.client.completions.create(model="onnx", prompt="x", max_tokens=2).id


def test_a_quiet_stop_lets_answers_end_and_takes_nothing_new(start: Start) -> None:
    server = start()
    stream = begun(server)
    with server.frozen():
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health").status_code == 503)
        with pytest.raises(openai.InternalServerError) as caught:
            server.client.completions.create(model="onnx", prompt="x")
        assert (caught.value.status_code, caught.value.code) == (503, "stopping")
    ends = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert len(ends) == 64
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_ctrl_c_ends_with_its_own_code_and_a_second_one_does_not_wait(start: Start) -> None:
    server = start()
    assert server.stop(signal.SIGINT) == 130
    assert "Traceback" not in server.log.read_text()

    server = start()
    worker = server.worker()
    stream = begun(server)
    with server.frozen():
        server.process.send_signal(signal.SIGINT)
        server.until(lambda: server.get("/health").status_code == 503)
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="stopping"):
            list(stream)
        assert server.process.wait(60) == 130
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_model_process_that_is_killed_is_started_again(start: Start) -> None:
    server = start()
    stream = begun(server)
    os.kill(server.worker(), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="ended before the answer"):
        list(stream)
    server.until(
        lambda: server.get("/health").status_code == 200 and "loading the models again" in server.log.read_text()
    )
    assert "SIGKILL" in server.log.read_text()
    server.until(lambda: server.get("/v1/models").status_code == 200)
    assert len(server.client.completions.create(**LENGTHY).choices[0].text) == 300


def test_nothing_is_accepted_between_the_death_of_a_worker_and_the_next_one(project: ProjectFolder) -> None:
    states: list[State] = []

    async def run() -> None:
        ready, failed = asyncio.Event(), asyncio.Event()

        def receive(part: Part) -> None:
            if "failure" in part:
                states.append(engine.state)
                failed.set()

        engine = Engine(LoadRequest(project, Overrides(), ["onnx"]), silent, ready.set)
        running = asyncio.create_task(engine.run())
        await ready.wait()
        sampling = SamplingParams(400, guide=Guide("regex", LONG))
        engine.submit(GenerationRequest(0, "onnx", None, None, "sunny", sampling, True), receive)
        assert engine.pid
        os.kill(engine.pid, signal.SIGKILL)
        await failed.wait()
        engine.stop()
        await running

    asyncio.run(asyncio.wait_for(run(), 120))
    assert states == ["loading"]


def test_the_worker_does_not_outlive_a_server_that_is_killed(start: Start) -> None:
    server = start()
    worker = server.worker()
    server.process.kill()
    server.process.wait()
    for _ in range(600):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_counts_have_all_their_digits() -> None:
    counts = {"prompt_tokens_total": 1_234_567, 'requests_total{status="200"}': 2, "request_seconds_sum": 123456.789}
    lines = prometheus_text(counts, {"requests_active": ("Requests running or waiting.", 3)}).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        'phi_scaffold_requests_total{status="200"} 2',
        "phi_scaffold_prompt_tokens_total 1234567",
        "phi_scaffold_request_seconds_sum 123456.789",
        "phi_scaffold_requests_active 3",
    ]


def test_what_was_answered_is_counted(start: Start) -> None:
    server = start()
    usage = server.client.completions.create(model="onnx", prompt="sunny song", max_tokens=4).usage
    assert usage is not None
    assert server.metric("completion_tokens_total") == usage.completion_tokens
    assert server.metric("prompt_tokens_total") == usage.prompt_tokens
    assert server.metric('requests_total{status="200"}') == 1
    text = server.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE phi_scaffold_requests_total counter" in text.text
    server.stop()
    assert f"200  onnx  {usage.prompt_tokens} tokens" in server.log.read_text()
