"""TrainingArguments of transformers for the training_args of a config."""

from __future__ import annotations

import pytest

from phi_runtime.core.errors import MissingDependency
from phi_runtime.pipeline.engine import run
from tests.conftest import Listener, MakeProject

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


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "no"])
def test_every_way_to_save_ends_with_an_adapter(make_project: MakeProject, strategy: str) -> None:
    project = make_project(max_steps=3, save_strategy=strategy)
    run(project, Listener(), until="finetune")
    assert (project.gen_model / "adapter" / "manifest.json").is_file()
