"""`data check` and `data preview` show what goes wrong in silence, before it is trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.trust import trust
from phi_runtime.data.file_form import FileForm, file_form
from phi_runtime.data.row import ReadOptions
from phi_runtime.pipeline.engine import run
from phi_runtime.training.rows import special_token_warnings
from tests.conftest import Cli, Listener, MakeProject, edit_config

BAD = [
    '{"phrase": "we won", "tone": "joy"}',
    '{"phrase": "we won", "tone": "joy"}',
    '{"phrase": "We won!", "tone": "joy"}',
    '{"phrase": "write to ann@example.org", "tone": "joy"}',
    '{"phrase": "a cafÃ© at night", "tone": "fear"}',
    '{"phrase": "", "tone": "fear"}',
    '{"phrase": "dark", "tone": ["fear"]}',
    '{"phrase": "dark"',
    '{"tone": "fear", "phrase": "who moved there", "source": "x"}',
]


@pytest.mark.parametrize(
    "command",
    [
        ["data", "check"],
        ["data", "preview"],
        ["run"],
        ["evaluate"],
        ["report"],
        ["runs", "list"],
        ["optimize"],
        ["sweep"],
        ["status"],
        ["chat"],
        ["generate", "--prompt", "x"],
    ],
)
def test_the_light_environment_hands_over_before_it_imports_what_it_has_not(
    command: list[str], project: ProjectFolder
) -> None:
    python = project.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    trust(project.root, "setup")
    code = (
        "import sys\n"
        "for name in ('numpy', 'torch', 'transformers', 'tokenizers'):\n    sys.modules[name] = None\n"
        "import phi_scaffold.environment as environment\n"
        "environment._hand_over = lambda python: sys.exit(77)\n"
        "from phi_scaffold.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--project", project.root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 77, done.stderr


def rows_of(project: ProjectFolder, *lines: str) -> Path:
    path = project.root / "datasets" / "train.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    return make_project(max_steps=1)


def check(cli: Cli, project: ProjectFolder, *flags: str) -> dict[str, Any]:
    found: dict[str, Any] = cli("data", "check", "--json", "--project", project.root, *flags).json
    return found


def test_every_fault_is_counted_and_shown_with_its_line(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *BAD)
    found = check(cli, project)
    (data,) = found["datasets"]
    rows = {k: data["rows"][k] for k in ("read", "broken", "empty", "kept", "duplicate")}
    assert rows == {"read": 9, "broken": 2, "empty": 1, "kept": 6, "duplicate": 1}
    assert [(p["file"], p["line"]) for p in data["broken_at"]] == [("datasets/train.jsonl", n) for n in (7, 8)]
    assert [p["line"] for p in data["empty_at"]] == [6]
    assert data["personal_data"] == {"email": 1}
    assert [p["line"] for p in data["personal_data_at"]] == [4]
    assert data["encoding_faults"] == {"mojibake": 1}
    assert data["columns"] == {"phrase, tone": 7, "phrase, source, tone": 1}
    assert found["usable"]


def test_the_form_of_a_data_file_is_examined_once(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = []

    def file_form_once(path: Path, options: ReadOptions) -> FileForm:
        examined.append(path.name)
        return file_form(path, options)

    monkeypatch.setattr("phi_runtime.data.report.file_form", file_form_once)
    assert check(cli, project)["datasets"][0]["form"] == "UTF-8, JSON Lines"
    assert examined == ["train.jsonl"]


def test_lengths_labels_and_the_share_that_is_trained_are_those_of_the_tokens(
    cli: Cli, project: ProjectFolder, tiny_tokenizer: Any
) -> None:
    found = check(cli, project)
    (data,) = found["datasets"]
    assert data["labels"] == {"joy": 30, "fear": 30}
    assert data["tokens"]["percentiles"]["100"] < data["max_seq_len"]
    sides = found["splits"]
    assert sides["training"]["rows"] + sides["validation"]["rows"] == 60
    assert sides["training"]["tokens"] + sides["validation"]["tokens"] == data["tokens"]["total"]
    trained = {tone: len(tiny_tokenizer(tone).input_ids) + 1 for tone in ("joy", "fear")}
    assert data["tokens"]["trained"] == 30 * sum(trained.values())
    assert data["tokens"]["trained_share"] == round(data["tokens"]["trained"] / data["tokens"]["total"], 4)


def test_held_out_rows_that_were_seen_are_shown_in_pairs(cli: Cli, project: ProjectFolder) -> None:
    words = ("old", "red", "sly", "wet", "big")
    phrases = [f"The {word} bird sang in our garden" for word in words]
    phrases += [f"the {word} bird sang, in our GARDEN!" for word in words]
    rows_of(project, *(json.dumps({"phrase": phrase, "tone": "joy"}) for phrase in phrases))
    leakage = check(cli, project)["splits"]["leakage"]
    assert leakage["near_duplicate"] > 0
    assert all(pair["training"] != pair["validation"] for pair in leakage["examples"])


def labeled(*rows: tuple[str, str]) -> list[str]:
    return [json.dumps({"phrase": phrase, "tone": tone}) for phrase, tone in rows]


def test_questions_with_several_labels_are_shown_in_pairs(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *labeled(*((f"lamp {i // 2}", ("warm", "cold")[i % 2]) for i in range(20))))
    found = check(cli, project)
    (data,) = found["datasets"]
    assert (data["rows"]["contradictory"], data["rows"]["duplicate"]) == (10, 0)
    assert [place["line"] for place in data["contradictory_at"]] == list(range(2, 21, 2))
    assert "datasets/train.jsonl:1" in data["contradictory_at"][0]["message"]
    assert any("10 of 10" in warning for warning in found["warnings"])
    sides = found["splits"]
    assert sides["unused_rows"] == 20 - sides["training"]["rows"] - sides["validation"]["rows"] > 0


def test_labels_that_are_alike_rare_or_on_one_side_are_named(cli: Cli, project: ProjectFolder) -> None:
    tones = ["warm", "cold", "Warm"] * 9 + ["odd"]
    rows_of(project, *labeled(*((f"lamp {i}", tone) for i, tone in enumerate(tones))))
    warnings = check(cli, project)["warnings"]
    for labels in (("`warm`", "`Warm`"), ("single row", "`odd`")):
        assert any(all(label in warning for label in labels) for warning in warnings), warnings
    assert "validation rows: " in warnings[-1]  # fewer than 20


def test_a_long_label_is_cut_and_one_label_is_no_plural(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *labeled(*((f"lamp {i}", "cold " * 9000 if i == 3 else "warm") for i in range(20))))
    (data,) = check(cli, project)["datasets"]
    assert sorted(map(len, data["labels"])) == [4, 80]
    rows_of(project, *labeled(*((f"lamp {i}", "warm") for i in range(20))))
    out = cli("data", "check", "--project", project.root).out
    assert "1 label: warm 100.0 %" in out
    assert "all rows have the label `warm`" in out


def test_lengths_are_counted_up_to_each_power_of_two(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *labeled(*((f"lamp {i} " * (1 if i else 90), "warm") for i in range(20))))
    (data,) = check(cli, project)["datasets"]
    bins = data["tokens"]["histogram"]
    assert [b["up_to"] for b in bins] == [2 ** (i + bins[0]["up_to"].bit_length() - 1) for i in range(len(bins))]
    assert [b["rows"] for b in bins if b["rows"]] == [19, 1]
    assert bins[-1]["up_to"] // 2 < data["tokens"]["percentiles"]["100"] <= bins[-1]["up_to"]


def test_special_tokens_that_rows_write_are_counted_with_their_lines(cli: Cli, project: ProjectFolder) -> None:
    rows = [(f"lamp {i}", "warm<|im_end|>") for i in range(18)]
    rows += [("hot <|im_end|>\n<|im_start|>assistant\nfree", "cold"), ("icy", "cold</s>")]
    rows_of(project, *labeled(*rows))
    found = check(cli, project)
    (data,) = found["datasets"]
    assert data["labels"] == {"warm": 18, "cold": 1, "cold</s>": 1}
    assert data["written_ends"] == {"<|im_end|>": 18}
    assert data["special_tokens"] == {"<|im_end|>": 1, "<|im_start|>": 1}
    assert data["foreign_tokens"] == {"</s>": 1}
    assert [[p["line"] for p in data[f"{key}_at"]] for key in ("special_tokens", "foreign_tokens")] == [[19], [20]]
    warnings = special_token_warnings(found)
    tokens = [(18, "<|im_end|>"), (1, "<|im_end|>"), (1, "<|im_start|>"), (1, "</s>")]
    for warning, (rows_with_it, token) in zip(warnings, tokens, strict=True):
        assert warning.startswith(f"{rows_with_it} of 20 rows")
        assert f"`{token}`" in warning
    out = cli("data", "check", "--project", project.root).out
    assert "trained once, as the end: <|im_end|> 18" in out

    def refuse(config: dict[str, Any]) -> None:
        config["data_configs"][0]["pre_process_data_config"]["special_tokens_in_rows"] = "refuse"

    edit_config(project, refuse)
    refused = check(cli, project)["datasets"][0]
    assert (refused["rows"]["broken"], refused["broken_at"][0]["line"]) == (1, 19)


def test_how_a_file_is_read_is_said(cli: Cli, project: ProjectFolder, tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    lines = [f"caf\xe9 {i};{'NULL' if i == 7 else 'joy'}\n" for i in range(20)]
    file.write_bytes("".join(["phrase;tone\n", *lines]).encode("cp1252"))
    report = check(cli, project, "--data", str(file))
    assert report["datasets"][0]["form"] == "Windows-1252, separated by semicolons, header"
    assert report["datasets"][0]["rows"]["kept"] == 20
    remarks = [warning for warning in report["warnings"] if warning.startswith("reviews.csv")]
    assert [("Windows-1252" in remark, "`NULL` 1" in remark) for remark in remarks] == [(True, False), (False, True)]
    assert "separated by semicolons" in cli("data", "check", "--project", project.root, "--data", str(file)).out


def test_the_sizes_of_three_sides_and_the_leaks_into_both_are_shown(cli: Cli, project: ProjectFolder) -> None:
    edit_config(project, lambda c: c["passes"]["finetune"].update(test_dataset_size=0.1))
    splits = check(cli, project)["splits"]
    assert {name: splits[name]["rows"] for name in ("training", "validation", "test")} == {
        "training": 42,
        "validation": 12,
        "test": 6,
    }
    assert [splits[key]["same_question"] for key in ("leakage", "test_leakage")] == [0, 0]

    def trained_again(config: dict[str, Any]) -> None:
        config["data_configs"].append({**config["data_configs"][0], "name": "final"})
        config["passes"]["finetune"] |= {"test_dataset_size": 0, "test_data_config": "final"}

    edit_config(project, trained_again)
    splits = check(cli, project)["splits"]
    assert (splits["test"]["rows"], splits["test_leakage"]["same_question"]) == (60, 48)
    assert "test rows that are also in training: 48 identical" in cli("data", "check", "--project", project.root).out


def test_where_nothing_is_usable_it_exits_with_4(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, '{"phrase": "x", "tone": ""}', '{"phrase": "x", "tone": "joy" "}')
    result = cli("data", "check", "--json", "--project", project.root)
    assert (result.code, result.json["usable"]) == (4, False)
    result = cli("data", "check", "--project", project.root)
    assert result.code == 4
    assert "No usable row" in result.out


def test_the_table_says_what_the_json_says(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *BAD)
    out = cli("data", "check", "--project", project.root).out
    for said in ("broken", "--skip-bad-rows", "datasets/train.jsonl:7", "likely personal data: email 1", "mojibake 1"):
        assert said in out


def test_a_run_stops_at_a_broken_row_or_leaves_it_out_when_told_to(cli: Cli, project: ProjectFolder) -> None:
    rows_of(project, *BAD)
    stopped = cli("run", "--until", "finetune", "--project", project.root)
    assert stopped.code == 4
    assert "train.jsonl:7:1: error: `tone` is" in stopped.err
    assert "(2 bad rows in all)" in stopped.err
    assert "--skip-bad-rows" in stopped.err
    done = cli("run", "--until", "finetune", "--skip-bad-rows", "--json", "--project", project.root)
    assert done.code == 0, done.err
    warnings = [e["message"] for e in done.events if e["event"] == "warning"]
    assert "2 of 9 rows cannot be used and are skipped" in warnings
    facts = json.loads((project.gen_model / "adapter" / "manifest.json").read_text())["facts"]
    assert (facts["skipped_rows"], facts["empty_rows"]) == (2, 1)


def test_the_run_keeps_the_report_beside_its_record(project: ProjectFolder) -> None:
    outcome = run(project, Listener(), until="finetune")
    assert outcome.run_folder is not None
    kept = json.loads((outcome.run_folder / "data_report.json").read_text())
    assert kept["datasets"][0]["rows"]["kept"] == 60


def test_a_preview_joins_to_the_very_text_and_marks_what_is_trained(cli: Cli, project: ProjectFolder) -> None:
    found = cli("data", "preview", "--rows", "2", "--json", "--project", project.root).json["rows"]
    assert len(found) == 2
    for row in found:
        text = "".join(segment["text"] for segment in row["segments"])
        assert text.startswith("### Phrase: ") or text.startswith("### Text: ")
        trained = "".join(segment["text"] for segment in row["segments"] if segment["trained"])
        assert trained in ("joy<|im_end|>", "fear<|im_end|>")
        assert row["segments"][-1]["kind"] == "special"
    plain = cli("data", "preview", "--rows", "1", "--project", project.root).out
    assert "⟦" in plain


def test_chats_are_checked_and_previewed_by_turns(cli: Cli, project: ProjectFolder) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yes"},
                      {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "no"}]}
        for i in range(20)
    ]  # fmt: skip
    rows_of(project, *map(json.dumps, rows))
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    chatml += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

    def converse(config: dict[str, Any]) -> None:
        process = config["data_configs"][0]["pre_process_data_config"]
        del process["text_template"]
        process["chat_template"] = chatml

    edit_config(project, converse)
    assert check(cli, project)["datasets"][0]["row_type"] == "conversations"
    (row,) = cli("data", "preview", "-n", "1", "--json", "--project", project.root).json["rows"]
    assert [s["text"] for s in row["segments"] if s["trained"] and s["kind"] == "completion"] == ["yes", "no"]


def test_hooks_change_and_leave_out_rows_and_their_faults_have_a_place(cli: Cli, project: ProjectFolder) -> None:
    trust(project.root, "user")
    hooks = project.config.with_name("hooks.py")
    hooks.write_text("def transform(row):\n    row['tone'] = row['tone'].upper()\n    return row\n\n\n"
                     "def filter(row):\n    return row['tone'] == 'JOY'\n")  # fmt: skip
    (data,) = check(cli, project)["datasets"]
    assert (data["rows"]["filtered"], data["labels"]) == (30, {"JOY": 30})
    hooks.write_text("def transform(row):\n    return row['mood']\n")
    (data,) = check(cli, project)["datasets"]
    assert data["rows"]["broken"] == 60
    assert "hooks.py:2" in data["broken_at"][0]["message"]


def test_a_user_script_runs_only_when_it_is_let(cli: Cli, project: ProjectFolder) -> None:
    project.config.with_name("user_script.py").write_text(
        "def to_text(row):\n    return f\"{row['phrase']} is {row['tone']}\"\n"
    )

    def call(config: dict[str, Any]) -> None:
        config["data_configs"][0]["pre_process_data_config"] = {
            "text_formatting_func": "to_text", "user_script": "user_script.py", "strategy": "line-by-line",
        }  # fmt: skip
        config["passes"]["finetune"]["completion_only_loss"] = False

    edit_config(project, call)
    refused = cli("data", "check", "--project", project.root)
    assert refused.code == 2
    assert "--trust-project" in refused.err
    rows = cli("data", "preview", "-n", "1", "--json", "--trust-project", "--project", project.root).json["rows"]
    text = "".join(s["text"] for s in rows[0]["segments"])
    assert " is joy" in text or " is fear" in text
