"""The request and the errors of processes travel in files that run no code."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.context import PassContext
from phi_runtime.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    Location,
    MissingDependency,
    OutOfResources,
    PhiError,
    WorkFailed,
)
from phi_runtime.core.events import silent
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.training.distributed.request import errors_of, forget_errors, keep_error, read_request, write_request
from tests.conftest import MakeProject, edit_config


def test_a_request_says_all_that_a_pass_gets_to_know(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project()
    rows = project.root / "datasets" / "train.jsonl"
    overrides = Overrides(data={"train_data": rows}, skip_bad_rows=True, values={"passes.finetune.r": 4})
    workflow = load_workflow(project.config, overrides)
    base = ModelRef(tmp_path / "base", "hf", "b", trust_remote_code=True)
    source = ModelRef(tmp_path / "model", "hf", "k", base)
    step = workflow.passes["finetune"]
    context = PassContext(
        "finetune", step, source, tmp_path / "out", tmp_path, workflow, project, silent, overrides, tmp_path / "record"
    )
    again = read_request(write_request(context, tmp_path))
    assert again == context
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=7))
    with pytest.raises(ConfigError, match="was changed after this run began"):
        read_request(tmp_path / "request.json")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("bad row", where=Location(Path("rows.jsonl"), 3, 4), fix="remove it"), DataError),
        (Interrupted("stopped at step 3", fix="run again"), Interrupted),
        (OSError(errno.ENOSPC, "no space left"), OutOfResources),
        (MemoryError("too much"), OutOfResources),
        (ImportError("no module named x"), MissingDependency),
        (KeyboardInterrupt(), Interrupted),
    ],
)
def test_an_error_comes_back_as_what_a_user_can_act_on(
    tmp_path: Path, error: BaseException, kind: type[PhiError]
) -> None:
    request = tmp_path / "request.json"
    keep_error(error, request, "1")
    (again,) = errors_of(request)
    assert type(again) is kind
    if isinstance(error, PhiError):
        assert (again.what, str(again.where), again.fix) == (error.what, str(error.where), error.fix)
        assert again.exit_code == error.exit_code
    if isinstance(again, OutOfResources):
        assert again.resource == ("disk" if isinstance(error, OSError) else "memory")
    assert again.fix
    assert "in process 1:" in again.__notes__[0]
    forget_errors(request)
    assert not errors_of(request)


def test_an_error_of_a_library_keeps_its_name_and_no_other_class_is_looked_up(tmp_path: Path) -> None:
    class Strange(Exception):
        pass

    request = tmp_path / "request.json"
    keep_error(Strange("odd"), request, "0")
    (again,) = errors_of(request)
    assert type(again) is WorkFailed
    assert "odd" in str(again)
    assert "Strange: odd" in again.__notes__[0]
    path = tmp_path / "error-0.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "error": {**kept["error"], "kind": "exec"}}))
    with pytest.raises(KeyError):
        errors_of(request)
