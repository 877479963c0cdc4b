"""The samples of a project, run as they stand from another folder, on a tiny model."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.new import generate
from tests.generated.conftest import Ask, answer, ended, start
from tests.terminal import needs_terminal, terminal
from tests.tokenizer_kinds import tokenizer_of

Sample = Callable[[str], ModuleType]
SHORT = ("--max-new-tokens", "12")


@pytest.mark.parametrize("sample", ["chat_onnx.py", "chat_merged.py", "chat_adapter.py"])
def test_each_chat_answers_on_and_on(ask: Ask, sample: str) -> None:
    code, out, _ = ask(sample, *SHORT, said="we won the game\ndark cold noise\nwe won the game\n\n")
    first, other, again, end = out.removeprefix("phrase: ").split("phrase: ")
    assert code == 0
    assert first == again != other
    assert first.strip()
    assert end == ""


def test_the_same_seed_draws_the_same_answer(ask: Ask) -> None:
    drawn = ("chat_onnx.py", *SHORT, "--temperature", "2", "--top-p", "0.9", "--seed")
    first, again = ask(*drawn, "1", said="a party\na party\n\n")[1].removeprefix("phrase: ").split("phrase: ")[:2]
    assert first == again == ask(*drawn, "1", "--prompt", "a party")[1]
    assert first != ask(*drawn, "2", "--prompt", "a party")[1]


WRONG = [
    (("chat_onnx.py", "--temprature", "1"), 2, "--temprature"),
    (("chat_onnx.py", "--temperature", "-1"), 2, "-1 is not between"),
    (("chat_onnx.py", "--top-p", "0"), 2, "0 is not between"),
    (("chat_onnx.py", "--max-new-tokens", "many"), 2, "invalid int value: 'many'"),
    (("chat_onnx.py", "--model", "nowhere"), 2, "there is no genai_config.json in nowhere"),
    (("chat_onnx.py", "--prompt", "x", "--adapter", "stile"), 1, "no adapter `stile`"),
    (("chat_onnx.py", "--prompt", "x", "--max-new-tokens", "5000"), 1, "exceed the 512 tokens"),
    (("chat_adapter.py", "--model", "nowhere"), 2, "there is no adapter_config.json in nowhere"),
    (("batch.py", "in.jsonl", "out.jsonl", "--limit", "0"), 2, "0 is not between"),
    (("batch.py", "nowhere.jsonl", "out.jsonl"), 1, "nowhere.jsonl"),
    pytest.param(
        *(("app.py", "--models", "nowhere"), 1, "no model in nowhere: run `phi-scaffold run` first"),
        marks=pytest.mark.slow,  # importing gradio takes 4 s
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "code", "message"), WRONG)
def test_what_is_wrong_is_said(ask: Ask, call: tuple[str, ...], code: int, message: str) -> None:
    found, out, err = ask(*call)
    assert (found, out) == (code, "")
    assert message in err


def test_before_the_first_run_the_samples_say_what_to_do(tmp_path: Path) -> None:
    folder = generate.new(tmp_path / "new", generate.Answers("smollm2-135m", method="full")).folder
    for call in (["chat_onnx.py"], ["chat_merged.py"], ["batch.py", folder / "datasets" / "train.jsonl", "out.jsonl"]):
        code, _, err = ended(start(folder / "inferences" / call[0], *call[1:], cwd=tmp_path))
        assert code
        assert "run `phi-scaffold run` first" in err


# -- the ONNX model ---------------------------------------------------------------------------------------------------


def test_an_adapter_beside_the_model_answers_when_it_is_asked_for(
    made: ProjectFolder, ask: Ask, sample: Sample
) -> None:
    several = ("--model", made.gen_model / "onnx-several", *SHORT, "--prompt", "we won the game")
    code, base, note = ask("chat_onnx.py", *several)
    assert code == 0
    assert "the base model answers; use --adapter for finetune" in note
    code, tuned, note = ask("chat_onnx.py", *several, "--adapter", "finetune")
    assert (code, note) == (0, "")
    trained = sample("chat_adapter").AdapterChat(made.gen_model / "adapter")
    assert tuned[:4] == answer(trained, "we won the game", sample("chat_onnx").Sampling(12))[:4] != base[:4]
    code, out, err = ask("chat_onnx.py", *several, "--adapter", "fintune")
    assert (code, out) == (1, "")
    assert "it has finetune" in err


def test_the_base_never_answers_in_place_of_an_adapter_that_cannot_be_read(
    made: ProjectFolder, ask: Ask, tmp_path: Path
) -> None:
    folder = shutil.copytree(made.gen_model / "onnx-several", tmp_path / "damaged")
    (folder / "adapters" / "finetune.onnx_adapter").write_bytes(b"cut")
    (tmp_path / "q.txt").write_text("we won the game\ndark cold noise\nwe won the game\n")
    call = (tmp_path / "q.txt", tmp_path / "a.jsonl", "--model", folder, "--adapter", "finetune", *SHORT)
    assert ask("batch.py", *call)[0] == 0
    assert ["error" in line and "answer" not in line for line in written(tmp_path / "a.jsonl")] == [True] * 3


def test_only_what_is_new_is_read_and_the_answer_is_that_of_a_fresh_start(made: ProjectFolder, sample: Sample) -> None:
    chat_onnx = sample("chat_onnx")
    chat, sampling = chat_onnx.OnnxChat(made.gen_model / "onnx"), chat_onnx.Sampling(max_new_tokens=8)
    long = "the quick brown fox jumps over the lazy dog and again " * 6
    texts = [long, long + "and on it runs", "something else", long, "x", long]
    found = [answer(chat, text, sampling) for text in texts]

    class Reader:
        """Counts the tokens that are read."""

        def __init__(self, generator: Any) -> None:
            self.generator, self.read = generator, []

        def __getattr__(self, name: str) -> Any:
            return getattr(self.generator, name)

        def append_tokens(self, ids: list[int]) -> None:
            self.read.append(len(ids))
            self.generator.append_tokens(ids)

    reader = chat.generator = Reader(chat.generator)
    assert answer(chat, long, sampling) == found[-1]
    assert answer(chat, long + "and on it runs", sampling) == found[1]
    assert reader.read[0] == 2
    assert reader.read[1] < 40 < len(chat.encode(chat.template.fill({"phrase": long})))
    for text, before in zip(texts, found, strict=True):
        chat.generator = None
        assert answer(chat, text, sampling) == before


def test_a_conversation_goes_on_from_what_was_said(made: ProjectFolder, sample: Sample, tmp_path: Path) -> None:
    """The same model with a chat template; in fp32, where what was written one by one is rounded as what is read."""
    folder = shutil.copytree(made.gen_model / "onnx-several", tmp_path / "chat")
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (folder / "prompt_template.json").write_text(json.dumps({"kind": "chat", "chat_template": source, "column": "m"}))
    chat_onnx = sample("chat_onnx")
    chat, sampling = chat_onnx.OnnxChat(folder), chat_onnx.Sampling(max_new_tokens=6)
    before: list[dict[str, str]] = []
    for text in ("we won", '{"json": ["like"]}', "third"):
        said = answer(chat, text, sampling, before=before, adapter="finetune")
        kept, chat.generator = chat.generator, None
        assert said == answer(chat, text, sampling, before=before, adapter="finetune")
        chat.generator = kept
        before += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback, first", "unigram", "wordpiece"])
def test_the_samples_stream_text_and_read_prompts_as_the_runtime_does(
    kind: str, made: ProjectFolder, sample: Sample, tmp_path: Path
) -> None:
    from phi_runtime.data.tokenize import prompt_ids
    from phi_runtime.export.gate_tokens import probe_texts
    from phi_runtime.inference.detokenizer import decode

    tokenizer, folder = tokenizer_of(kind), shutil.copytree(made.gen_model / "onnx", tmp_path / "onnx")
    tokenizer.save_pretrained(folder)
    chat = sample("chat_onnx").OnnxChat(folder)
    for converses in (False, True):
        chat.template.converses = converses
        for text in probe_texts(tokenizer):
            assert chat.encode(text) == prompt_ids(tokenizer, text, special=not converses), text
    for seed in range(40):
        rng = random.Random(seed)
        ids = rng.choices(range(3, 259) if seed % 2 else range(len(tokenizer)), k=40)
        stream = sample("chat_onnx").Detokenizer(chat.tokenizer.decode, chat.tokenizer.id_to_token, chat.special)
        assert "".join([*map(stream.push, ids), stream.flush()]) == decode(tokenizer, ids)


def test_a_full_context_drops_the_oldest_turns(sample: Sample) -> None:
    chat_onnx = sample("chat_onnx")

    class Words:
        """Its tokens are words, its context has 20 of them."""

        def ask(self, question: str, _sampling: Any, _adapter: Any, before: Any) -> list[str]:
            if sum(len(message["content"].split()) for message in before) + len(question.split()) > 20:
                raise chat_onnx.PromptTooLong("too long")
            return ["x"]

    def start_answer(question: str) -> list[str]:
        reported: list[str] = []
        assert chat_onnx.start_answer(Words(), question, None, None, before, reported.append) == ["x"]
        return reported

    before = [{"role": role, "content": "a b c d"} for role in ("user", "assistant") * 2]
    assert (start_answer("e f g h"), len(before)) == ([], 4)
    assert (start_answer("e f g h i"), len(before)) == (["dropped the oldest turn: the context is full"], 2)
    with pytest.raises(chat_onnx.PromptTooLong):
        start_answer("e " * 21)
    assert len(before) == 2


def test_a_chat_obeys_commands_that_never_reach_the_model(ask: Ask) -> None:
    code, out, _ = ask("chat_onnx.py", *SHORT, said="/clear\n/exit\na party\n")
    assert (code, out) == (0, "phrase: phrase: ")
    code, out, err = ask("chat_onnx.py", *SHORT, said="/save\n")
    assert (code, out, "unknown command /save" in err) == (1, "phrase: ", True)
    assert ask("chat_onnx.py", *SHORT, "--prompt", "/etc")[0] == 0  # no chat: the text as it is


@needs_terminal
def test_on_a_terminal_an_error_or_ctrl_c_leaves_the_chat_open(made: ProjectFolder, tmp_path: Path) -> None:
    script = made.root / "inferences" / "chat_onnx.py"
    with terminal(script, "--max-new-tokens", "400", cwd=tmp_path, TERM="dumb", OMP_NUM_THREADS="1") as chat:
        chat.until("phrase: ")
        chat.type("x1 " * 300 + "\n")
        chat.until("exceed the 512 tokens")
        chat.until("phrase: ")
        chat.type("a party\n")
        chat.until("a party\r\n")
        while not chat.seen:  # until the answer has begun
            chat.seen += os.read(chat.controller, 10).decode(errors="replace")
        chat.interrupt()
        assert "(stopped)" in chat.until("phrase: ")
        chat.type("/exit\n")
        assert chat.end() == 0


def test_an_answer_loses_the_stop_text_of_its_template_at_its_end_only(sample: Sample) -> None:
    without = sample("chat_onnx").without
    assert list(filter(None, without("", ["a", "", "b"]))) == ["a", "b"]
    assert "".join(without("###", ["one #", "# two #", "##", " three ", "#", "##"])) == "one ## two ### three"
    assert "".join(without(".", ["It is", " 5 p.m.", " now."])) == "It is 5 p.m. now"
    assert "".join(without("###", ["one #", "# two #", "##", " three"], first=True)) == "one ## two "
    assert "".join(without("###", ["one", " ##"])) == "one ##"
    pieces = without("###", iter(["one", "#"]))
    assert next(pieces) == "one"  # what cannot become the stop text comes at once


def test_the_samples_render_prompts_and_find_stop_texts_as_the_runtime_does(sample: Sample, tmp_path: Path) -> None:
    from phi_runtime.data.template import PromptTemplate
    from phi_runtime.inference.stop_strings import Suffix

    chat_onnx = sample("chat_onnx")
    template = PromptTemplate.from_text("Q: {question}\nC: {{{context}}}\nA: {answer}<|end|>\n")
    template.save(tmp_path)
    columns = {"question": "why {x}?", "context": "so"}
    assert chat_onnx.Template(tmp_path).fill(columns) == template.render_prompt(columns)
    for pieces in (["one #", "# two #", "##", " three"], ["#", "##"], ["a", "b #"], ["one ", "###", " \n"], []):
        ours = Suffix("###")
        expected = [*(ours.push(piece) for piece in pieces), ours.flush()]
        assert list(filter(None, chat_onnx.without("###", pieces))) == list(filter(None, expected))


def test_the_samples_know_as_the_runtime_does_how_an_answer_ends(sample: Sample, tmp_path: Path) -> None:
    from phi_runtime.data.template import PromptTemplate

    ends = ("<|end|>", "<|im_end|>")
    for stop in ("", ".", "<|end|>\n", ".<|end|>\n<|im_end|>", "\n### End"):
        for end_token in (True, False):
            template = PromptTemplate.from_text("{q}{a}" + stop, end_token=end_token, ends=ends)
            template.save(tmp_path)
            stored = sample("chat_onnx").Template(tmp_path)
            assert (stored.closing, tuple(stored.ends)) == (template.closing, template.stop_tokens)
            assert stored.ends_at_closing == template.ends_at_closing or not stored.closing


def test_several_columns_are_asked_in_json(sample: Sample, tmp_path: Path) -> None:
    stored = {"kind": "text", "prompt": "{context} {question} {{}} ", "inputs": ["context", "question"], "stop": ""}
    (tmp_path / "prompt_template.json").write_text(json.dumps(stored))
    template = sample("chat_onnx").Template(tmp_path)
    assert template.fill(template.question('{"question": "q", "context": "c"}')) == "c q {} "
    for wrong in ("q", '{"question": "q"}', "[1]"):
        with pytest.raises(ValueError, match=r'write JSON, \{"context": "…", "question": "…"}'):
            template.question(wrong)


def test_the_folder_of_the_onnx_model_is_all_that_its_chat_needs(made: ProjectFolder, ask: Ask, tmp_path: Path) -> None:
    folder = shutil.copytree(made.gen_model / "onnx", tmp_path / "carried away")
    shutil.copy(made.root / "inferences" / "chat_onnx.py", folder)
    code, out, _ = ended(start(folder / "chat_onnx.py", *SHORT, "--prompt", "we won the game", cwd=tmp_path))
    assert (code, out) == (0, ask("chat_onnx.py", *SHORT, "--prompt", "we won the game")[1])


def test_a_full_model_draws_by_its_seed_and_stops_where_nobody_listens(made: ProjectFolder, sample: Sample) -> None:
    chat, sampling = sample("chat_merged").MergedChat(made.gen_model / "merged"), sample("chat_onnx").Sampling
    drawn = [answer(chat, "a party", sampling(12, 2.0, 0.9, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    threads, pieces = threading.active_count(), chat.ask(chat.template.question("a party"), sampling(400))
    next(pieces)
    pieces.close()
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="exceed the 512 tokens"):
        answer(chat, "a party", sampling(5000))


def test_an_adapter_of_another_base_is_refused(made: ProjectFolder, sample: Sample, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    chat_adapter = sample("chat_adapter")
    original = json.loads((made.gen_model / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(original["base_model_name_or_path"])
    for change, message in (
        ({"hidden_size": 32, "intermediate_size": 64}, "size mismatch"),
        ({"num_hidden_layers": 3}, "only in one of them"),
        ({"num_hidden_layers": 1}, "only in one of them"),
    ):
        other = tmp_path / f"base{len(list(tmp_path.iterdir()))}"
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.to_dict() | change)).save_pretrained(other)
        folder = tmp_path / f"of {other.name}"
        shutil.copytree(made.gen_model / "adapter", folder)
        changed = original | {"base_model_name_or_path": str(other)}
        (folder / "adapter_config.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            chat_adapter.AdapterChat(folder)


def test_the_adapter_of_a_project_that_was_moved_is_loaded_without_the_hub(
    made: ProjectFolder, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.utils.save_and_load

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was contacted")

    folder = shutil.copytree(made.gen_model / "adapter", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    shutil.copytree(config["base_model_name_or_path"], tmp_path / "model-cache" / "base")
    moved = json.dumps(config | {"base_model_name_or_path": "/gone/model-cache/base"})
    (folder / "adapter_config.json").write_text(moved, encoding="utf-8")
    chat_adapter = sample("chat_adapter")
    monkeypatch.setattr(chat_adapter, "PROJECT", tmp_path)
    monkeypatch.setattr(peft.utils.save_and_load, "check_file_exists_on_hf_hub", refuse)
    chat, original = chat_adapter.AdapterChat(folder), chat_adapter.AdapterChat(made.gen_model / "adapter")
    sampling = sample("chat_onnx").Sampling(12)
    assert answer(chat, "we won the game", sampling) == answer(original, "we won the game", sampling)


def test_ctrl_c_ends_a_chat_without_a_traceback(made: ProjectFolder, tmp_path: Path) -> None:
    process = start(made.root / "inferences" / "chat_onnx.py", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.read(len("phrase: ")) == "phrase: "
    time.sleep(0.5)  # a signal between the prompt and the read would wait for the end of the input
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130  # its input stays open: at its end the chat ends with 0
    ended(process)


# -- a file of questions ----------------------------------------------------------------------------------------------


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_questions_is_answered_in_each_of_its_forms(ask: Ask, tmp_path: Path) -> None:
    texts = ["we won the game", 'a "lovely" party, é']
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"phrase": t, "tone": "?"}) + "\n" for t in texts))
    (tmp_path / "q.csv").write_text('phrase,more\nwe won the game,1\n"a ""lovely"" party, é",2\n', encoding="utf-8")
    (tmp_path / "q.txt").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    answers = []
    for kind in ("jsonl", "csv", "txt"):
        code, _, err = ask("batch.py", f"q.{kind}", f"{kind}.jsonl", *SHORT)
        assert (code, "2 rows, 0 with an error" in err) == (0, True)
        lines = written(tmp_path / f"{kind}.jsonl")
        assert [(line["row"], line["model"]) for line in lines] == [(0, "onnx"), (1, "onnx")]
        answers.append([line["answer"] for line in lines])
    assert answers[0] == answers[1] == answers[2] == [
        ask("chat_onnx.py", *SHORT, "--prompt", text)[1].strip() for text in texts
    ]  # fmt: skip
    assert written(tmp_path / "csv.jsonl")[1]["input"] == {"phrase": texts[1], "more": "2"}


def test_a_killed_batch_goes_on_after_the_rows_that_are_done(made: ProjectFolder, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("".join(f"we won the game {i}\n" for i in range(100)), encoding="utf-8")
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    call = ("q.txt", "--max-new-tokens", "40")
    assert ask("batch.py", *call, "whole.jsonl")[0] == 0
    process = start(made.root / "inferences" / "batch.py", *call, "killed.jsonl", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not killed.exists() or killed.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    done = killed.read_bytes()
    assert 3 <= done.count(b"\n") < 100
    killed.write_bytes(
        done + '{"row": 50, "model": "é'.encode()[:-1]
    )  # a line of which half was written, within a letter
    assert ask("batch.py", *call, "killed.jsonl")[0] == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert killed.read_bytes().startswith(done[: done.rfind(b"\n") + 1])
    assert "all 100 rows are answered" in ask("batch.py", *call, "killed.jsonl")[2]


def test_a_row_that_cannot_be_answered_stops_no_other_and_is_tried_again(ask: Ask, tmp_path: Path) -> None:
    rows: list[Any] = [{"phrase": "we won"}, {"text": "?"}, {"phrase": "x" * 3000}, ["list"], {"phrase": "a party"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for _ in range(2):
        code, _, err = ask("batch.py", "q.jsonl", "a.jsonl", *SHORT)
        assert (code, "5 rows, 3 with an error" in err) == (0, True)
        lines = {line["row"]: line for line in written(tmp_path / "a.jsonl")}
        assert [("answer" in lines[i], "error" in lines[i]) for i in range(5)] == [
            (True, False), (False, True), (False, True), (False, True), (True, False),
        ]  # fmt: skip
        assert "no column `phrase`" in lines[1]["error"]
        assert "exceed" in lines[2]["error"]
        assert len(written(tmp_path / "a.jsonl")) == 5


def test_a_file_of_other_answers_is_left_alone(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("we won\na party\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("a party\nwe won\n", encoding="utf-8")
    assert ask("batch.py", "q.txt", "a.jsonl", *SHORT)[0] == 0
    before = (tmp_path / "a.jsonl").read_bytes()
    for call in (("other.txt", "a.jsonl"), ("q.txt", "a.jsonl", "--model", "merged"), ("q.txt", "q.txt")):
        code, _, err = ask("batch.py", *call)
        assert (code, "choose another output file" in err) == (1, True)
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert (tmp_path / "q.txt").read_text(encoding="utf-8") == "we won\na party\n"
    assert ask("batch.py", "q.txt", "a.jsonl", "--limit", "1")[0] == 0  # fewer rows of the same file
    (tmp_path / "broken.jsonl").write_text('{"phrase": "a"}\n{"phrase\n', encoding="utf-8")
    assert "broken.jsonl, row 2" in ask("batch.py", "broken.jsonl", "b.jsonl")[2]
    (tmp_path / "latin.csv").write_bytes("phrase\ncafé\n".encode("latin-1"))
    assert "latin.csv is not UTF-8" in ask("batch.py", "latin.csv", "b.jsonl")[2]


def test_ctrl_c_stops_a_batch_which_then_goes_on(made: ProjectFolder, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("".join(f"dark cold noise {i}\n" for i in range(60)), encoding="utf-8")
    call = (
        "q.txt",
        "a.jsonl",
        "--max-new-tokens",
        "60",
        "--adapter",
        "finetune",
        "--model",
        made.gen_model / "onnx-several",
    )
    process = start(made.root / "inferences" / "batch.py", *call, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.jsonl").exists() or not (tmp_path / "a.jsonl").read_bytes():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, "the same command resumes" in err) == (130, True)
    assert ask("batch.py", *call)[0] == 0
    assert {line["model"] for line in written(tmp_path / "a.jsonl")} == {"onnx-several:finetune"}
    assert sorted(line["row"] for line in written(tmp_path / "a.jsonl")) == list(range(60))


def test_conversations_are_answered_after_what_was_said_in_them(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "prompt_template.json").write_text('{"kind": "chat", "chat_template": "", "column": "talk"}')
    template, question_of = sample("chat_onnx").Template(tmp_path), sample("batch").question_of
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
    more = {"role": "user", "content": "And?"}
    assert question_of(template, {"talk": [user, assistant, more, assistant]}) == (
        {"message": "And?"},
        [user, assistant],
    )
    assert question_of(template, {"talk": "Hi"}) == question_of(template, "Hi") == ({"message": "Hi"}, [])
    share = [{"from": "system", "value": "S"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    assert question_of(template, {"talk": share}) == ({"message": "Hi"}, [{"role": "system", "content": "S"}])
    assert question_of(template, {"talk": json.dumps(share)}) == question_of(template, {"talk": share})
    template.stored["column"] = ["history", "prompt", "completion"]
    row = {"history": [user, assistant], "prompt": "More?", "completion": [assistant]}
    assert question_of(template, row) == ({"message": "More?"}, [user, assistant])
    template.stored["column"] = "talk"
