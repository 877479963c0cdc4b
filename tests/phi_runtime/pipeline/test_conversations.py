"""Conversations go through every stage, and each model gets prompts of the template that it was trained with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.data.chat_template import ChatTemplate, load_template
from phi_runtime.evaluation.row_results import read_rows
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.session import Session, open_session
from phi_scaffold.new import generate
from phi_scaffold.new.catalog import catalog
from tests.conftest import Listener, MakeProject, edit_config

CHATML = catalog().prompt_formats["chatml"].chat_template


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    made = make_project()
    rows = [
        {"conversations": [{"from": "human", "value": f"song {i}"}, {"from": "gpt", "value": "joy"},
                           {"from": "human", "value": f"noise {i}"}, {"from": "gpt", "value": "fear"}]}
        for i in range(40)
    ]  # fmt: skip
    data = made.root / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = made.root.parent / "chat"
    generate.new(folder, generate.Answers("org/tiny", "chat", data=data))
    chat = find_project(folder)
    tuned = json.loads(made.config.read_text(encoding="utf-8"))

    def as_tiny(config: dict[str, Any]) -> None:
        config["input_model"]["model_path"] = tuned["input_model"]["model_path"]
        config["passes"]["finetune"]["training_args"] |= tuned["passes"]["finetune"]["training_args"]
        assert config["data_configs"][0]["pre_process_data_config"]["chat_template"] is True
        config["data_configs"][0]["pre_process_data_config"]["chat_template"] = CHATML

    edit_config(chat, as_tiny)
    return chat


def asked_sample(project: ProjectFolder, sample: str, *questions: str) -> list[str]:
    """The answers that a generated sample prints, question after question in one conversation."""
    done = subprocess.run(
        [sys.executable, project.root / "inferences" / sample, "--max-new-tokens", "4"],
        input="".join(f"{question}\n" for question in questions),
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.removeprefix("you: ") for line in done.stdout.splitlines() if line.removeprefix("you: ")]


def test_a_chat_is_trained_merged_built_and_prompted(project: ProjectFolder) -> None:
    listener = Listener()
    evaluation = run(project, listener).evaluation
    assert evaluation is not None
    assert evaluation["task"] == "chat"
    base, *_, adapter, merged, onnx = evaluation["models"]
    assert adapter["perplexity"] < base["perplexity"]
    assert abs(merged["perplexity"] - adapter["perplexity"]) < 0.01 * adapter["perplexity"]
    assert onnx["metrics"]["token_f1"] >= 0

    for folder in ("adapter", "merged", "onnx"):
        template = load_template(project.gen_model / folder)
        assert isinstance(template, ChatTemplate)
        assert template.source == CHATML
        assert (project.gen_model / folder / "chat_template.jinja").read_text() == CHATML

    rows = read_rows(project.gen_model / "evaluation" / "rows.jsonl")
    assert all((row.prompt or "").endswith("<|im_end|>\n<|im_start|>assistant\n") for row in rows)
    assert {row.reference for row in rows} == {"fear"}

    def answer_of(session: Session, prompt: str) -> str:
        return "".join(piece.text for piece in session.generator.answer(prompt, SamplingParams(max_new_tokens=4)))

    before = [{"role": "user", "content": "song 1"}, {"role": "assistant", "content": "joy"}]
    session = open_session(project, "onnx")
    prompt = session.render("noise 1", before)
    assert prompt == (
        "<|im_start|>user\nsong 1<|im_end|>\n<|im_start|>assistant\njoy<|im_end|>\n"
        "<|im_start|>user\nnoise 1<|im_end|>\n<|im_start|>assistant\n"
    )
    said = [answer_of(open_session(project, name), prompt) for name in ("adapter", "merged")]
    assert said[0] == said[1] != ""
    for sample, model in (("chat_adapter.py", "adapter"), ("chat_merged.py", "merged"), ("chat_onnx.py", "onnx")):
        session = open_session(project, model)
        first = answer_of(session, session.render("song 7"))
        talk = [{"role": "user", "content": "song 7"}, {"role": "assistant", "content": first}]
        second = answer_of(session, session.render("noise 2", talk))
        assert asked_sample(project, sample, "song 7", "noise 2") == [first, second], sample


def test_a_model_without_a_template_of_its_own_needs_one_in_the_config(project: ProjectFolder) -> None:
    def own(config: dict[str, Any]) -> None:
        config["data_configs"][0]["pre_process_data_config"]["chat_template"] = True

    edit_config(project, own)
    with pytest.raises(Exception, match="the model has no chat template") as caught:
        run(project, Listener(), until="finetune")
    assert getattr(caught.value, "exit_code", 0) == 4


def test_a_turn_that_ends_where_the_model_would_not_stop_is_told(project: ProjectFolder) -> None:
    def other_end(config: dict[str, Any]) -> None:
        process = config["data_configs"][0]["pre_process_data_config"]
        process["chat_template"] = CHATML.replace("<|im_end|>", "<|endoftext|>")

    edit_config(project, other_end)
    listener = Listener()
    run(project, listener, until="finetune")
    messages = [w["message"] for w in listener.of("warning")]
    assert any("turns end in `<|endoftext|>`, but the model does not stop there" in message for message in messages)
