"""`phi-scaffold optimize` as a user meets it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.show.optimize import result, verdict
from phi_scaffold.show.progress import options_text
from tests.conftest import Cli, MakeProject, edit_config


def base_alone(project: ProjectFolder) -> ProjectFolder:
    """The same project, where the base model is exported as it is: nothing is trained, and no rows are held out."""
    edit_config(
        project, lambda c: c.update(passes={"export": {"type": "ModelBuilder", "precision": "int4", "gate": None}})
    )
    return project


def constrain(project: ProjectFolder, **constraints: Any) -> None:
    file = project.config.with_name("evaluation.json")
    file.write_text(json.dumps({"task": "classification", "constraints": constraints}, indent=2), encoding="utf-8")


def test_candidates_are_listed_without_any_work(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    constrain(project, max_size_mb=0.15, max_accuracy_drop=0.1)
    at = ("--project", project.root)
    shown = cli("optimize", "--dry-run", *at)
    assert shown.code == 0, shown.err
    assert "`export` for laptop-cpu, from the merged model" in shown.out
    assert "constraints: max_size_mb 0.15, max_accuracy_drop 0.1" in shown.out
    lines = shown.out.splitlines()
    assert next(line for line in lines if line.startswith("int4-block-32")).count("about 0 MB") == 1
    assert next(line for line in lines if line.startswith("fp32")).endswith("larger than max_size_mb")
    assert not (project.gen_model / "optimize").exists()

    result = cli("optimize", "--for", "mobile", "--max-accuracy-drop", "0.5", "--dry-run", "--json", *at).json
    assert {row["options"]["precision"] for row in result["candidates"]} == {"int4"}
    assert all(row["expected_size_mb"] > 0 and row["expected_memory_mb"] > 150 for row in result["candidates"])
    assert result["constraints"] == {
        "max_size_mb": 0.15,
        "max_accuracy_drop": 0.5,
        "min_tokens_per_s": None,
        "max_memory_mb": 3000.0,
    }
    planned = cli("optimize", "--for", "directml", "--dry-run", *at)
    if sys.platform != "win32":
        assert "models for directml cannot run here (DirectML needs Windows)" in planned.err
        assert "accuracy, speed and memory are not measured" in planned.err


def test_what_is_wrong_is_said_with_what_to_do(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    at = ("--project", project.root)

    def refused(*flags: str) -> tuple[int, str]:
        result = cli("optimize", *flags, *at)
        return result.code, result.err

    code, said = refused("--max-accuracy-drop", "2")
    assert code == 2
    assert "--max-accuracy-drop 2 is not between 0 and 1" in said
    assert "write 2 % as --max-accuracy-drop 0.02" in said
    assert refused("--max-size-mb", "0")[0] == 2
    code, said = refused("--for", "laptop")
    assert code == 2
    assert "did you mean `laptop-cpu`" in said
    code, said = refused("--pass", "exprot")
    assert code == 2
    assert "did you mean `export`" in said
    assert refused("--context", "4")[0] == 2

    constrain(project, max_accuracy_drop=2, max_size=100)
    code, said = refused()
    assert code == 3
    assert "evaluation.json:4:" in said
    assert "did you mean `max_size_mb`" in said
    assert cli("validate", project.config.with_name("evaluation.json")).code == 3
    constrain(project, max_accuracy_drop=0.02)

    edit_config(project, lambda c: c["passes"]["finetune"].update(eval_dataset_size=0))
    code, said = refused()
    assert code == 3
    assert "max_accuracy_drop (0.02) cannot be measured without test rows" in said
    edit_config(project, lambda c: c["passes"]["finetune"].update(lora_r=c["passes"]["finetune"].pop("r")))
    code, said = refused("--apply", "--max-accuracy-drop", "1")
    assert code == 2
    assert "phi-scaffold migrate" in said
    edit_config(project, lambda c: c["passes"].pop("export"))
    code, said = refused()
    assert code == 3
    assert "no pass builds an ONNX model" in said
    assert not (project.gen_model / "optimize").exists()


def test_a_search_is_shown_told_to_machines_and_ends_with_1_where_none_holds(
    make_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.search.optimize import candidates

    monkeypatch.setattr(candidates, "ALL", tuple(c for c in candidates.ALL if c.name in ("int4-block-32", "fp32")))
    project = base_alone(make_project())
    at = ("--project", project.root, "--max-accuracy-drop", "1")
    too_small = cli("optimize", "--max-size-mb", "0.05", *at)
    assert too_small.code == 1
    assert "[1/2] int4-block-32: precision=int4 int4_block_size=32" in too_small.err
    assert "building" in too_small.err
    assert "measuring" in too_small.err
    assert "misses size 0.1" in too_small.err
    assert (
        "No candidate meets the constraints. The nearest is int4-block-32. To accept it: phi-scaffold optimize --max-size-mb 1"
        in too_small.out
    )
    assert "not tried: expected to be larger than allowed" in too_small.out

    result = cli("optimize", "--json", *at)
    assert result.code == 0
    assert result.err == ""
    found = result.json
    assert found["chosen"] == "int4-block-32"
    assert found["constraints"]["max_accuracy_drop"] == 1.0
    first, second = found["candidates"]
    assert (first["state"], first["meets_constraints"], first["violations"]) == ("measured", True, [])
    assert first["decode_tokens_per_s"] > 0
    assert first["peak_memory_mb"] > 0
    assert (second["state"], second["why"]) == ("skipped", "not tried: `int4-block-32` already meets the constraints")
    assert found["config"] == "fine-tuning/olive-config.optimized.json"
    assert found["reference"] is None
    written = json.loads((project.gen_model / "optimize" / "candidates.json").read_text(encoding="utf-8"))
    assert written["candidates"] == found["candidates"]
    assert cli("validate", project.root / found["config"]).code == 0

    shown = cli("optimize", "--quiet", *at)
    assert shown.err == ""
    assert "int4-block-32 is chosen; its options are in fine-tuning/olive-config.optimized.json" in shown.out
    again = shlex.join(["--project", str(project.root)])
    assert f"phi-scaffold optimize --for laptop-cpu --max-accuracy-drop 1 {again} --apply\n" in shown.out


def test_a_smaller_candidate_that_too_few_rows_refuse_comes_with_the_flag_that_accepts_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"prefill_tokens_per_s": 90.0, "decode_tokens_per_s": 80.0, "peak_memory_mb": 300.0, "perplexity": 1.02}

    def row(name: str, size: float, lost: int, interval: list[float], *, shown: bool | None) -> dict[str, Any]:
        drop = {"accuracy_drop": lost / 120, "accuracy_drop_interval": interval, "score": 0.99, "rows": 120}
        missed = {"constraint": "max_accuracy_drop", "value": interval[1], "limit": 0.05, "excess": 0, "shown": shown}
        violations = [] if shown is None else [missed]
        state = {"state": "measured", "why": "", "fix": "", "violations": violations}
        return {"name": name, "size_mb": size, **figures, **drop, **state}

    facts = {
        "metric": "accuracy",
        "reference": None,
        "candidates": [
            row("int4-block-128", 80, 14, [0.0613, 0.1863], shown=True),
            row("int4-block-32", 86, 2, [-0.0166, 0.0587], shown=False),
            row("int8", 267, 0, [-0.031, 0.031], shown=None),
        ],
        "chosen": "int8",
        "target": "laptop-cpu",
        "constraints": {"max_size_mb": None, "max_accuracy_drop": 0.05},
        **dict.fromkeys(("note", "unavailable", "previous_config", "backup", "nearest"), None),
        **{"context_tokens": 2048, "applied": False, "config": "olive-config.optimized.json", "model": None},
        "outdated_training": "finetune",
    }
    result(facts)
    shown = capsys.readouterr().out
    assert "int4-block-32 is smaller" in shown
    assert "phi-scaffold optimize --for laptop-cpu --max-accuracy-drop 0.0587\n" in shown
    assert "int4-block-128 is smaller" not in shown
    assert "`finetune` is int4-aware and trains for another rounding" in shown


def test_what_came_of_a_candidate_is_said_in_words() -> None:
    options = {"precision": "int4", "extra_options.matmul_mixed_precision": "last_matmul:int8"}
    assert options_text(options) == "precision=int4 matmul_mixed_precision=last_matmul:int8"
    missed = {"constraint": "min_tokens_per_s", "value": 9.5, "limit": 20.0, "excess": 10.5, "excess_share": 0.5}
    row = {"state": "measured", "why": "", "violations": [missed]}
    assert verdict(row) == "misses answer speed 9.5 < 20 tokens/s (by 10.5)"
    assert verdict({**row, "violations": []}) == "meets the constraints"
    drop = {"accuracy_drop": 0.0167, "accuracy_drop_interval": [-0.0166, 0.0587], "rows": 120}
    missed = {"constraint": "max_accuracy_drop", "value": 0.0587, "limit": 0.05, "excess": 0.0087, "shown": False}
    shown = {**missed, "limit": 0.01, "shown": True}
    found = [verdict({**row, **drop, "violations": [violation]}) for violation in (missed, shown)]
    assert found == [
        "misses drop 0.0167 (-0.0166 to 0.0587): 120 rows do not show that it is below 0.05",
        "misses drop 0.0167 (-0.0166 to 0.0587) > 0.01",
    ]
    assert verdict({"state": "failed", "why": "too far", "violations": []}) == "failed: too far"
    assert verdict({"state": "built", "why": "not run: no GPU", "violations": []}).startswith("fits by size")
