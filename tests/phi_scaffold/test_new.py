"""`phi-scaffold new`: what a person types, and what becomes of what was there."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from jinja2 import Environment

from phi_scaffold.new import hub_rows
from tests.conftest import Cli

ROWS = '{"question": "how are you", "reply": "fine"}\n{"question": "who are you", "reply": "me"}\n'


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def config(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "fine-tuning" / "olive-config.json").read_text(encoding="utf-8"))
    return found


def test_the_next_steps_and_the_equivalent_command_are_printed(cli: Cli, inside: Path) -> None:
    result = cli("new", "mood", "--yes", "--no-git", "--method", "QLoRA")
    assert result.code == 0
    assert result.err == ""
    for line in ("cd mood", "bash setup/setup.sh", "phi-scaffold run"):
        assert line in result.out
    again = result.out.strip().splitlines()[-1].split()
    first = snapshot(inside / "mood")
    shutil.rmtree(inside / "mood")
    assert cli(*again[1:], "--no-git").code == 0
    assert snapshot(inside / "mood") == first


def test_a_path_with_blanks_and_other_letters_works(cli: Cli, inside: Path) -> None:
    result = cli("new", "sub folder/Größe 日本", "--yes", "--no-git", "--json")
    assert result.code == 0
    assert Path(result.json["folder"]) == inside / "sub folder" / "Größe 日本"
    assert cli("validate", inside / "sub folder/Größe 日本/fine-tuning/olive-config.json").code == 0


def test_it_works_without_git_and_with_it(cli: Cli, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("new", "with", "--yes", "--json").json["git"] is (shutil.which("git") is not None)
    monkeypatch.setenv("PATH", str(inside))
    assert cli("new", "without", "--yes", "--json").json["git"] is False
    assert not (inside / "without" / ".git").exists()


def test_own_data_is_copied_and_gives_columns_and_template(cli: Cli, inside: Path) -> None:
    (inside / "chats.jsonl").write_text(ROWS)
    result = cli("new", "p", "--yes", "--no-git", "--data", "chats.jsonl")
    assert "data: 2 rows, question → reply" in result.out
    assert (inside / "p" / "datasets" / "chats.jsonl").read_text() == ROWS
    assert not (inside / "p" / "datasets" / "train.jsonl").exists()
    data = config(inside / "p")["data_configs"][0]  # type: ignore[index]
    assert data["load_dataset_config"]["data_files"] == "../datasets/chats.jsonl"
    assert data["pre_process_data_config"]["text_template"] == "### Question: {question}\n### Reply:\n{reply}"


@pytest.mark.parametrize(
    ("flags", "template"),
    [
        (
            ["--prompt-template", "chat"],
            "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>",
        ),
        (
            ["--prompt-template", "chat", "--model", "phi-3-mini-4k-instruct"],
            "<|user|>\n{question}<|end|>\n<|assistant|>\n{reply}<|end|>",
        ),
        (["--prompt-template", "Q: {question}\\nA: {reply}"], "Q: {question}\nA: {reply}"),
        (["--columns", "reply,question"], "### Reply: {reply}\n### Question:\n{question}"),
    ],
)
def test_the_prompt_template_is_the_users_choice(cli: Cli, inside: Path, flags: list[str], template: str) -> None:
    (inside / "chats.jsonl").write_text(ROWS)
    assert cli("new", "p", "--yes", "--no-git", "--data", "chats.jsonl", *flags).code == 0
    assert config(inside / "p")["data_configs"][0]["pre_process_data_config"]["text_template"] == template  # type: ignore[index]


@pytest.mark.parametrize("name", ["con", "Con.txt", ".hidden", "-x", "a:b", "what?", "trailing.", "x" * 65])
def test_an_impossible_name_is_refused_with_one_that_would_do(cli: Cli, inside: Path, name: str) -> None:
    result = cli("new", "--yes", "--no-git", "--", name)
    assert result.code == 2
    suggested = result.err.strip().rpartition("phi-scaffold new ")[2].rstrip("`")
    assert cli("new", suggested, "--yes", "--no-git").code == 0
    assert [p.name for p in inside.iterdir()] == [suggested]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "lorra"], "did you mean `lora`"),
        (["--task", "clasification"], "did you mean `classification`"),
        (["--target", "cdua"], "did you mean `cuda`"),
        (["--precision", "int5"], "int4"),
        (["--precision", "bf16"], "does not run on cpu"),
        (["--model", "smollm-135m"], "did you mean `smollm2-135m`"),
        (["--columns", "a,b"], "no --data"),
        (["--prompt-template", "{phrase}"], "two columns"),
        (["--prompt-template", "{phrase} {mood}"], "`mood`"),
        (["--metod", "lora"], "--method"),
        (["--data-file", "nowhere.json"], "error: nowhere.json cannot be read: No such file or directory\n"),
        (["--data-file", sys.executable], f"error: {sys.executable} is not UTF-8\n"),
    ],
)
def test_an_unknown_value_is_refused_and_nothing_is_written(
    cli: Cli, inside: Path, flags: list[str], says: str
) -> None:
    result = cli("new", "p", "--yes", *flags)
    assert result.code == 2
    assert says in result.err
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the data file does not exist"),
        ("", "empty"),
        (ROWS + '{"question": "x"\n', ":3:"),
        (ROWS + '{"question": "x"}\n', ":3:"),
        ('{"only": "one"}\n', "the only column"),
        ('{"messages": [], "x": "y"}\n', "`messages` is empty"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "no message of the assistant"),
    ],
)
def test_unusable_data_is_refused_with_its_line_and_nothing_is_written(
    cli: Cli, inside: Path, content: str | None, says: str
) -> None:
    if content is not None:
        (inside / "d.jsonl").write_text(content)
    result = cli("new", "p", "--yes", "--data", "d.jsonl")
    assert result.code == 4
    assert says in result.err
    assert not (inside / "p").exists()


def test_a_single_row_is_said_to_be_too_few(cli: Cli, inside: Path) -> None:
    (inside / "one.csv").write_text("text,label\nit rains,cold\n", encoding="utf-8")
    result = cli("new", "p", "--yes", "--no-git", "--data", "one.csv")
    assert "data: 1 row, text → label" in result.out
    assert "no validation row: 1 row is too few" in result.out


def test_a_column_that_the_data_has_not_is_named_with_those_it_has(cli: Cli, inside: Path) -> None:
    (inside / "d.jsonl").write_text(ROWS)
    result = cli("new", "p", "--yes", "--data", "d.jsonl", "--columns", "question,anwser")
    assert result.code == 4
    assert "`anwser`" in result.err
    assert "question, reply" in result.err


def test_a_folder_that_is_not_empty_is_left_alone(cli: Cli, inside: Path) -> None:
    (inside / "p").mkdir()
    (inside / "p" / "README.md").write_text("mine")
    result = cli("new", "p", "--yes")
    assert result.code == 6
    assert "README.md" in result.err
    assert snapshot(inside) == {"p/README.md": b"mine"}
    (inside / "file").write_text("x")
    assert cli("new", "file", "--yes").code == 6


def test_force_fills_the_folder_in_and_keeps_what_was_in_the_way(cli: Cli, inside: Path) -> None:
    (inside / "p").mkdir()
    (inside / "p" / "README.md").write_text("mine")
    (inside / "p" / "notes.txt").write_text("also mine")
    result = cli("new", "p", "--yes", "--no-git", "--force")
    assert "kept your README.md as README.md.bak" in result.out
    assert (inside / "p" / "README.md.bak").read_text() == "mine"
    assert (inside / "p" / "notes.txt").read_text() == "also mine"
    again = cli("new", "p", "--yes", "--no-git", "--force", "--json").json
    assert again["backed_up"] == []
    assert len(set(again["files"]) - {"setup/phi-scaffold.local.txt"}) == 51


def test_an_empty_folder_or_a_fresh_repository_is_filled(cli: Cli, inside: Path) -> None:
    (inside / "p" / ".git").mkdir(parents=True)
    assert cli("new", "p", "--yes", "--no-git").code == 0


def test_a_template_is_compiled_once(cli: Cli, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("new", "first", "--yes", "--no-git").code == 0
    original, compiled = Environment.compile, []

    def compile(self: Environment, source: Any, *arguments: str | None) -> Any:
        compiled.extend([source] if isinstance(source, str) else [])  # copier tries other values too
        return original(self, source, *arguments)

    monkeypatch.setattr(Environment, "compile", compile)
    assert cli("new", "second", "--yes", "--no-git").code == 0
    assert compiled == [], "the templates of the first project, which are compiled already"
    assert Environment.compile is compile
    config = "fine-tuning/olive-config.json"
    assert (inside / "first" / config).read_bytes() == (inside / "second" / config).read_bytes()


def test_open_starts_vs_code_in_the_project(cli: Cli, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = inside / "bin" / "code"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{inside}/opened'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert cli("new", "p q", "--yes", "--no-git", "--open", "--json").json["written"]
    assert (inside / "opened").read_text() == str(inside / "p q")
    program.unlink()
    result = cli("new", "r", "--yes", "--no-git", "--open")
    assert (result.code, "`code`" in result.err) == (0, True)


def test_dry_run_shows_the_tree_and_writes_nothing(cli: Cli, inside: Path) -> None:
    result = cli("new", "p", "--yes", "--dry-run")
    assert "olive-config.json" in result.out
    assert list(inside.iterdir()) == []


def test_answers_come_from_a_file_and_flags_win(cli: Cli, inside: Path) -> None:
    (inside / "answers.json").write_text('{"method": "qlora", "task": "generation"}')
    assert cli("new", "p", "--yes", "--no-git", "--data-file", "answers.json", "--method", "full").code == 0
    assert config(inside / "p")["passes"]["finetune"]["type"] == "FullFinetune"  # type: ignore[index]
    assert '"task": "generation"' in (inside / "p" / "fine-tuning" / "evaluation.json").read_text()
    (inside / "answers.json").write_text("[]")
    assert '--from, or a file such as {"model": "' in cli("new", "q", "--yes", "--data-file", "answers.json").err
    (inside / "answers.json").write_text('{"metod": "qlora"}')
    assert "did you mean `method`" in cli("new", "q", "--yes", "--data-file", "answers.json").err


def test_a_projects_own_answers_make_it_again(cli: Cli, inside: Path) -> None:
    (inside / "d.csv").write_text("text,label\nhello,a\nbye,b\n")
    assert cli("new", "p", "--yes", "--no-git", "--data", "d.csv", "--prompt-template", "{text} → {label}").code == 0
    assert cli("new", "q", "--yes", "--no-git", "--from", "p/.copier-answers.yml").code == 0
    assert config(inside / "q") == config(inside / "p")


def test_without_a_terminal_it_never_asks(inside: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phi_scaffold", "new", "p", "--no-git"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert (inside / "p" / "README.md").is_file()


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--target", "gpu"], "target", "cuda"),
        (["--target", "DML"], "target", "directml"),
        (["--task", "qa"], "task", "question-answering"),
        (["--precision", "float32"], "precision", "fp32"),
    ],
)
def test_values_have_their_other_usual_names(cli: Cli, inside: Path, flags: list[str], key: str, value: str) -> None:
    assert cli("new", "p", "--yes", "--no-git", *flags).code == 0
    assert f"{key}: {value}\n" in (inside / "p" / ".copier-answers.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["dora", "IA3", "LoKr"])
def test_other_methods_are_named_with_the_key_that_sets_them(cli: Cli, method: str) -> None:
    result = cli("new", "p", "--yes", "--json", "--method", method)
    assert result.code == 2
    assert f'"type": "{method}"'.casefold() in result.json["fix"].casefold()


def loaded(project: Path) -> dict[str, object]:
    load: dict[str, object] = config(project)["data_configs"][0]["load_dataset_config"]  # type: ignore[index]
    return load


def test_a_folder_is_copied_and_its_files_of_the_split_train_are_trained_on(cli: Cli, inside: Path) -> None:
    for name, count in {"train-1.csv": 3, "more/train-2.csv": 2, "test.csv": 9}.items():
        (inside / "reviews" / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / "reviews" / name).write_text("text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(count)))
    result = cli("new", "p", "--yes", "--no-git", "--data", "reviews")
    assert "data: 5 rows, text → label, 2 labels" in result.out
    assert loaded(inside / "p") == {"data_name": "csv", "data_dir": "../datasets/reviews/", "split": "train"}
    assert {p.name for p in (inside / "p/datasets/reviews").rglob("*.csv")} == {
        "train-1.csv",
        "train-2.csv",
        "test.csv",
    }
    assert cli("validate", inside / "p" / "fine-tuning" / "olive-config.json").code == 0
    first = snapshot(inside / "p")
    shutil.rmtree(inside / "p")
    assert cli(*result.out.strip().splitlines()[-1].split()[1:], "--no-git").code == 0
    assert snapshot(inside / "p") == first


def test_the_files_of_a_pattern_are_copied(cli: Cli, inside: Path) -> None:
    (inside / "all" / "a").mkdir(parents=True)
    for name in ("a/1.jsonl", "a/2.jsonl", "3.jsonl"):
        (inside / "all" / name).write_text(ROWS)
    (inside / "all" / "a" / "notes.csv").write_text("x\n")
    result = cli("new", "p", "--yes", "--no-git", "--data", "all/*/*.jsonl")
    assert "data: 4 rows, question → reply" in result.out
    expected = {"data_name": "json", "data_files": "../datasets/all/*/*.jsonl", "split": "train"}
    assert loaded(inside / "p") == expected
    assert cli("validate", inside / "p" / "fine-tuning" / "olive-config.json").code == 0
    mixed = cli("new", "q", "--yes", "--data", "all")
    assert mixed.code == 2
    assert "several formats: csv, json" in mixed.err
    assert cli("new", "q", "--yes", "--data", "all/*.zip").code == 4


@pytest.mark.parametrize(
    ("data", "flags", "split", "template"),
    [
        ("org/rows", ["--columns", "question,reply"], "train", "### Question: {question}\n### Reply:\n{reply}"),
        ("org/rows:test", ["--prompt-template", "Q: {a}\\nA: {b}"], "test", "Q: {a}\nA: {b}"),
    ],
)
def test_a_hub_data_set_with_known_columns_needs_no_network(
    cli: Cli, inside: Path, data: str, flags: list[str], split: str, template: str
) -> None:
    result = cli("new", "p", "--yes", "--no-git", "--data", data, *flags)
    assert result.code == 0, result.err
    assert loaded(inside / "p") == {"data_name": "org/rows", "split": split}
    pre: dict[str, object] = config(inside / "p")["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    assert (pre["text_template"], pre["max_seq_len"]) == (template, 1024)
    assert {p.name for p in (inside / "p" / "datasets").iterdir()} == {"README.md"}
    assert 'PROJECT_EXTRAS = {"data"}' in (inside / "p" / "setup" / "setup.py").read_text()
    assert f"on\n`{data}` and" in (inside / "p" / "README.md").read_text()
    assert cli("validate", inside / "p" / "fine-tuning" / "olive-config.json").code == 0


def test_without_columns_they_are_read_from_the_first_rows_on_the_hub(
    cli: Cli, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = cli("new", "p", "--yes", "--data", "org/rows")
    assert (offline.code, "--columns question,answer" in offline.err) == (7, True)

    class Viewer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body: dict[str, object] = {"splits": [{"config": "default", "split": "train"}]}
            if self.path.startswith("/rows?dataset=org%2Frows&config=default&split=train"):
                rows = [{"row_idx": i, "row": {"text": f"t{i}", "label": str(i % 2)}} for i in range(10)]
                body = {"rows": rows, "num_rows_total": 25_000}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Viewer) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(hub_rows, "SERVER", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert cli("new", "p", "--yes", "--no-git", "--data", "org/rows").code == 0
        wrong = cli("new", "q", "--yes", "--data", "org/rows:trian")
        server.shutdown()
    assert '"task": "classification"' in (inside / "p" / "fine-tuning" / "evaluation.json").read_text()
    assert config(inside / "p")["passes"]["finetune"]["training_args"]["num_train_epochs"] == 1  # type: ignore[index]
    assert wrong.code == 4
    assert "did you mean `train`" in wrong.err


def test_a_data_set_that_the_hub_does_not_have_is_named_as_such(
    cli: Cli, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Viewer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404 if "rows" in self.path else 503)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Viewer) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(hub_rows, "SERVER", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        missing = cli("new", "p", "--yes", "--data", "org/rows")
        busy = cli("new", "p", "--yes", "--data", "org/other")
        server.shutdown()
    assert (missing.code, busy.code) == (7, 7)
    assert "has no data set `org/rows`" in missing.err
    assert "help: check the name" in missing.err
    assert "did not answer" in busy.err
    assert not (inside / "p").exists()


def test_what_is_not_trained_is_in_the_notes_and_in_the_config(cli: Cli, inside: Path) -> None:
    row = {"instruction": "Add", "input": "", "output": "3", "id": 7, "kto_tag": True}
    rows = [row, row | {"input": "1, 2"}, row | {"kto_tag": False}]
    (inside / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = cli("new", "p", "--yes", "--no-git", "--data", "d.jsonl", "--json").json
    assert [note for note in result["notes"] if note.startswith(("1 of", "not used"))] == [
        "1 of 3 rows are not used, because their `kto_tag` is not true (`col_filters`)",
        "not used: `id` (an id); --columns selects others",
    ]
    assert loaded(inside / "p")["col_filters"] == {"kto_tag": True}
    pre: dict[str, object] = config(inside / "p")["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    assert pre["text_template"] == ("### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}")
    assert pre["optional_cols"] == ["input"]
    assert cli("validate", inside / "p" / "fine-tuning" / "olive-config.json").code == 0
    again = cli("new", "q", "--yes", "--no-git", "--from", "p/.copier-answers.yml")
    assert (again.code, config(inside / "q")) == (0, config(inside / "p"))


@pytest.mark.parametrize(
    ("template", "optional"),
    [
        ("Q: {q}\\nHint: {hint}\\nA: {a}", ["hint"]),
        ("{hint}\\nQ: {q}\\nA: {a}", ["hint"]),
        ("Q: {q} ({hint})\\nA: {a}", None),
        ("<|system|>\\n{hint}<|end|>\\n<|user|>\\n{q}<|end|>\\n<|assistant|>\\n{a}<|end|>", None),
        ("<|user|>\\n{q}\\nHint: {hint}<|end|>\\n<|assistant|>\\n{a}<|end|>", ["hint"]),
    ],
)
def test_a_section_of_its_own_lines_is_omitted_where_its_column_is_empty(
    cli: Cli, inside: Path, template: str, optional: list[str] | None
) -> None:
    (inside / "d.jsonl").write_text('{"hint": "h", "q": "x", "a": "y"}\n{"hint": "", "q": "z", "a": "w"}\n')
    flags = ["--columns", "hint,q,a", "--prompt-template", template]
    result = cli("new", "p", "--yes", "--no-git", "--data", "d.jsonl", *flags)
    pre: dict[str, object] = config(inside / "p")["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    assert pre.get("optional_cols") == optional
    assert ("`hint` is empty in some rows" in result.out) is (optional is None)


@pytest.mark.parametrize(("model", "length", "answer"), [("org/unknown", 256, 256), ("smollm2-135m", 256, 128)])
def test_text_of_many_bytes_a_character_fits_into_the_sequences(
    cli: Cli, inside: Path, model: str, length: int, answer: int
) -> None:
    rows = [{"instruction": "请用一句话介绍杭州的天气和风景", "input": "", "output": "杭州四季分明" * 10}] * 3
    (inside / "d.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert cli("new", "p", "--yes", "--no-git", "--data", "d.json", "--model", model).code == 0
    pre: dict[str, object] = config(inside / "p")["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    evaluation = json.loads((inside / "p" / "fine-tuning" / "evaluation.json").read_text())
    # 225 bytes, of which 180 of the answer; the tokenizer of smollm2 has 149 tokens, of which 110 of the answer.
    assert (pre["max_seq_len"], evaluation["max_new_tokens"]) == (length, answer)


FORM = 'Timestamp,How do you feel today?,"Mood, in one word"\n' + "".join(
    f'2024-01-0{i + 1},"I feel {i}, today",{"up" if i % 2 else "down"}\n' for i in range(9)
)
FORM_TEMPLATE = "### How do you feel today? {how_do_you_feel_today}\n### Mood, in one word:\n{mood_in_one_word}"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--columns", 'How do you feel today?,"Mood, in one word"'],
        ["--columns", "how_do_you_feel_today,mood_in_one_word"],
        ["--prompt-template", FORM_TEMPLATE.replace("\n", "\\n")],
        [
            "--prompt-template",
            "### How do you feel today? {How do you feel today?}\\n### Mood, in one word:\\n{Mood, in one word}",
        ],
    ],
)
def test_the_questions_of_a_form_get_names_for_the_template(cli: Cli, inside: Path, flags: list[str]) -> None:
    (inside / "form.csv").write_text(FORM)
    result = cli("new", "p", "--yes", "--no-git", "--data", "form.csv", *flags)
    assert result.code == 0, result.err
    pre: dict[str, object] = config(inside / "p")["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    assert pre["text_template"] == FORM_TEMPLATE
    names = ["Timestamp", "how_do_you_feel_today", "mood_in_one_word"]
    assert (loaded(inside / "p")["header"], loaded(inside / "p")["names"]) == (0, names)
    assert "`how_do_you_feel_today` is `How do you feel today?`" in result.out
    assert cli("validate", inside / "p" / "fine-tuning" / "olive-config.json").code == 0
    again = cli(*shlex.split(result.out.strip().splitlines()[-1].replace("new p ", "new q "))[1:], "--no-git")
    assert (again.code, config(inside / "q")) == (0, config(inside / "p"))
    again = cli("new", "r", "--yes", "--no-git", "--from", "p/.copier-answers.yml")
    assert (again.code, config(inside / "r")) == (0, config(inside / "p"))


def test_columns_of_json_get_names_for_the_template(cli: Cli, inside: Path) -> None:
    rows = [{"review.text": f"t {i}", "review.label": "ab"[i % 2], "review_text": "same"} for i in range(10)]
    (inside / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = cli("new", "p", "--yes", "--no-git", "--data", "d.jsonl")
    mapping = {"review.text": "review_text_2", "review.label": "review_label"}
    assert loaded(inside / "p")["column_mapping"] == mapping
    assert "Olive does not read `column_mapping`" in result.out
    checked = cli("validate", inside / "p" / "fine-tuning" / "olive-config.json")
    assert (checked.code, "warning" in checked.err) == (0, False)


def test_tables_with_their_columns_in_another_order_are_renamed_by_name(cli: Cli, inside: Path) -> None:
    (inside / "d").mkdir()
    (inside / "d" / "1.csv").write_text("a?,label\nx,1\ny,0\nz,1\n")
    (inside / "d" / "2.csv").write_text("label,a?\n1,x\n0,v\n")
    assert cli("new", "p", "--yes", "--no-git", "--data", "d/*.csv").code == 0
    assert loaded(inside / "p")["column_mapping"] == {"a?": "a"}
