"""One model of a comparison in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.core.errors import OutOfResources, WorkFailed
from phi_runtime.core.events import silent
from phi_runtime.evaluation import worker
from phi_runtime.evaluation.worker import ModelTask, RowTask, load_and_work, measure_speed, work_apart
from phi_runtime.inference.generator import Speed
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.process import python


def test_a_separate_process_answers_as_this_one_does(tiny_phi3: Path, tmp_path: Path) -> None:
    ref = ModelRef(tiny_phi3, "hf", "tiny")
    rows = [RowTask("we won", [3, 4], [[5, 6]]), RowTask(None, [7], [[8]])]
    task = ModelTask("base", ref, rows={"base": rows}, max_new_tokens=3)
    log = tmp_path / "base.log"
    found, expected = work_apart(task, log, silent), load_and_work(task)
    for result, same in zip(found.rows["base"], expected.rows["base"], strict=True):
        assert (result.answer, result.finish) == (same.answer, same.finish)
        assert result.logprobs[0] == pytest.approx(same.logprobs[0])
    assert [bool(result.answer) for result in found.rows["base"]] == [True, False]
    assert found.performance.peak_rss_bytes > 0 < found.performance.load_s
    assert (found.performance.gpu_memory_bytes, found.performance.memory_tokens) == (None, 72)
    assert not log.exists()


def test_a_model_that_cannot_be_loaded_is_named_and_its_log_is_kept(tmp_path: Path) -> None:
    task = ModelTask("merged", ModelRef(tmp_path, "hf", "none"))
    with pytest.raises(WorkFailed, match=r"^the model `merged` failed") as error:
        work_apart(task, tmp_path / "merged.log", silent)
    assert "Traceback" in (tmp_path / "merged.log").read_text(encoding="utf-8")
    assert str(tmp_path / "merged.log") in error.value.fix


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL means too little memory")
def test_a_process_that_is_killed_ran_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(worker, "python", lambda _: [sys.executable, "-c", code])
    with pytest.raises(OutOfResources) as error:
        work_apart(ModelTask("base", ModelRef(tmp_path, "hf", "none")), tmp_path / "base.log", silent)
    assert "`base`" in error.value.what
    assert "`batch_size`" in error.value.fix


def test_the_process_of_an_onnx_model_imports_neither_torch_nor_transformers() -> None:
    code = """
import sys
import phi_runtime.evaluation.worker, phi_runtime.inference.onnx
print(sorted({"torch", "transformers", "peft", "sklearn", "pandas", "datasets"} & set(sys.modules)))"""
    command = [*python("unused")[:2], "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]"


class Runs:
    """Answers in given seconds to the first token, and with given tokens per second, the warm-up first."""

    def __init__(self, *runs: tuple[float, float]) -> None:
        self.runs = iter(runs)
        self.tokens: list[tuple[int, int]] = []

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        self.tokens.append((prompt_tokens, new_tokens))
        return Speed(*next(self.runs))


def test_speed_is_the_median_of_at_most_five_answers_after_a_warm_up_with_their_range() -> None:
    runs = Runs((9.0, 1.0), (0.5, 10.0), (0.25, 14.0), (2.0, 8.0), (0.32, 11.0), (0.4, 12.0))
    assert measure_speed(runs) == {  # type: ignore[arg-type]
        "time_to_first_token_s": 0.4,
        "time_to_first_token_s_range": (0.25, 2.0),
        "prefill_tokens_per_s": 160.0,
        "prefill_tokens_per_s_range": (32.0, 256.0),
        "decode_tokens_per_s": 11.0,
        "decode_tokens_per_s_range": (8.0, 14.0),
    }
    assert runs.tokens == [(64, 2)] + 5 * [(64, 8)]


@pytest.mark.parametrize(
    ("runs", "answers"),
    [
        ([(0.5, 10.0), (0.52, 10.5), (0.51, 11.0)], 3),
        ([(0.5, 10.0), (0.52, 10.5), (0.51, 11.5), (0.51, 10.5)], 5),
        ([(0.7, 10.5), (0.52, 10.5), (0.51, 10.5), (0.52, 10.5)], 5),
    ],
    ids=["narrow", "decoding varies", "the first token varies"],
)
def test_more_than_three_answers_are_measured_while_the_range_of_a_figure_is_wide(
    runs: list[tuple[float, float]], answers: int
) -> None:
    measured = Runs((9.0, 1.0), *runs, (0.5, 10.5))
    measure_speed(measured)  # type: ignore[arg-type]
    assert len(measured.tokens) == 1 + answers
