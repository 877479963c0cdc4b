"""docs/json.md lists the keys of each `--json` output: each command prints those, and no others."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import run
from tests.conftest import Cli, Listener, MakeProject, tiny_project
from tests.judge_server import judge_server

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]*) \|")


@dataclass(frozen=True)
class Shape:
    """The keys of one output by path (`models[].name`, `metrics.*`), and those of them that may be absent."""

    keys: frozenset[str]
    optional: frozenset[str]

    def paths(self, value: Any, path: str = "") -> Iterator[str]:
        """Yield the path of each leaf, and no deeper than a path that is documented itself."""
        if path in self.keys or not value or not isinstance(value, dict | list):
            yield path
        elif isinstance(value, list):
            for inner in value:
                yield from self.paths(inner, f"{path}[]")
        elif f"{path}.*" in self.keys:
            yield f"{path}.*"
        else:
            for key, inner in value.items():
                yield from self.paths(inner, f"{path}.{key}" if path else key)

    def unknown(self, values: Iterable[Any]) -> set[str]:
        """Return paths of `values` that are not documented; a null or empty container has none."""
        paths = {path for value in values for path in self.paths(value)} - self.keys
        return {path for path in paths if not any(key.startswith((f"{path}.", f"{path}[]")) for key in self.keys)}

    def missing(self, values: Iterable[Any]) -> set[str]:
        """Return documented keys that none of `values` has."""
        paths = {path for value in values for path in self.paths(value)}
        empty = tuple(f"{path}{sign}" for path in paths - self.keys for sign in (".", "[]"))
        return {key for key in self.keys - self.optional - paths if not key.startswith(empty)}

    def check(self, *values: Any) -> None:
        assert not self.unknown(values), "keys that docs/json.md does not list"
        assert not self.missing(values), "keys of docs/json.md that the output does not have"


def documented(title: str) -> Shape:
    """The table under the heading `title` of docs/json.md."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n### {title}\n")[1].partition("\n##")[0]
    rows = [match for line in section.splitlines() if (match := ROW.match(line))]
    optional = {match[1] for match in rows if "optional" in match[2]}
    return Shape(frozenset(match[1] for match in rows), frozenset(optional))


@pytest.fixture(scope="module")
def ran(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProjectFolder, Listener]:
    """A project on which everything ran, and the events of that."""
    project = tiny_project(tmp_path_factory.mktemp("shapes") / "tiny", tiny_phi3, max_steps=2, eval_steps=1)
    listener = Listener()
    run(project, listener)
    return project, listener


@pytest.fixture
def project(ran: tuple[ProjectFolder, Listener]) -> ProjectFolder:
    return ran[0]


@pytest.mark.parametrize("event", ["stage-started", "progress", "metric", "stage-finished", "warning", "run-finished"])
def test_events_of_a_run(ran: tuple[ProjectFolder, Listener], event: str) -> None:
    _, listener = ran
    shape = documented(f"`run --json`: `{event}`")
    events = [e.as_dict() for e in listener if e.event == event]
    if event == "warning" and not events:
        pytest.skip("the run had no warning")
    shape.check(*events)


def test_the_verdict_is_the_same_at_the_end_of_run_and_of_evaluate(project: ProjectFolder, cli: Cli) -> None:
    finished = cli("run", "--json", "--project", project.root).events[-1]
    documented("`run --json`: `run-finished`").check(finished)
    evaluation = cli("evaluate", "--json", "--project", project.root).json
    assert finished["verdict"] == evaluation["verdict"] == finished["trainings"][0]["verdict"]
    assert finished["verdict"]["findings"]  # twelve test rows


def test_the_rows_of_a_comparison(project: ProjectFolder) -> None:
    lines = (project.root / "gen-model" / "evaluation" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    documented("`rows.jsonl`").check(*rows)
    section = DOCS.read_text(encoding="utf-8").split("\nResults of a model:\n")[1].partition("\n##")[0]
    assert set(rows[0]["models"]["base"]) <= set(re.findall(r"`(\w+)`", section))


def test_the_record_of_a_run(project: ProjectFolder) -> None:
    (record,) = project.runs.glob("*/run.json")
    documented("`run.json`").check(json.loads(record.read_text(encoding="utf-8")))


def test_an_error_of_a_run(project: ProjectFolder, cli: Cli) -> None:
    result = cli("run", "nowhere", "--json", "--project", project.root)
    documented("`--json` with an error").check(json.loads(result.out.splitlines()[-1]))


@pytest.mark.parametrize(
    ("title", "arguments"),
    [
        ("`run --dry-run --json`", ("run", "--dry-run", "--no-step", "--force", "finetune")),
        ("`status --json`", ("status",)),
        ("`runs list --json`", ("runs", "list")),
        ("`runs show --json`", ("runs", "show", "latest")),
        ("`runs diff --json`", ("runs", "diff", "latest", "latest")),
        ("`runs reproduce --json`", ("runs", "reproduce", "latest", "--dry-run")),
        ("`evaluate --json`", ("evaluate",)),
        ("`report --json`", ("report",)),
        ("`data check --json`", ("data", "check")),
        ("`data preview --json`", ("data", "preview")),
        ("`generate --json`", ("generate", "--prompt", "x", "--model", "merged", "--max-new-tokens", "2")),
        ("`optimize --dry-run --json`", ("optimize", "--dry-run")),
    ],
)
def test_a_command_of_a_project(project: ProjectFolder, cli: Cli, title: str, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments, "--json", "--project", project.root)
    assert result.code == 0, result.err
    documented(title).check(result.json)


def test_ratings(project: ProjectFolder, cli: Cli, tmp_path: Path) -> None:
    sheet = tmp_path / "rate.csv"
    drawn = cli("report", "--sheet", sheet, "--json", "--project", project.root)
    assert drawn.code == 0, drawn.err
    documented("`report --sheet --json`").check(drawn.json)
    rows = list(csv.reader(sheet.read_text(encoding="utf-8-sig").splitlines()))
    rated = [[*row[:-4], "5", str(1 + i % 3), "", ""] for i, row in enumerate(rows[1:])]
    with sheet.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], *rated])
    remote = cli("report", "--json", "--project", project.root, "--judge", "https://judge.invalid/v1", sheet)
    assert (remote.code, "--send" in json.loads(remote.out)["fix"]) == (2, True)
    with judge_server(lambda _: '{"better": "tie"}') as (url, questions):
        judged = cli("report", "--json", "--project", project.root, "--judge", url, sheet)
    assert judged.code == 0, judged.err
    documented("`report --judge --json`").check(judged.json)
    assert len(questions) == 2 * drawn.json["sheet_differing_rows"]
    result = cli("report", "--json", "--project", project.root, "--ratings", sheet, sheet, judged.json["path"])
    assert result.code == 0, result.err
    documented("`report --ratings --json`").check(result.json)
    report = cli("report", "--json", "--project", project.root)
    assert report.json["trainings"][0]["ratings"] == [result.json]
    documented("`report --json`").check(report.json)


def test_a_turn_of_a_chat(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    result = cli("chat", "--model", "merged", "--max-new-tokens", "2", "--json", "--project", project.root)
    documented("`chat --json`").check(result.events[0])


def test_validate(project: ProjectFolder, cli: Cli, tmp_path: Path) -> None:
    config = json.loads(project.config.read_text(encoding="utf-8"))
    config["passes"]["finetune"]["alhpa"] = 3
    wrong = tmp_path / "olive-config.json"
    wrong.write_text(json.dumps(config), encoding="utf-8")
    result = cli("validate", wrong, "--json")
    assert result.code == 3
    documented("`validate --json`").check(result.json)


def test_migrate(cli: Cli, project: ProjectFolder, tmp_path: Path) -> None:
    config = json.loads(project.config.read_text(encoding="utf-8"))
    step = config["passes"]["finetune"]
    config["passes"]["finetune"] = {"type": step.pop("type"), "config": step}
    older = tmp_path / "olive-config.json"
    older.write_text(json.dumps(config), encoding="utf-8")
    documented("`migrate --json`").check(cli("migrate", older, "--dry-run", "--json").json)


def test_clean(cli: Cli, project: ProjectFolder) -> None:
    (project.model_cache / "org" / "unused").mkdir(parents=True)
    documented("`clean --json`").check(cli("clean", "--json", "--project", project.root).json)


def test_models_and_doctor(cli: Cli, make_project: MakeProject, tiny_phi3: Path) -> None:
    documented("`models --json`").check(cli("models", "--json").json)
    documented("`models --json`").check(cli("models", tiny_phi3, "--json").json)
    project = make_project()
    shutil.copytree(tiny_phi3, project.model_cache / "org" / "own")
    documented("`models --cached --json`").check(cli("models", "--cached", "--json", "--project", project.root).json)
    documented("`doctor --json`").check(cli("doctor", "--json").json)


def test_new(cli: Cli, tmp_path: Path) -> None:
    documented("`new --json`").check(cli("new", tmp_path / "mood", "--yes", "--dry-run", "--json").json)


def test_sweep(tiny_phi3: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("optuna")
    project = tiny_project(tmp_path / "tiny", tiny_phi3, max_steps=1)
    space = {"training_args.learning_rate": {"type": "choice", "values": [0.01]}}
    search = json.dumps({"search_strategy": {"type": "grid"}, "search_space": space})
    (project.config.parent / "sweep.yaml").write_text(search, encoding="utf-8")
    planned = cli("sweep", "--dry-run", "--json", "--project", project.root)
    documented("`sweep --dry-run --json`").check(planned.json)
    done = cli("sweep", "--jobs", "0", "--json", "--project", project.root)
    assert done.code == 0, done.err
    documented("`sweep --json`").check(done.json)


def test_optimize(project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_runtime.search.optimize import candidates

    monkeypatch.setattr(candidates, "ALL", tuple(c for c in candidates.ALL if c.name == "int4-block-32"))
    found = cli("optimize", "--max-accuracy-drop", "1", "--max-size-mb", "0.001", "--json", "--project", project.root)
    assert found.code == 1, found.err
    documented("`optimize --json`").check(found.json)
