"""How a run looks while it goes on, on a terminal and in a pipe, and what is said of it at its end."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.markup import escape

from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.units import duration
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.evaluation.summary import summarize
from phi_runtime.pipeline.engine import Outcome
from phi_runtime.pipeline.stage import Stage
from phi_runtime.report.verdict import Verdict
from phi_runtime.training.diagnosis import Diagnosis
from phi_scaffold.cli.options import Flags
from phi_scaffold.show import optimize as show_optimize
from phi_scaffold.show import run as show
from phi_scaffold.show import verdict as show_verdict
from phi_scaffold.show.progress import bar_with_figures, display, figures, in_lines, shortened
from phi_scaffold.show.sparkline import sparkline
from tests.conftest import Cli

STEP = {
    "done": 120,
    "total": 500,
    "unit": "steps",
    "loss": 0.4213,
    "validation_loss": 0.5,
    "validation_step": 60,
    "learning_rate": 1.9e-4,
    "tokens_per_s": 12345.6,
    "rss_bytes": 1_630_000_000,
    "cpu_share": 0.97,
    "remaining_s": 200.0,
}
DIAGNOSIS = Diagnosis(
    "overfitting",
    "validation loss 0.42 at step 80, 0.61 at the end",
    "training_args.num_train_epochs",
    "num_train_epochs 3 → 1",
)
EVENTS = [
    Event("stage-started", "finetune", {"index": 2, "count": 5}),
    Event("metric", "finetune", {"sequences": 480, "rows": 480, "tokens": 12000, "trained_tokens": 900}),
    Event("progress", "finetune", {"done": None, "total": None, "unit": "", "message": "rows are packed"}),
    Event("warning", "finetune", {"message": "3 [rows] are empty"}),
    Event("progress", "finetune", STEP),
    Event("metric", "finetune", {"diagnosis": [DIAGNOSIS.as_dict()]}),
    Event("stage-finished", "finetune", {"state": "done", "output": "gen-model/adapter", "wall_s": 83.0}),
]


class Terminal(io.StringIO):
    """Takes what is drawn, and says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int, events: Sequence[Event], display: Callable[..., Any] = display
) -> list[str]:
    """The lines that a terminal of that width was sent, without colors: after each message the bar is drawn below it."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    with display(quiet=False) as emit:
        for event in events:
            emit(event)
    moved = re.sub(r"\r|\x1b\[[0-9]*[AK]", "\n", terminal.getvalue())  # to another line, or back on this one
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", moved).splitlines()


def piped(
    capsys: pytest.CaptureFixture[str], events: Sequence[Event], display: Callable[..., Any] = display
) -> list[str]:
    """The lines that a pipe was sent."""
    with display(quiet=False) as emit:
        for event in events:
            emit(event)
    return capsys.readouterr().err.splitlines()


# -- the figures ------------------------------------------------------------------------------------------------------------


def test_a_step_is_said_with_all_that_it_measured() -> None:
    assert figures(STEP) == [
        "loss 0.421",
        "validation loss 0.500 (step 60)",
        "learning rate 1.9e-4",
        "12,346 tokens/s",
        "memory 1.6 GB",
        "cores 97 %",
        "3 min 20 s left",
    ]


def test_on_a_gpu_its_memory_and_its_use_are_meant() -> None:
    said = figures({**STEP, "gpu_memory_bytes": 41_200_000_000, "gpu_share": 0.88})
    assert "memory 41.2 GB" in said
    assert "GPU 88 %" in said
    assert "cores 97 %" not in said


def test_steps_that_were_skipped_are_counted_and_what_is_not_known_is_left_out() -> None:
    assert figures({"loss": 1.0, "skipped_steps": 2.0, "validation_loss": None}) == ["loss 1.000", "2 steps skipped"]
    assert figures({"skipped_steps": 0, "remaining_s": 0.0}) == []


@pytest.mark.parametrize(("seconds", "said"), [(4.25, "4.2 s"), (80, "1 min 20 s"), (7530, "2 h 5 min")])
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_no_figure_is_cut_in_two() -> None:
    assert in_lines(["loss 0.421", "validation loss 0.500", "1,234 tokens/s"], 35) == [
        "  loss 0.421, validation loss 0.500",
        "  1,234 tokens/s",
    ]
    assert in_lines(["longer than there is room"], 8) == ["  longer than there is room"]


# -- while it goes on ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    place = "[2/5] finetune: "
    assert piped(capsys, EVENTS) == [
        f"{place}480 rows in 480 sequences of 12,000 tokens, 900 of them trained",
        f"{place}rows are packed",
        "warning: finetune: 3 [rows] are empty",
        f"{place}overfitting: validation loss 0.42 at step 80, 0.61 at the end",
        f"{place}done in 1 min 23 s → gen-model/adapter",
    ]  # the step came too soon after the line before it


def test_the_first_step_of_a_stage_is_a_line_and_those_close_after_it_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = Event("progress", "finetune", STEP)
    (line,) = piped(capsys, [EVENTS[0], step, step, step])
    assert line == (
        "[2/5] finetune: 120/500 steps, loss 0.421, validation loss 0.500 (step 60), learning rate 1.9e-4, 12,346 tokens/s, "
        "memory 1.6 GB, cores 97 %, 3 min 20 s left"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_line_for_what_is_said_and_done(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = on_a_terminal(monkeypatch, width, EVENTS)
    assert all(len(line) <= width for line in lines)
    for said in (
        "  finetune: 480 rows in 480 sequences of 12,000 tokens, 900 of them trained",
        "  finetune: rows are packed",
        "warning: finetune: 3 [rows] are empty",
        "! finetune: overfitting: validation loss 0.42 at step 80, 0.61 at the end",
        "✓ finetune: done in 1 min 23 s → gen-model/adapter",
    ):
        assert said in lines


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["finetune", "finetune-" + "x" * 90])
def test_the_bar_fits_its_line_and_has_the_figures_below(width: int, name: str) -> None:
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress, below = bar_with_figures(terminal)
    place = shortened(f"[2/5] {name}", width)
    progress.add_task(escape(place), total=50_000, completed=12_000, done="12000/50000 steps")
    below[:] = figures(STEP)
    terminal.print(progress.get_renderable())
    bar, *lines = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(rf" {re.escape(place)} ━+╸? +12000/50000 steps \d+:\d\d:\d\d$", bar)
    assert len(bar) <= width
    assert lines == in_lines(figures(STEP), width - 2)


def losses(*values: float) -> list[Event]:
    """A log entry and a step for each of `values`."""
    return [
        event
        for value in values
        for event in (
            Event("metric", "finetune", {"loss": value}),
            Event("progress", "finetune", {**STEP, "loss": value}),
        )
    ]


def test_a_terminal_shows_the_curve_of_the_loss_of_its_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Event("stage-started", "finetune-2", {"index": 3, "count": 5})
    events = [EVENTS[0], *losses(8, 4, 2, 1), EVENTS[-1], other, *losses(1, 2)]
    drawn = on_a_terminal(monkeypatch, 120, [*events, EVENTS[3]])  # the warning draws the bar again
    (line,) = {line.strip().split(",")[0] for line in drawn if "▁█" in line}
    assert line == "▁█"
    assert not any("█" in line for line in piped(capsys, events))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([8, 7, 6, 5, 4, 3, 2, 1], "█▇▆▅▄▃▂▁"),
        ([1000, 100, 10, 1], "█▆▃▁"),  # on a logarithmic scale
        ([0, 4, 4, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "▃▆█▁▁▁▁▁"),  # means of two
        ([2, 2, 2], "▁▁▁"),
        ([1, float("nan"), 2], "▁█"),
        ([1], ""),
        ([], ""),
    ],
)
def test_a_curve_of_text_is_as_high_as_its_values(values: list[float], line: str) -> None:
    assert sparkline(values, 8) == line


def test_the_status_shows_the_losses_of_a_finished_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entries = [{"step": step, "loss": loss} for step, loss in ((5, 4.0), (10, 2.0), (15, 1.0))]
    entries.append({"step": 15, "eval_loss": 1.25})
    (tmp_path / "loss_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    stages = [Stage("finetune", "LoRA", tmp_path, "cached"), Stage("merge", "Merge", tmp_path / "merged", "cached")]
    project = ProjectFolder(tmp_path, tmp_path / "fine-tuning" / "olive-config.json")
    expected = "finetune: loss 4 → 1 █▃▁, validation loss 1.25 (step 15)"
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", terminal)
        show.status(stages, project, as_json=False, quiet=False)
    assert expected in terminal.getvalue().splitlines()
    show.status(stages, project, as_json=False, quiet=False)
    assert "█" not in capsys.readouterr().out


FIGURES = {"size_mb": 86.3, "accuracy_drop": None, "decode_tokens_per_s": 80.2, "peak_memory_mb": 300.0}
SEARCH = [
    Event("stage-started", "merged", {"index": 0, "count": 2, "options": {}}),
    Event("stage-finished", "merged", {"state": "done", "result": {}, "output": "", "wall_s": 4.0}),
    Event("stage-started", "int4", {"index": 1, "count": 2, "options": {"precision": "int4"}}),
    Event("progress", "int4", {"done": None, "total": None, "unit": "", "message": "building"}),
    Event(
        "stage-finished",
        "int4",
        {
            "state": "measured",
            "result": {"state": "measured", **FIGURES},
            "wall_s": 80.0,
            "meets_constraints": True,
            "violations": [],
        },
    ),
    Event("stage-started", "int8", {"index": 2, "count": 2, "options": {"precision": "int8"}}),
    Event(
        "stage-finished",
        "int8",
        {
            "state": "failed",
            "result": {"state": "failed", "why": "no [memory]", **dict.fromkeys(FIGURES)},
            "wall_s": 1.0,
            "meets_constraints": False,
            "violations": [],
        },
    ),
]


def test_a_search_for_options_is_shown_as_a_run_with_its_options_and_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    met = "meets the constraints (86.3 MB, 80 tokens/s, 300 MB of memory) in 1 min 20 s"
    assert piped(capsys, SEARCH, show_optimize.display) == [
        "merged: done in 4.0 s",
        "[1/2] int4: precision=int4",
        "[1/2] int4: building",
        f"[1/2] int4: {met}",
        "[2/2] int8: precision=int8",
        "[2/2] int8: failed: no [memory] in 1.0 s",
    ]
    lines = on_a_terminal(monkeypatch, 120, SEARCH, show_optimize.display)
    assert [line for line in lines if line[:2] in ("✓ ", "! ")] == [
        "✓ merged: done in 4.0 s",
        f"✓ int4: {met}",
        "! int8: failed: no [memory] in 1.0 s",
    ]


def test_a_long_name_is_cut_and_a_usual_one_is_not() -> None:
    assert shortened("[2/5] finetune-tones-of-voice", 80) == "[2/5] finetune-tones-of-voice"
    assert shortened("[2/5] " + "x" * 90, 80).endswith("xx…")


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_library_prints_is_not_taken_for_a_result(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    with display(as_json=as_json, quiet=False) as emit:
        print("* a library says hello")
        emit(EVENTS[0])
    printed = capsys.readouterr()
    assert "hello" in printed.err
    assert [json.loads(line)["event"] for line in printed.out.splitlines()] == (["stage-started"] if as_json else [])


def test_quiet_says_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with display(as_json=False, quiet=True) as emit:
        for event in EVENTS:
            emit(event)
    assert capsys.readouterr() == ("", "warning: finetune: 3 [rows] are empty\n")


# -- at its end ---------------------------------------------------------------------------------------------------------------


def a_comparison(tuned: float, rows: int = 100, baselines: tuple[str, ...] = ()) -> dict[str, Any]:
    """A base with half of its answers right, the first ones, and an adapter with the share `tuned`."""
    right = {"majority label": 0.3, "base": 0.5, "adapter": tuned}
    names = [name for name in right if name in ("base", "adapter", *baselines)]

    def measured(name: str, row: int) -> Measured:
        answer = "yes" if row < right[name] * rows else "no"
        return Measured(answer) if name in baselines else Measured(answer, {}, 0.5, 1)

    results = [RowResult("a.jsonl", i, "?", "yes", {name: measured(name, i) for name in names}) for i in range(rows)]
    speed = {"prefill_tokens_per_s": 1.0, "decode_tokens_per_s": 12.2, "decode_tokens_per_s_range": [11.4, 12.9]}
    figures_ = {**speed, "size_bytes": 8_700_000, "peak_rss_bytes": 1_000_000_000, "gpu_memory_bytes": None}
    base_bytes = {"adapter": 542_000_000}
    summaries = [
        summary | figures_ | {"base_bytes": base_bytes.get(summary["name"])}
        for summary in summarize("classification", results)
    ]
    return {
        "name": "finetune",
        "task": "classification",
        "rows": rows,
        "rows_of": "test",
        "total_rows": 1402,
        "baselines": [summary for summary in summaries if summary["name"] in baselines],
        "models": [summary for summary in summaries if summary["name"] not in baselines],
    }


def test_the_comparison_has_baselines_intervals_and_differences_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    show.comparisons({"trainings": [a_comparison(0.9, baselines=("majority label",))]})
    out = capsys.readouterr().out
    assert "100 of 1,402 test rows" in out
    cells = {line.split("  ")[0].strip(): line.split() for line in out.splitlines() if "%" in line}
    assert cells["majority label"][2:] == ["30.0", "%", "21.9–39.6"]
    assert " ".join(cells["adapter"][1:]) == "90.0 % 82.6–94.5 0.50 12 (11–13) 8.7 MB + base 1.0 GB"
    assert "adapter, compared with base: better (0 rows lost, 40 gained)" in out
    show.comparisons({"trainings": [a_comparison(0.52)]})
    assert (
        "adapter, compared with base: no difference seen in 100 rows (0 rows lost, 2 gained; about 391 rows would show 2 points)"
        in capsys.readouterr().out
    )


OVERFITTED = replace(
    DIAGNOSIS, setting="passes.finetune.training_args.num_train_epochs", file="fine-tuning/olive-config.json"
)
VERDICT = Verdict(
    "not ready",
    "Not ready, overfitting: 40 of 100 right (31–50 %); base model 50 %",
    "not ready: …",
    (OVERFITTED, *(replace(OVERFITTED, problem=p, file="", setting="", value=None) for p in ("plateau", "memory"))),
    ("phi-scaffold data check",),
)


def ending(capsys: pytest.CaptureFixture[str], project: Path, judged: dict[str, Verdict]) -> list[str]:
    result = Outcome(("finetune",), (), {"trainings": [a_comparison(0.4)]}, project / "gen-model" / "runs" / "1")
    show.outcome(result, ProjectFolder(project, project / "fine-tuning" / "olive-config.json"), judged)
    lines = capsys.readouterr().out.splitlines()
    return lines[lines.index("Done: finetune. The record of the run is in gen-model/runs/1") + 1 :]


def test_a_run_ends_with_its_verdict_the_findings_and_the_next_commands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    others = [replace(OVERFITTED, problem="slow training")]
    many = replace(VERDICT, findings=(*VERDICT.findings, *others))
    assert ending(capsys, tmp_path, {"finetune": many}) == [
        "",
        "Not ready, overfitting: 40 of 100 right (31–50 %); base model 50 %",
        "! overfitting",
        "    validation loss 0.42 at step 80, 0.61 at the end",
        "    try num_train_epochs 3 → 1",
        "    passes.finetune.training_args.num_train_epochs in fine-tuning/olive-config.json",
        "! plateau",
        "    validation loss 0.42 at step 80, 0.61 at the end",
        "    num_train_epochs 3 → 1",
        "! memory",
        "    validation loss 0.42 at step 80, 0.61 at the end",
        "    num_train_epochs 3 → 1",
        "next: phi-scaffold data check",
    ]


def test_a_run_of_several_trainings_has_a_verdict_on_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = Verdict("ready", "Ready to try: 9 of 9 right", "")
    lines = ending(capsys, tmp_path, {"tone": good, "style": VERDICT})
    assert lines[:3] == ["", "tone: Ready to try: 9 of 9 right", ""]
    assert lines[3].startswith("style: Not ready, overfitting: ")


def test_labels_in_a_finding_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    finding = replace(OVERFITTED, evidence="all rows have the label `\x1b[2Jjoy\u202e`")
    (line,) = (text for text in ending(capsys, tmp_path, {"a": replace(VERDICT, findings=(finding,))}) if "joy" in text)
    assert line == "    all rows have the label `␛[2Jjoy\\u{202e}`"


def test_a_run_that_trains_nothing_has_no_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ending(capsys, tmp_path, {}) == []


def test_long_advice_is_indented_and_folded_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "42")
    show_verdict.verdicts({"finetune": replace(VERDICT, findings=(OVERFITTED,), commands=())})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert lines[lines.index("! overfitting") :] == [
        "! overfitting",
        "    validation loss 0.42 at step 80, 0.61",
        "    at the end",
        "    try num_train_epochs 3 → 1",
        "    passes.finetune.training_args.num_train_epochs",
        "    in fine-tuning/olive-config.json",
    ]


NEXT = ("chat", "serve", "data check", "optimize", "report --open", "evaluate", "run")


@pytest.mark.parametrize("command", NEXT)
def test_a_next_command_takes_the_flags_that_named_the_project(cli: Cli, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "my p"
    flags = Flags(
        project_folder=folder, config=folder / "c.json", task_name="tone", settings=["passes.finetune.r=4"]
    ).repeated()
    words = shlex.split(f"{command} {flags}")
    assert words[-8:] == [
        *("--project", str(folder), "--config", str(folder / "c.json")),
        *("--task-name", "tone", "--set", "passes.finetune.r=4"),
    ]
    assert cli(*words, "--help").code == 0
    assert cli(*words, "--no-such-flag", "--help").code == 2


def test_the_next_commands_are_at_most_three_and_name_the_project(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    commands = tuple(f"phi-scaffold {name}" for name in NEXT)
    show_verdict.verdicts(
        {"finetune": replace(VERDICT, findings=(), commands=commands)}, Flags(task_name="tone").repeated()
    )
    assert capsys.readouterr().out.splitlines()[-1] == "next: " + ", ".join(
        f"phi-scaffold {name} --task-name tone" for name in ("chat", "serve", "data check")
    )
    assert Flags().repeated() == ""
    assert str(tmp_path) in Flags(project_folder=tmp_path).repeated()
