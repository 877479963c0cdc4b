"""What the openai package gets from a server, request by request."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field

from phi_runtime.core.project import ProjectFolder
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.session import open_session
from tests.phi_runtime.serving.conftest import LONG, Server

SONG = [{"role": "user", "content": "a lovely song 7"}]
PROMPT = "### Text: a dark song 3\n### The tone is:\n"


def ask(server: Server, model: str = "onnx", **given: object) -> ChatCompletion:
    arguments = {"messages": SONG, "max_tokens": 8, **given}
    return server.client.chat.completions.create(model=model, **arguments)  # type: ignore[call-overload, no-any-return]


def test_the_models_that_are_loaded_are_listed(server: Server) -> None:
    listed = server.client.models.list().data
    styled = ["styled:old", "styled:new", "styled:none"]
    assert [model.id for model in listed] == server.models
    assert sorted(server.models) == sorted(
        ["onnx", "base", "base:finetune", "adapter", "talker", "caller", "special", *styled]
    )
    assert server.client.models.retrieve("base:finetune").owned_by == "phi-scaffold"
    assert server.client.models.retrieve("onnx").context_length == 512  # type: ignore[attr-defined]


def test_a_model_that_was_trained_on_columns_gets_the_last_message_in_its_template_as_in_chat(
    server: Server, project: ProjectFolder
) -> None:
    session = open_session(project, "onnx")
    alone = "".join(piece.text for piece in session.answer("a lovely song 7", SamplingParams(8)))
    assert alone.strip()
    answer = ask(server)
    assert answer.choices[0].message.content == alone
    assert answer.choices[0].message.role == "assistant"
    assert answer.system_fingerprint
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "dark"}]
    assert ask(server, messages=before + SONG).choices[0].message.content == alone
    parts = [{"role": "user", "content": [{"type": "text", "text": "a lovely "}, {"type": "text", "text": "song 7"}]}]
    assert ask(server, messages=parts).choices[0].message.content == alone


def test_a_model_that_was_trained_on_conversations_gets_all_messages_in_its_chat_template(
    server: Server, project: ProjectFolder
) -> None:
    messages = [
        {"role": "system", "content": "joy or fear"},
        {"role": "user", "content": "party 5"},
        {"role": "assistant", "content": "joy"},
        {"role": "user", "content": "noise 6"},
    ]
    session = open_session(project, str(project.root / "talker"))
    prompt = session.template.render(messages, add_generation_prompt=True)  # type: ignore[union-attr]
    alone = "".join(piece.text for piece in session.generator.answer(prompt, SamplingParams(8)))
    answer = ask(server, "talker", messages=messages)
    assert answer.choices[0].message.content == alone
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == session.generator.count(prompt)
    newer = [{**messages[0], "role": "developer"}, *messages[1:]]
    assert ask(server, "talker", messages=newer).choices[0].message.content == alone


def test_later_turns_are_read_from_the_cache(server: Server) -> None:
    messages = [{"role": "user", "content": "a sunny party with a lovely song 8"}]
    first = ask(server, "talker", messages=messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "9"}]
    usage = ask(server, "talker", messages=messages).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert first.usage is not None
    assert usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


def test_a_stream_says_the_same_as_a_whole_answer(server: Server) -> None:
    whole = ask(server, "talker", max_tokens=60)
    chunks = list(
        server.client.chat.completions.create(
            model="talker", messages=SONG, max_tokens=60, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert said[0].choices[0].delta.role == "assistant"
    assert said[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in said)


def test_a_stream_has_no_usage_unless_it_is_asked_for(server: Server) -> None:
    chunks = list(server.client.completions.create(model="onnx", prompt=PROMPT, max_tokens=4, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_completions_take_the_prompt_as_it_stands(server: Server, project: ProjectFolder) -> None:
    session = open_session(project, "onnx")
    alone = "".join(piece.text for piece in session.generator.answer(PROMPT, SamplingParams(6)))
    answer = server.client.completions.create(model="onnx", prompt=PROMPT, max_tokens=6)
    assert answer.choices[0].text == alone
    both = server.client.completions.create(model="onnx", prompt=["### Text: x", PROMPT], max_tokens=6)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[1].text == alone
    streamed = server.client.completions.create(model="onnx", prompt=["### Text: x", PROMPT], max_tokens=6, stream=True)
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in both.choices]


def test_completions_of_several_prompts_have_n_choices_each(server: Server) -> None:
    drawn: dict[str, Any] = {"model": "talker", "temperature": 1.5, "top_p": 0.95, "seed": 1, "max_tokens": 6}
    prompts = ["### Text: x", PROMPT]
    several = server.client.completions.create(**drawn, prompt=prompts, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    for number, prompt in enumerate(prompts):
        alone = server.client.completions.create(**drawn, prompt=prompt, n=2)
        of_prompt = several.choices[2 * number : 2 * number + 2]
        assert [choice.text for choice in of_prompt] == [choice.text for choice in alone.choices]
        assert of_prompt[0].text != of_prompt[1].text


def test_an_answer_ends_before_a_stop_text_and_at_its_length(server: Server) -> None:
    whole = ask(server, "talker", max_tokens=40, extra_body={"guided_regex": "[ab]{5}stop[ab]{5}"})
    text = whole.choices[0].message.content
    assert text is not None
    assert re.fullmatch("[ab]{5}stop[ab]{5}", text)
    for stop in ("stop", ["never", "stop"]):
        cut = ask(server, "talker", max_tokens=40, stop=stop, extra_body={"guided_regex": "[ab]{5}stop[ab]{5}"})
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[:5], "stop")
    short = ask(server, extra_body={"guided_regex": LONG}, max_completion_tokens=3)
    assert short.usage is not None
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")


def test_an_answer_may_ask_for_more_than_there_is_room_for(server: Server) -> None:
    answer = ask(server, max_tokens=100_000)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_seed_makes_a_drawn_answer_repeatable_and_choices_differ(server: Server) -> None:
    drawn = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 12, "n": 3, "extra_body": {"top_k": 100}}
    once, again, other = (ask(server, "talker", seed=seed, **drawn) for seed in (1, 1, 20))
    texts = [[choice.message.content for choice in answer.choices] for answer in (once, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3
    assert once.usage is not None
    alone = ask(server, "talker", seed=1, **{**drawn, "n": 1})
    assert alone.usage is not None
    assert alone.choices[0].message.content == texts[0][0]
    assert once.usage.prompt_tokens == alone.usage.prompt_tokens


def test_penalties_change_a_greedy_answer(server: Server) -> None:
    plain = ask(server, "talker", max_tokens=40)
    penalized = ask(server, "talker", max_tokens=40, frequency_penalty=2.0, presence_penalty=2.0)
    assert plain.choices[0].message.content != penalized.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_with_the_tokens_of_a_chat(server: Server, stream: bool) -> None:
    given = {"logprobs": True, "top_logprobs": 3, "stream": stream, "temperature": 0}
    answer = ask(server, "base", **given)
    found = [answer.choices[0]] if not stream else [chunk.choices[0] for chunk in answer if chunk.choices]
    tokens = [token for choice in found if choice.logprobs for token in choice.logprobs.content or []]
    assert tokens
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedy: it was the likeliest
    whole = ask(server, "base").choices[0].message.content
    if all(token.bytes for token in tokens):
        assert b"".join(bytes(token.bytes or ()) for token in tokens).decode() == whole


def test_log_probabilities_come_with_the_tokens_of_a_completion(server: Server) -> None:
    answer = server.client.completions.create(model="onnx", prompt=PROMPT, max_tokens=4, logprobs=2).choices[0]
    assert answer.logprobs is not None
    tokens, offsets = answer.logprobs.tokens, answer.logprobs.text_offset
    assert tokens
    assert offsets is not None
    assert "".join(tokens) == answer.text
    assert offsets == [sum(map(len, tokens[:number])) for number in range(len(tokens))]
    assert all(len(top) == 2 for top in answer.logprobs.top_logprobs or [])


class Tone(BaseModel):
    tone: str = Field(max_length=5)
    strength: int = Field(ge=0, le=9)


def test_a_json_schema_guides_the_answer(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"tone": {"enum": ["joy", "fear"]}, "sure": {"type": "boolean"}},
        "required": ["tone", "sure"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "tone", "schema": schema, "strict": True}}
    found = json.loads(ask(server, response_format=form, max_tokens=60).choices[0].message.content or "")
    assert found["tone"] in ("joy", "fear")
    assert isinstance(found["sure"], bool)


def test_a_pydantic_model_guides_the_answer_through_parse(server: Server) -> None:
    parsed = server.client.chat.completions.parse(model="onnx", messages=SONG, response_format=Tone, max_tokens=80)
    tone = parsed.choices[0].message.parsed
    assert isinstance(tone, Tone)
    assert 0 <= tone.strength <= 9


def test_a_regular_expression_guides_the_answer_also_in_a_stream(server: Server) -> None:
    guided = {"extra_body": {"guided_regex": "(yes|no), [0-9]{3}"}}
    whole = ask(server, **guided, max_tokens=20).choices[0].message.content or ""
    assert re.fullmatch("(yes|no), [0-9]{3}", whole)
    stream = server.client.completions.create(model="onnx", prompt=PROMPT, max_tokens=20, stream=True, **guided)
    assert re.fullmatch("(yes|no), [0-9]{3}", "".join(chunk.choices[0].text for chunk in stream))


def test_an_adapter_is_asked_for_by_its_name_after_the_model(server: Server) -> None:
    base, tuned = (ask(server, name).choices[0].message.content for name in ("base", "base:finetune"))
    assert tuned == ask(server, "adapter").choices[0].message.content != base
    with ThreadPoolExecutor(4) as pool:  # steps of both in turn, on one model
        names = ["base", "base:finetune"] * 4
        answers = list(pool.map(lambda name: ask(server, name).choices[0].message.content, names))
    assert answers == [base, tuned] * 4


def test_the_adapters_of_one_onnx_model_answer_in_turn_as_each_does_alone(
    server: Server, project: ProjectFolder
) -> None:
    session = open_session(project, str(project.root / "styled"))
    sampling = SamplingParams(12)
    alone = {
        name: "".join(piece.text for piece in session.with_adapter(adapter).answer(SONG[0]["content"], sampling))
        for name, adapter in {"styled:old": "old", "styled:new": "new", "styled:none": None}.items()
    }
    assert len(set(alone.values())) == 3
    names = list(alone) * 4
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda name: ask(server, name, max_tokens=12).choices[0].message.content, names))
    assert said == [alone[name] for name in names]


def test_what_is_said_at_once_is_what_is_said_alone(server: Server) -> None:
    questions = [
        (f"{words} {number}", 4 + number % 9) for number, words in enumerate(["sunny song", "dark noise", "fire"] * 8)
    ]

    def answer(question: tuple[str, int]) -> str | None:
        messages = [{"role": "user", "content": question[0]}]
        return ask(server, "talker", messages=messages, max_tokens=question[1]).choices[0].message.content

    alone = [answer(question) for question in questions]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(answer, questions)) == alone
