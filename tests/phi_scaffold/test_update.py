"""`update`: the template moves on, edits stay, and the project is complete or unchanged at any time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.release import ROOT, pack

from phi_runtime.core.locks import exclusive
from phi_runtime.core.trust import trust
from phi_scaffold import __version__
from phi_scaffold.new import derive, generate, template_files
from phi_scaffold.new.answers import Answers
from phi_scaffold.show import update as show_update
from phi_scaffold.update import apply, merge, releases
from phi_scaffold.update import project as project_module
from phi_scaffold.update.project import ANSWERS
from tests.conftest import Cli, Result
from tests.phi_scaffold.test_json_shapes import documented

OLD = "0.0.9"
README_TEMPLATE = "README.md.jinja"
README, CONFIG = "README.md", "fine-tuning/olive-config.json"
APP, BATCH, LEGACY = "inferences/app.py", "inferences/batch.py", "inferences/legacy.py"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "state")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".git" not in p.parts and not p.name.startswith(".run.lock")
    }


@pytest.fixture(scope="session")
def old_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template of this version with an older README, another pin, a file less and a file more."""
    root = template_files.template_root(tmp_path_factory.mktemp("old"))
    template = root / "template"
    replace(template / README_TEMPLATE, "## Folders", "## Directories")
    replace(template / "fine-tuning" / "olive-config.json.jinja", '"warmup_steps": 5', '"warmup_steps": 9')
    replace(template / "setup" / "requirements-qlora.txt", "bitsandbytes==", "bitsandbytes==0.")
    (template / "inferences" / "batch.py.jinja").unlink()
    (template / "inferences" / "legacy.py").write_text("print('an old sample')\n")
    return root


@pytest.fixture(autouse=True)
def rendered_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, rendered: dict[str, Path]
) -> None:
    """Renders each template once for the same values."""

    def render(tree: Path, answers: dict[str, Any], template: Path) -> None:
        key = json.dumps([(template / "template" / README_TEMPLATE).read_text(), answers, tree.name])
        if key not in rendered:
            folder = tmp_path_factory.mktemp("rendered") / tree.name
            template_files.render(folder, answers, template)
            rendered[key] = folder
        shutil.copytree(rendered[key], tree)

    monkeypatch.setattr(project_module, "render", render)


@pytest.fixture(scope="session")
def rendered() -> dict[str, Path]:
    return {}


@pytest.fixture(scope="session")
def old_release(old_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive of that template."""
    folder = tmp_path_factory.mktemp("releases")
    (folder / f"{OLD}.tar.xz").write_bytes(pack(old_template))
    return folder


@pytest.fixture
def created(
    old_template: Path,
    old_release: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    rendered: dict[str, Path],
) -> Callable[..., Path]:
    """Creates a project with phi-scaffold 0.0.9, in a path with blanks, and commits it."""
    monkeypatch.setattr(releases, "FOLDER", old_release)
    folder = tmp_path / "my projects" / "a b"

    def create(**answers: Any) -> Path:
        if not answers and "created" in rendered:
            shutil.copytree(rendered["created"], folder)
            trust(folder, "user")
            return folder
        with monkeypatch.context() as patch:
            patch.setattr(derive, "__version__", OLD)
            patch.setattr(template_files, "__version__", OLD)
            patch.setattr(template_files, "template_root", lambda _: old_template)
            project = generate.new(folder, Answers("smollm2-135m", **answers)).folder
        git(project, "init", "--quiet")
        commit(project)
        if not answers:
            rendered["created"] = tmp_path_factory.mktemp("created") / "a b"
            shutil.copytree(folder, rendered["created"])
        trust(project, "user")
        return project

    return create


def update(cli: Cli, project: Path, *flags: str) -> Result:
    return cli("update", "--project", project, *flags)


def kinds(result: Result) -> dict[str, str]:
    return {file["path"]: file["change"] for file in result.json["files"]}


def test_generated_files_become_those_of_this_version_and_the_second_update_does_nothing(
    cli: Cli, created: Callable[..., Path], tmp_path: Path
) -> None:
    project = created()
    before = files(project)
    result = update(cli, project, "--json")
    assert (result.code, result.json["from"], result.json["to"]) == (0, OLD, __version__)
    found = kinds(result)
    assert found == {
        ANSWERS: "updated",
        README: "updated",
        CONFIG: "updated",
        BATCH: "added",
        LEGACY: "deleted",
        "setup/requirements-qlora.txt": "updated",
        "setup/phi-scaffold.txt": "updated",
    }
    fresh = generate.new(tmp_path / "fresh" / "a b", Answers("smollm2-135m")).folder
    assert files(project) == files(fresh)
    commit(project)
    again = update(cli, project, "--json")
    assert (again.code, again.json["files"], again.json["written"]) == (0, [], False)
    preview = update(cli, project, "--diff")
    assert (preview.code, preview.out) == (0, "")
    assert f"has the template of phi-scaffold {__version__}" in preview.err
    assert files(project) == files(fresh) != before


def test_edits_stay_where_the_template_changed_elsewhere(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    replace(project / README, "# a b", "# Our moods")
    replace(project / CONFIG, '"learning_rate": 0.0007', '"learning_rate": 0.0003')
    (project / "notes.md").write_text("mine")
    (project / "setup" / "setup.sh").write_text("# mine\n")
    (project / APP).write_bytes(b"\xff mine")
    commit(project)
    result = update(cli, project, "--json")
    found = kinds(result)
    assert (result.code, found[README], found[CONFIG]) == (0, "merged", "merged")
    assert not found.keys() & {"notes.md", "setup/setup.sh", APP}, "the template has not changed them"
    readme = (project / README).read_text()
    assert "# Our moods" in readme
    assert "## Folders" in readme
    training = json.loads((project / CONFIG).read_text())["passes"]["finetune"]["training_args"]
    assert (training["learning_rate"], training["warmup_steps"]) == (0.0003, 5)


def test_a_conflict_is_marked_in_the_file_and_listed(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    replace(project / README, "## Directories", "## Layout")
    (project / BATCH).write_text("print('my own')\n")
    replace(project / LEGACY, "old", "good")
    commit(project)
    preview = update(cli, project, "--diff")
    result = update(cli, project, "--json")
    assert (preview.code, result.code, result.json["conflicts"]) == (6, 6, 2)
    found = kinds(result)
    assert (found[README], found[BATCH], found[LEGACY]) == ("conflict", "conflict", "kept")
    lines = (project / README).read_text().splitlines()
    (begin,) = next(file["lines"] for file in result.json["files"] if file["path"] == README)
    expected = ["<<<<<<< yours", "## Layout", "=======", "## Folders", f">>>>>>> phi-scaffold {__version__}"]
    assert lines[begin - 1 : begin + 4] == expected
    assert "good sample" in (project / LEGACY).read_text()
    commit(project)
    assert update(cli, project).code == 0, "the conflicts are the user's now"


def test_deleted_files_stay_deleted(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    (project / README).unlink()
    (project / APP).unlink()
    commit(project)
    result = update(cli, project, "--json")
    assert (result.code, kinds(result)[README]) == (0, "kept")
    assert APP not in kinds(result)
    assert not (project / README).exists()
    assert not (project / APP).exists()


def test_data_models_outputs_and_secrets_are_not_touched(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    kept = {
        "datasets/train.jsonl": b"{}\n",
        ".env": b"HF_TOKEN=x\n",
        "gen-model/onnx/model.onnx": b"m",
        "model-cache/README.md": b"",
    }
    for name, content in kept.items():
        (project / name).write_bytes(content)
    commit(project)
    assert update(cli, project).code == 0
    assert {name: (project / name).read_bytes() for name in kept} == kept


def test_line_ends_and_modes_of_an_edited_file_stay(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    text = (project / README).read_bytes().replace(b"# a b", b"# mine").replace(b"\n", b"\r\n")
    (project / README).write_bytes(text)
    (project / README).chmod(0o755)
    commit(project)
    assert kinds(update(cli, project, "--json"))[README] == "merged"
    expected = text.replace(b"## Directories", b"## Folders")
    assert ((project / README).read_bytes(), (project / README).stat().st_mode & 0o777) == (expected, 0o755)


def test_the_preview_shows_the_changes_and_writes_nothing(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    replace(project / README, "# a b", "# Our moods")  # not committed
    before = files(project)
    result = update(cli, project, "--diff")
    assert result.code == 0
    assert {"-## Directories", "+## Folders", f"--- a/{README}", "+++ /dev/null", f"+++ b/{BATCH}"} <= set(
        result.out.splitlines()
    )
    shown = update(cli, project, "--diff", "--json").json
    assert "+## Folders\n" in next(file["diff"] for file in shown["files"] if file["path"] == README)
    assert not shown["written"]
    documented("`update --json`").check(shown)
    assert files(project) == before


def test_long_generated_lines_are_not_in_the_preview(capsys: pytest.CaptureFixture[str]) -> None:
    change = merge.FileChange("x.json", "updated", b"{}", b"x" * 5000)
    show_update.diff(project_module.Update("1", "2", (change,)), quiet=False)
    assert len(capsys.readouterr().out) < 200


def test_uncommitted_changes_are_refused_with_a_command(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    (project / "notes é.md").write_text("mine")
    before = files(project)
    refused = update(cli, project, "--json")
    assert (refused.code, refused.json["fix"].partition(" -m")[0]) == (6, "git add --all && git commit")
    assert "notes é.md" in refused.json["message"]
    shutil.rmtree(project / ".git")
    refused = update(cli, project, "--json")
    assert (refused.code, refused.json["fix"].partition(" &&")[0]) == (6, "git init")
    assert files(project) == before


def test_a_run_at_work_is_a_conflict(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    with exclusive(project / "gen-model" / ".run.lock"):
        assert update(cli, project).code == 6
    assert update(cli, project).code == 0


@pytest.mark.parametrize(
    ("change", "code", "fix"),
    [
        (lambda _: "", 2, "restore this file"),
        (lambda text: text.replace("phi_scaffold_version", "other"), 2, "new NAME --from"),
        (lambda text: text.replace(f"phi_scaffold_version: {OLD}", "phi_scaffold_version: 9.9.9"), 2, "install a newer"),
        (lambda text: text.replace("_src_path: phi-scaffold", "_src_path: gh:me/fork"), 2, "copier update"),
        (lambda text: text.replace("method: lora", "method: magic"), 2, "correct this value"),
    ],
)  # fmt: skip
def test_projects_of_an_unknown_template_are_refused_with_what_to_do(
    cli: Cli, created: Callable[..., Path], change: Callable[[str], str], code: int, fix: str
) -> None:
    project = created()
    answers = project / ANSWERS
    answers.write_text(change(answers.read_text()))
    commit(project)
    before = files(project)
    refused = update(cli, project, "--json")
    assert (refused.code, fix in refused.json["fix"]) == (code, True), refused.json
    assert files(project) == before
    answers.unlink()
    assert update(cli, project).code == 2


def test_new_questions_get_the_values_that_new_derives(cli: Cli, created: Callable[..., Path], tmp_path: Path) -> None:
    import yaml

    data = tmp_path / "own.csv"
    data.write_text("text,label\n" + "good day,up\nbad day,down\n" * 20)
    project = created(data=data)
    answers = yaml.safe_load((project / ANSWERS).read_text())
    length = answers.pop("max_seq_len")
    (project / ANSWERS).write_text(yaml.safe_dump(answers))
    commit(project)
    assert update(cli, project, "--diff", "--json").json["notes"] == []
    (project / "datasets" / "own.csv").rename(tmp_path / "elsewhere.csv")
    commit(project)
    assert len(update(cli, project, "--diff", "--json").json["notes"]) == 1
    git(project, "revert", "--no-edit", "HEAD")
    assert update(cli, project).code == 0
    assert yaml.safe_load((project / ANSWERS).read_text())["max_seq_len"] == length != 512


def test_the_config_of_a_project_around_an_existing_one_is_the_users(cli: Cli, created: Callable[..., Path]) -> None:
    project = created()
    replace(project / ANSWERS, "existing_config: ''", "existing_config: mine.json")
    commit(project)
    found = kinds(update(cli, project, "--json"))
    assert README in found
    assert CONFIG not in found


def test_files_are_not_written_through_links(cli: Cli, created: Callable[..., Path], tmp_path: Path) -> None:
    project = created()
    (project / "setup").rename(tmp_path / "elsewhere")
    (project / "setup").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    commit(project)
    before = files(tmp_path / "elsewhere")
    assert update(cli, project).code == 6
    assert files(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("number", range(0, 7, 2))
def test_an_error_undoes_what_was_written(
    cli: Cli, created: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    project = created()
    before, original, count = files(project), Path.replace, 0

    def fail(self: Path, target: Path) -> Path:
        nonlocal count
        count += self.suffix == ".new"
        if self.suffix == ".new" and count > number:
            raise OSError(28, "No space left on device", str(target))
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        if number < 6:
            assert update(cli, project).code == 1
            assert files(project) == before
    assert update(cli, project).code == 0
    assert files(project) != before


KILLED = """
import os, signal, sys
from pathlib import Path
from phi_scaffold.update.apply import apply
from phi_scaffold.update.merge import FileChange

root, number, sign = Path(sys.argv[1]), int(sys.argv[2]), getattr(signal, sys.argv[3])
original, count = Path.replace, 0

def replace(self, target):
    global count
    if self.suffix == ".new":
        count += 1
        if count > number:
            os.kill(os.getpid(), sign)
    return original(self, target)

Path.replace = replace
contents = [("a", b"1", b"2"), ("b", None, b"2"), ("c", b"1", None), ("d", b"1", b"2")]
apply(root, [FileChange(name, "updated", before, after) for name, before, after in contents])
"""


@pytest.mark.process
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_killed_update_is_undone(tmp_path: Path, number: int, sign: str) -> None:
    before = {"a": b"1", "c": b"1", "d": b"1"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(number), sign], check=False, capture_output=True)
    assert apply.is_interrupted(tmp_path) is (sign == "SIGKILL")
    apply.restore(tmp_path)
    assert files(tmp_path) == before


def test_the_next_update_restores_the_project_of_a_killed_one_first(
    cli: Cli, created: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = created()
    before = files(project)
    original, staged = Path.replace, []

    def stop(self: Path, target: Path) -> Path:
        staged.extend([self] * (self.suffix == ".new"))
        if len(staged) == 3:
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(apply, "restore", lambda _: None)
        patch.setattr(Path, "replace", stop)
        assert update(cli, project).code == 130
    assert files(project) != before
    assert update(cli, project, "--diff").code == 6
    assert update(cli, project).code == 0
    assert not (project / apply.STAGING).exists()


def test_a_project_of_others_runs_no_programs_of_its_repository(
    cli: Cli, created: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, marker = created(), tmp_path / "ran"
    git(project, "config", "core.fsmonitor", f"touch '{marker}'; false")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    refused = update(cli, project, "--json")
    assert (refused.code, "--trust-project" in refused.json["fix"]) == (2, True)
    assert update(cli, project, "--diff").code == 0
    assert not marker.exists()
    assert update(cli, project, "--trust-project").code == 0


@pytest.mark.parametrize("version", releases.released_versions())
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_project_of_each_release_becomes_one_of_this_version(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, method: str
) -> None:
    """With an edit and a deleted file."""
    template = releases.unpack(version, tmp_path / "template")
    for part in (*releases.UNTOUCHED, "../samples"):
        shutil.copytree(ROOT / "template" / part, template / "template" / part)
    with monkeypatch.context() as patch:
        patch.setattr(derive, "__version__", version)
        patch.setattr(template_files, "__version__", version)
        patch.setattr(template_files, "template_root", lambda _: template)
        project = generate.new(tmp_path / "a b", Answers("smollm2-135m", method=method)).folder
    git(project, "init", "--quiet")
    replace(project / CONFIG, '"num_train_epochs": 2', '"num_train_epochs": 3')
    (project / APP).unlink()
    commit(project)
    trust(project, "user")
    result = update(cli, project, "--json")
    assert result.code == 0, result.json
    fresh = generate.new(tmp_path / "fresh" / "a b", Answers("smollm2-135m", method=method)).folder
    expected = files(fresh)
    del expected[APP]
    assert json.loads((project / CONFIG).read_text())["passes"]["finetune"]["training_args"]["num_train_epochs"] == 3
    assert {name: text for name, text in files(project).items() if name != CONFIG} == {
        name: text for name, text in expected.items() if name != CONFIG
    }
    commit(project)
    assert update(cli, project, "--json").json["files"] == []
