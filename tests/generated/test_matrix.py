"""Every project that `new` can emit: each file parses, the config is valid, nothing of the template is left."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.stage_names import stage_order
from phi_runtime.pipeline.load import check_file
from phi_scaffold import __version__
from phi_scaffold.new import derive, generate, template_files
from phi_scaffold.new.answers import METHODS, PRECISIONS, TARGETS, TASKS, Answers
from tests.generated.editor_schemas import invalid_editor_files

DATA = {
    "sample": None,
    "own.jsonl": '{"question": "what is \\"it\\"?", "reply": "that"}\n{"question": "who {are} you", "reply": "me"}\n',
    "own.json": '[{"question": "x", "context": "c", "answer": "y"}]',
    "own data é.csv": 'text,label\nhello,joy\n"a, b",fear\n',
    "own.tsv": "question\treply\nwho\tme\n",
    "chats.jsonl": '{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}\n',
    "book.txt": "Once upon a time.\nThere was a model.\n",
}
MODELS = ["smollm2-135m", "microsoft/Phi-4-mini-instruct", "someone/unknown-model"]
LEFT_OVER = re.compile(r"\{\{|\{%|%\}|<(?!small>)[a-z_]+>")  # app.py shows small text


@pytest.fixture(autouse=True)
def on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some combinations train on a GPU; without one `validate` warns."""
    monkeypatch.setattr("phi_runtime.checks.cross_check.has_gpu", lambda: True)


def emit(tmp_path: Path, answers: Answers, data: str | None, name: str) -> Path:
    if data is not None:
        own = tmp_path / "source" / name
        own.parent.mkdir()
        own.write_text(data, encoding="utf-8")
        answers = replace(answers, data=own)
    return generate.new(tmp_path / "project", answers).folder


PRODUCT = [
    *itertools.product(METHODS, TARGETS, TASKS, ["sample"]),
    *itertools.product(METHODS, TARGETS, ["classification"], list(DATA)[1:]),
    *itertools.product(["lora"], TARGETS, ["generation", "chat"], list(DATA)[1:]),
]


def pairwise(cases: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Choose cases that have every pair of values which some case has: greedily, the case with the most new pairs first."""
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    missing, chosen = set().union(*pairs.values()), set()
    while missing:
        best = max(pairs, key=lambda case: len(pairs[case] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return chosen


PAIRWISE = pairwise(PRODUCT)
CASES = [case if case in PAIRWISE else pytest.param(*case, marks=pytest.mark.slow) for case in PRODUCT]


@pytest.mark.parametrize(("method", "target", "task", "name"), CASES)
def test_every_combination_is_whole_and_valid(tmp_path: Path, method: str, target: str, task: str, name: str) -> None:
    model = MODELS[len(name) % len(MODELS)]
    precision = PRECISIONS[target][-1 if task == "generation" else 0]
    template = "chat" if name == "own.jsonl" else "plain"
    answers = Answers(model, task, method, target, precision, prompt_template=template)
    folder = emit(tmp_path, answers, DATA[name], name)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        text = path.read_text(encoding="utf-8")
        assert not LEFT_OVER.search(text) or path.suffix in (".jsonl", ".json", ".csv", ".tsv", ".txt"), path
        if path.suffix == ".json" and path.parent.name != "datasets":
            json.loads(text)
        elif path.suffix == ".py":
            ast.parse(text)
            assert len(text.splitlines()) < 350, path
            if path.parent.name == "inferences":
                check_sample(path)
        elif path.suffix == ".sh":
            subprocess.run(["bash", "-n", str(path)], check=True)
    config = folder / "fine-tuning" / "olive-config.json"
    if target == "azureml":
        found = {(finding.rule, finding.severity) for finding in check_file(config).findings}
        assert found == {("placeholder", "error")}
        fill_in(config)
    checked = check_file(config)
    assert not checked.findings
    workflow = checked.workflow
    assert workflow is not None
    expected = ["fetch", "finetune", *(["merge"] if method != "full" else []), "export", "evaluate"]
    assert stage_order(workflow) == expected
    folders = {p.name for p in folder.iterdir() if p.is_dir()}
    for_editors = {".vscode", ".agents", *([".devcontainer"] if target != "directml" else [])}
    assert folders == {"datasets", "fine-tuning", "inferences", "model-cache", "gen-model", "setup", *for_editors}
    assert invalid_editor_files(folder) == []
    setup = (folder / "setup" / "setup.py").read_text(encoding="utf-8")
    assert f'TARGET = "{"cpu" if target == "azureml" else target}"' in setup
    extras = (
        ast.literal_eval(re.findall(r"PROJECT_EXTRAS = ({.+})", setup)[0]) if "PROJECT_EXTRAS = {" in setup else set()
    )
    assert workflow.finetune is not None
    needs_bitsandbytes = method == "qlora" and not workflow.finetune[1].rounds_base
    assert extras == {*(["qlora"] if needs_bitsandbytes else ()), *(["azure"] if target == "azureml" else ())}


def fill_in(config: Path) -> None:
    """Replace the placeholders of a config for Azure ML."""
    text = config.read_text(encoding="utf-8").replace("<subscription id>", "11111111-2222-3333-4444-555555555555")
    config.write_text(re.sub(r"<([a-z]+) ?([a-z]*)>", r"my-\1-\2", text).replace('-"', '"'), encoding="utf-8")


REQUIRED = {
    "gradio",
    "onnxruntime_genai",
    "openai",
    "peft",
    "safetensors",
    "tokenizers",
    "starlette",  # of gradio
    "torch",
    "tqdm",
    "transformers",
}


def check_sample(path: Path) -> None:
    """It belongs to the user: it says how to run it, and needs neither phi_scaffold nor what the requirements do not bring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    siblings = {file.stem for file in path.parent.glob("*.py")}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | siblings | REQUIRED, path
    said = ast.get_docstring(tree) or ""
    assert path.stem == "models" or f"python inferences/{path.name}" in said, path
    if path.name == "chat_onnx.py":  # is carried away with the model
        assert not imported & siblings


def test_the_columns_of_a_prompt_and_its_completion_are_one_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    row = json.dumps({"prompt": turns[:1], "completion": turns[1:]}) + "\n"
    folder = emit(tmp_path, Answers("smollm2-135m", task="chat"), row * 20, "trl.jsonl")
    config = folder / "fine-tuning" / "olive-config.json"
    process = json.loads(config.read_text(encoding="utf-8"))["data_configs"][0]["pre_process_data_config"]
    assert process["message_col"] == ["prompt", "completion"]
    assert [f for f in check_file(config).findings if f.severity == "error"] == []


def test_the_default_project_is_the_golden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emitted text, so that a change of the template is seen in review. Update: `python -m tests.generated.test_matrix`."""
    released(monkeypatch.setattr)
    assert golden_text(generate.new(tmp_path / "golden", Answers("smollm2-135m")).folder) == GOLDEN.read_text(
        encoding="utf-8"
    )


GOLDEN = Path(__file__).parent / "golden.txt"


def released(setattr: Callable[[Any, str, Any], None]) -> None:
    """Let `new` act as the release, not as the checkout that the tests run."""
    setattr(derive, "own_requirement", lambda: "phi-scaffold==0.1.0")
    setattr(derive, "local_requirement", lambda: "")


def golden_text(folder: Path) -> str:
    """The whole tree as one text; of the sample data, the first two rows and the count; no schemas and no hashes."""
    parts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            text = "\n".join([*lines[:2], f"… {len(lines)} rows"]) + "\n"
        if path.name.endswith(".schema.json"):
            text = "…\n"
        if path.match("setup/*.txt"):
            text = text.replace(" \\\n", "")
            text = re.sub(r"( +--hash=\S+)+", lambda found: f" {found[0].count('sha256')} hashes", text)
        parts.append(f"=== {path.relative_to(folder).as_posix()}\n{text}")
    return "".join(parts)


def sample_rows(tmp_path: Path, task: str) -> list[dict[str, Any]]:
    folder = generate.new(tmp_path / "p", Answers("smollm2-135m", task=task)).folder
    return [json.loads(line) for line in (folder / "datasets" / "train.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_the_sample_data_are_enough_and_without_near_duplicates(tmp_path: Path, task: str) -> None:
    rows = sample_rows(tmp_path, task)
    columns = derive.SAMPLES[task]
    assert len(rows) == columns.rows
    if task == "classification":
        counts = {tone: sum(r["tone"] == tone for r in rows) for tone in {r["tone"] for r in rows}}
        assert set(counts) == {"joy", "sadness", "fear", "surprise"}
        assert sum(counts.values()) >= 480
        assert len(set(counts.values())) == 1
    assert len(rows) >= 120
    questions = [
        next(m["content"] for m in r["messages"] if m["role"] == "user") if task == "chat" else r[columns.inputs[0]]
        for r in rows
    ]
    words = [frozenset(re.findall(r"[a-z']+", text.lower())) for text in questions]
    # Of the questions of one help desk some have most of their few words in common.
    limit = 0.75 if task == "chat" else 0.6
    alike = [(a, b) for a, b in itertools.combinations(words, 2) if len(a & b) >= limit * len(a | b)]
    assert not alike


@pytest.mark.parametrize("task", TASKS)
def test_the_sample_data_have_answers_in_the_form_of_their_task(tmp_path: Path, task: str) -> None:
    for row in sample_rows(tmp_path, task):
        if task == "chat":
            roles = [m["role"] for m in row["messages"] if m["role"] != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
        elif task == "question-answering":
            assert row["answer"] in row["context"]
        elif task == "extraction":
            record = json.loads(row["record"])
            assert list(record) == ["item", "quantity", "place", "day"]
            assert record["item"].lower() in row["text"].lower()
        elif task == "summarization":
            assert len(row["summary"]) < 0.5 * len(row["text"])


def test_plain_copier_makes_the_same_project_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`copier copy` of this repository, as somebody without phi-scaffold would."""
    from copier import run_copy

    released(monkeypatch.setattr)
    source = tmp_path / "repository"
    template = template_files.template_root(source)
    run_copy(str(template), tmp_path / "project", defaults=True, quiet=True)
    assert not check_file(tmp_path / "project" / "fine-tuning" / "olive-config.json").findings
    ours = generate.new(tmp_path / "ours" / "project", Answers("smollm2-135m")).folder
    tree = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (tmp_path / "project", ours)]
    assert tree[0] == tree[1]


def test_copier_yml_and_the_package_agree() -> None:
    import yaml

    from phi_scaffold import __version__
    from phi_scaffold.new.catalog import DEFAULT

    questions = yaml.safe_load((Path(__file__).parents[2] / "copier.yml").read_text(encoding="utf-8"))
    assert tuple(questions["task"]["choices"]) == TASKS
    assert tuple(questions["method"]["choices"]) == METHODS
    assert tuple(questions["target"]["choices"]) == TARGETS
    assert tuple(questions["precision"]["choices"]) == PRECISIONS["cuda"]
    assert questions["model"]["default"] == DEFAULT
    assert questions["phi_scaffold_version"]["default"] == __version__
    derived = derive.derive(Answers("smollm2-135m"))[0]
    assert set(derived) == {q for q in questions if not q.startswith("_")} - {"project_name", "recorded"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_copier_yml_are_those_that_new_derives_for_its_samples(model: str, method: str) -> None:
    import jinja2
    import yaml

    questions = yaml.safe_load((Path(__file__).parents[2] / "copier.yml").read_text(encoding="utf-8"))
    settings = (
        "learning_rate",
        "num_train_epochs",
        "batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "int4_aware",
        "int4_calibrated",
        "text_column",
        "max_seq_len",
        "max_new_tokens",
    )
    defaults = {setting: jinja2.Template(questions[setting]["default"]) for setting in settings}
    for task, target in itertools.product(TASKS, TARGETS):
        derived = derive.derive(Answers(model, task=task, method=method, target=target))[0]
        for setting, default in defaults.items():
            assert default.render(derived) == str(derived[setting]), (setting, task, target)


def test_the_help_of_new_lists_every_task_method_and_target() -> None:
    from typing import get_type_hints

    from phi_scaffold.cli.new import new

    options = get_type_hints(new, include_extras=True)
    for name, choices in (("task", TASKS), ("method", METHODS), ("target", TARGETS)):
        assert options[name].__metadata__[0].help.startswith(f"{', '.join(choices[:-1])} or {choices[-1]}")


def test_a_project_says_how_its_phi_scaffold_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    class Installed:
        def __init__(self, origin: str | None) -> None:
            self.origin = origin

        def read_text(self, _: str) -> str | None:
            return self.origin

    here = tmp_path.as_uri()
    release = f"phi-scaffold=={__version__}"
    expected = {
        None: (release, ""),
        f'{{"url": "{here}/x.whl", "archive_info": {{}}}}': (release, f"phi-scaffold @ {here}/x.whl"),
        f'{{"url": "{here}", "dir_info": {{}}}}': (release, f"phi-scaffold @ {here}"),
        f'{{"url": "{here}", "dir_info": {{"editable": true}}}}': (release, f"-e {here}"),
        '{"url": "https://h/x.whl", "archive_info": {"hashes": {"sha256": "ab"}}}': (
            "phi-scaffold @ https://h/x.whl#sha256=ab",
            "",
        ),
        '{"url": "https://h/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}': (
            "phi-scaffold @ git+https://h/r.git@abc",
            "",
        ),
    }
    for origin, requirements in expected.items():
        monkeypatch.setattr(metadata, "distribution", lambda _, origin=origin: Installed(origin))
        assert (template_files.own_requirement(), template_files.local_requirement()) == requirements


def test_a_project_of_a_checkout_pins_its_commit_if_the_remote_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(template_files, "_origin", lambda: {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "a")
    commit = git("rev-parse", "HEAD")
    git("remote", "add", "origin", "https://user:secret@example.com/o/r.git")
    assert template_files.own_requirement() == f"phi-scaffold=={__version__}", "nobody else has the commit"
    git("update-ref", "refs/remotes/origin/main", commit)
    assert template_files.own_requirement() == f"phi-scaffold @ git+https://example.com/o/r.git@{commit}"
    git("remote", "set-url", "origin", "git@example.com:o/r.git")
    assert template_files.own_requirement() == f"phi-scaffold @ git+ssh://git@example.com/o/r.git@{commit}"
    git("remote", "set-url", "origin", str(tmp_path))
    assert template_files.own_requirement() == f"phi-scaffold=={__version__}", "a path is of this machine alone"


def test_a_path_of_this_machine_is_in_a_file_that_git_ignores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(derive, "local_requirement", lambda: "-e file:///src/phi")
    folder = generate.new(tmp_path / "p", Answers("smollm2-135m")).folder
    naming = [
        path.name for path in folder.rglob("*") if path.is_file() and "file:///src/phi" in path.read_text("utf-8")
    ]
    assert naming == ["phi-scaffold.local.txt"]
    assert "/setup/phi-scaffold.local.txt" in (folder / ".gitignore").read_text(encoding="utf-8").splitlines()


EMITTED = [
    *(("classification", "lora", "cpu"), ("extraction", "full", "cuda"), ("chat", "qlora", "directml")),
    ("generation", "lora", "azureml"),
]


@pytest.mark.parametrize(("task", "method", "target"), EMITTED)
def test_a_project_is_checked_and_formatted_by_ruff_as_emitted(
    tmp_path: Path, task: str, method: str, target: str
) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not in this environment")
    folder = generate.new(tmp_path / "p", Answers("smollm2-135m", task=task, method=method, target=target)).folder
    for command in (["check"], ["format", "--diff"]):
        done = subprocess.run([ruff, *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# Equal to their default, and written for Olive or because a user is likely to change them.
WRITTEN_DEFAULTS = {
    *(
        "data_name",
        "split",
        "type",
        "train_data_config",
        "message_col",
        "merge",
        "host",
        "target",
        "systems",
        "local_system",
    ),
    *("training_machine", "accelerators", "device", "execution_providers"),
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
}


@pytest.mark.parametrize(("task", "method", "target"), EMITTED)
def test_a_config_has_no_key_that_changes_nothing(tmp_path: Path, task: str, method: str, target: str) -> None:
    answers = Answers("smollm2-135m", task=task, method=method, target=target)
    file = generate.new(tmp_path / "p", answers).folder / "fine-tuning" / "olive-config.json"
    if target == "azureml":
        fill_in(file)
    expected, config = check_file(file).workflow, json.loads(file.read_text(encoding="utf-8"))

    def objects(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            yield value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from objects(item)

    for owner in objects(config):
        for key, value in list(owner.items()):
            del owner[key]
            file.write_text(json.dumps(config), encoding="utf-8")
            assert key in WRITTEN_DEFAULTS or check_file(file).workflow != expected, key
            owner[key] = value


if __name__ == "__main__":
    import tempfile

    released(setattr)
    with tempfile.TemporaryDirectory() as temporary:
        GOLDEN.write_text(
            golden_text(generate.new(Path(temporary) / "golden", Answers("smollm2-135m")).folder), encoding="utf-8"
        )
