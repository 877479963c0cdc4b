"""Guides are compiled in a process with limits, while the others go on being answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import openai
import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.inference.generator import Guide
from phi_runtime.serving.guide_check import Failure, GuideCheck
from tests.phi_runtime.serving.conftest import Server, Start

T = TypeVar("T")
# each new digit leads to another of 9,699,690 states: a minute and 2 GB, of which the compilation itself takes nothing
ENDLESS = {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (2, 3, 5, 7, 11, 13, 17, 19)]}
PLAIN: dict[str, Any] = {"model": "onnx", "prompt": "x", "max_tokens": 2}


def schema(value: dict[str, Any]) -> Guide:
    return Guide("json_schema", json.dumps(value))


def guided(number: int) -> dict[str, Any]:
    """A request whose guide is new."""
    return {**PLAIN, "guided_regex": f"[a-z]{{{number}}}"}


def checked(work: Coroutine[Any, Any, T], check: GuideCheck) -> T:
    async def run() -> T:
        try:
            return await work
        finally:
            await check.stop()

    return asyncio.run(run())


@pytest.mark.parametrize("compile_s", [0.5, pytest.param(60.0, marks=pytest.mark.slow)])  # what ends it: time, memory
def test_a_guide_beyond_the_limits_is_refused_and_remembered(project: ProjectFolder, compile_s: float) -> None:
    model = project.gen_model / "onnx"
    check = GuideCheck({}, compile_s)

    async def work() -> tuple[list[Failure | None], list[int | None]]:
        failures, processes = [], []
        for guide in (
            schema({"type": "object"}),
            schema(ENDLESS),
            Guide("regex", "a+"),
            schema(ENDLESS),
            Guide("regex", "(("),
        ):
            failures.append(await check.failure(model, guide))
            processes.append(check._worker.pid if check._worker else None)
        return failures, processes

    failures, processes = checked(work(), check)
    assert [failure and failure["kind"] for failure in failures] == [
        None,
        "InvalidGuide",
        None,
        "InvalidGuide",
        "InvalidGuide",
    ]
    assert failures[1]
    assert f"more than {compile_s:g} s or 256 MB" in failures[1]["message"]
    assert failures[4]
    assert failures[4]["message"].startswith("unsupported regular expression")
    first, ended, second, *others = processes
    assert (ended, others) == (None, [second, second])
    assert first != second


@pytest.mark.parametrize(("length", "kinds"), [(10**9, [None]), (10**20, ["InvalidGuide"])])
def test_a_length_is_not_expanded(project: ProjectFolder, length: int, kinds: list[str | None]) -> None:
    check = GuideCheck({})
    failure = check.failure(project.gen_model / "onnx", schema({"type": "string", "maxLength": length}))
    assert [found and found["kind"] for found in [checked(failure, check)]] == kinds


def test_a_process_that_was_killed_is_started_again(project: ProjectFolder) -> None:
    model = project.gen_model / "onnx"
    check = GuideCheck({})

    async def work() -> list[Failure | None]:
        failures = [await check.failure(model, Guide("regex", "a"))]
        assert check._worker
        check._worker.process.kill()
        check._worker.process.wait()
        return [*failures, await check.failure(model, Guide("regex", "b"))]

    assert checked(work(), check) == [None, None]


def test_a_guide_is_compiled_once_even_if_its_client_leaves(project: ProjectFolder) -> None:
    model, guide = project.gen_model / "onnx", Guide("regex", "a")
    check = GuideCheck({})

    async def work() -> tuple[Failure | None, bool]:
        first = asyncio.create_task(check.failure(model, guide))
        while check._running is None:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([check._running])
        await check.stop()
        return await check.failure(model, guide), check._worker is None  # no process was started for it

    assert checked(work(), check) == (None, True)


def test_one_client_has_its_guide_compiled_and_the_others_are_answered(server: Server) -> None:
    assert server.post("/completions", json=guided(1)).status_code == 200
    with ThreadPoolExecutor(1) as pool:
        with server.frozen(server.guides()):
            waiting = pool.submit(server.post, "/completions", json=guided(2))
            server.until(lambda: server.metric("requests_active") == 1)
            assert server.client.completions.create(**PLAIN).id
            assert not waiting.done()
        assert waiting.result().status_code == 200


def test_a_client_that_leaves_and_the_time_limit_end_the_wait_for_a_guide(start: Start) -> None:
    server = start("--timeout", "1")
    while server.post("/completions", json=guided(1)).status_code == 504:  # until the process has started
        pass
    with server.frozen(server.guides()):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/completions", json=guided(2), timeout=0.3)
        server.until(lambda: server.metric("requests_active") == 0)
        assert server.metric('requests_total{status="499"}') == 1
        with pytest.raises(openai.InternalServerError) as caught:
            server.client.completions.create(**PLAIN, extra_body={"guided_regex": "[a-z]{3}"})
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert server.metric("requests_active") == 0
