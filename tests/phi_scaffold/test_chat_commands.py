"""`chat` and `generate`: what is printed, what is refused, and what a model never gets."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import run
from tests.conftest import Cli, Listener, MakeProject


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    made = make_project("my tones")
    run(made, Listener(), until="export")
    return made


def test_one_question_to_each_model(project: ProjectFolder, cli: Cli) -> None:
    there = ("--project", project.root)
    for model in ("base", "adapter", "merged", "onnx"):
        result = cli("generate", *there, "--prompt", "song 1", "--model", model, "--max-new-tokens", "4", "--json").json
        assert result["model"] == model
        assert result["prompt"].startswith("### Text: song 1")
        assert result["completion_tokens"] in (1, 2, 3, 4)
        assert result["finish_reason"] in ("stop", "length")
        assert result["adapter"] is None

    drawn = ("--temperature", "2", "--seed", "7", "--top-k", "50", "--top-p", "0.9", "--max-new-tokens", "8")
    twice = {cli("generate", *there, "--prompt", "song 1", *drawn).out for _ in range(2)}
    assert len(twice) == 1

    schema = project.root / "tone.json"
    schema.write_text('{"enum": ["joy", "fear"]}')
    assert json.loads(cli("generate", *there, "--prompt", "song 1", "--json-schema", schema).out) in ("joy", "fear")
    assert cli("generate", *there, "--prompt", "song 1", "--regex", "(joy|fear)").out.strip() in ("joy", "fear")


def test_what_cannot_be_asked_is_told_with_what_to_do(project: ProjectFolder, cli: Cli, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        found = cli("generate", "--project", project.root, "--prompt", "song 1", *arguments)
        assert found.out == ""
        assert "Traceback" not in found.err
        return f"{found.code} {found.err}"

    assert "2 error: unknown adapter `style`\n  help: omit it: this model has no adapters" in refused(
        "--adapter", "style"
    )
    assert "2 error: there is no model `onx`; did you mean `onnx`?" in refused("--model", "onx")
    assert "2 error: only ONNX models can be guided" in refused("--model", "merged", "--regex", "joy")
    assert "2 error: unsupported regular expression" in refused("--regex", "(joy")
    assert refused("--json-schema", tmp_path / "none.json").startswith("2 error:")
    assert refused("--regex", "a", "--json-schema", tmp_path / "none.json").startswith(
        "2 error: --json-schema and --regex exclude each other"
    )
    assert "4 error: prompt (" in refused("--max-new-tokens", "5000")
    assert refused("--model", tmp_path).startswith(f"2 error: there is no model in {tmp_path}")

    data = project.gen_model / "onnx" / "model.onnx.data"
    elsewhere = tmp_path / "carried away"
    shutil.copytree(data.parent, elsewhere)
    assert cli("generate", "--project", project.root, "--prompt", "x", "--model", elsewhere).code == 0
    (elsewhere / data.name).write_bytes(data.read_bytes()[:-100])
    assert refused("--model", elsewhere).startswith("1 error: cannot load the ONNX model in")
    data.write_bytes(data.read_bytes()[:-100])  # an incomplete artifact counts as missing
    assert "there is no model `onnx`" in refused("--model", "onnx")


def test_an_adapter_of_another_base_does_not_answer(
    project: ProjectFolder, cli: Cli, tiny_phi3: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_phi3 / "config.json").read_text())
    foreign = tmp_path / "foreign"
    shutil.copytree(project.gen_model / "adapter", foreign)
    (foreign / "manifest.json").unlink()
    from safetensors.torch import load_file, save_file

    weights = load_file(foreign / "adapter_model.safetensors")
    deeper = {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()}
    save_file(deeper, foreign / "adapter_model.safetensors", {"format": "pt"})
    found = cli("generate", "--project", project.root, "--prompt", "song 1", "--model", "base", "--adapter", foreign)
    assert (found.code, found.out) == (2, "")
    assert "does not fit this model" in found.err
    assert config["num_hidden_layers"] == 2

    facts = project.gen_model / "adapter" / "manifest.json"
    manifest = json.loads(facts.read_text())
    manifest["facts"]["inputs"]["input"] = "another"
    facts.write_text(json.dumps(manifest))
    found = cli("generate", "--project", project.root, "--prompt", "song 1", "--model", "adapter")
    assert (found.code, found.out) == (2, "")
    assert "was trained on another model" in found.err


def test_a_base_model_answers_with_an_adapter_that_was_trained_on_it(project: ProjectFolder, cli: Cli) -> None:
    there = ("generate", "--project", project.root, "--prompt", "song 1", "--max-new-tokens", "6", "--json")
    own = cli(*there, "--model", "adapter").json
    named = cli(*there, "--model", "base", "--adapter", "finetune").json
    folder = cli(*there, "--model", "base", "--adapter", project.gen_model / "adapter").json
    assert own["answer"] == named["answer"] == folder["answer"]
    assert (named["adapter"], folder["adapter"]) == ("finetune", "adapter")


def test_a_chat_answers_line_by_line(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(*lines: str, more: tuple[str, ...] = ()) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        found = cli("chat", "--project", project.root, "--max-new-tokens", "4", *more)
        assert found.code == 0, found.err
        return found.out.splitlines()

    first, second = talk("song 1", "noise 2")
    assert [first, second, first] == talk("song 1", "noise 2", "", "song 1", "/exit", "never sent")
    (result,) = talk("song 1", more=("--json",))
    assert json.loads(result)["answer"] == first
    assert talk() == []


def test_a_chat_continues_with_another_model_or_adapter(
    project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "song 1",
        "/adapter finetune",
        "song 1",
        "/model adapter",
        "song 1",
        "/model onxx",
        "/adapter stile",
        "song 1",
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join((*lines, "/model onnx"))))
    short = ("--project", project.root, "--max-new-tokens", "6", "--json")
    result = cli("chat", *short, "--model", "base")
    assert result.code == 2
    answers = [event["answer"] for event in result.events if "answer" in event]
    own = [
        cli("generate", *short, "--prompt", "song 1", "--model", name).json["answer"] for name in ("base", "adapter")
    ]
    assert answers == [own[0], own[1], own[1], own[1]]
    notes = [line for line in result.err.splitlines() if line.startswith(("model: ", "adapter: "))]
    errors = [event["message"] for event in result.events if event.get("event") == "error"]
    assert errors == ["there is no model `onxx`; did you mean `onnx`?", "unknown adapter `stile`"]
    assert notes == [
        "adapter: finetune (current), none",
        "model: base, adapter (current), merged, onnx",
        "model: base, adapter, merged, onnx (current)",
    ]
