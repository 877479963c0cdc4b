"""TrainingArguments of transformers for the training_args of a config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phi_runtime.core.errors import MissingDependency
from phi_runtime.pipeline.engine import run
from phi_runtime.training import arguments
from tests.conftest import Listener, MakeProject
from tests.phi_runtime.training.test_methods import context_of

pytest.importorskip("torch")


def test_adamw_of_bitsandbytes_becomes_plain_adamw_on_a_cpu_with_a_warning(make_project: MakeProject) -> None:
    listener = Listener()
    run(make_project(max_steps=1, optim="paged_adamw_8bit"), listener, until="finetune")
    assert any("using `adamw_torch` instead" in w["message"] for w in listener.of("warning"))


def test_an_optimizer_without_its_package_is_refused_before_the_rows_are_read(make_project: MakeProject) -> None:
    project = make_project(max_steps=1, optim="galore_adamw", optim_target_modules=["qkv_proj"])
    with pytest.raises(MissingDependency, match="galore") as caught:
        run(project, Listener(), until="finetune")
    assert "pip install galore" in caught.value.fix
    assert not list(project.token_cache.glob("*/manifest.json"))


@pytest.mark.parametrize(("version", "accepted"), [("0.9.0rc1", True), ("0.8.5", True), ("0.8.4.post1", False)])
def test_a_version_of_liger_may_be_a_pre_release(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool
) -> None:
    context = context_of(make_project(), tmp_path)
    training_args = context.config.training_args.model_copy(update={"use_liger_kernel": True})
    context = replace(context, config=context.config.model_copy(update={"training_args": training_args}))
    monkeypatch.setattr(arguments, "versions", lambda _: {"liger-kernel": version})
    if accepted:
        assert "liger_kernel_config" in arguments._liger(context)
    else:
        with pytest.raises(MissingDependency, match=version):
            arguments._liger(context)


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "no"])
def test_every_way_to_save_ends_with_an_adapter(make_project: MakeProject, strategy: str) -> None:
    project = make_project(max_steps=3, save_strategy=strategy)
    run(project, Listener(), until="finetune")
    assert (project.gen_model / "adapter" / "manifest.json").is_file()
