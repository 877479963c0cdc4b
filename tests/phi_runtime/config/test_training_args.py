"""Every setting of transformers' Trainer is taken, translated, or refused with what to do; none is passed over."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from phi_runtime.checks.training import SCHEDULER_NEEDS, SCHEDULER_SETTINGS
from phi_runtime.config.dialects.draft import MISSING
from phi_runtime.config.dialects.training_keys import OPTIMIZERS_REFUSED, TRAINING_ARGS
from phi_runtime.config.schema import TrainingArgs
from phi_runtime.config.schema.training_basics import (
    ADAMW_OF_BITSANDBYTES,
    OPTIMIZER_PACKAGES,
    Optimizer,
    Scheduler,
)
from tests.phi_runtime.config.test_refused import refused

transformers = pytest.importorskip("transformers")

FIELDS = {f.name: f for f in dataclasses.fields(transformers.TrainingArguments)}
# Translated by hand, since they are options of the pass itself.
OF_THE_PASS = {"bf16", "fp16", "tf32"}
# Where Olive's default, or ours where Olive has none of its own, is not that of transformers.
OTHER_DEFAULTS = {
    "learning_rate",
    "lr_scheduler_type",
    "gradient_checkpointing",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_strategy",
    "project",
    "dataloader_pin_memory",
}


def default_of(name: str) -> Any:
    field = FIELDS[name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def errors_with(tmp_path: Path, **training: Any) -> list[str]:
    """The keys of the errors on a LoRA with these settings; those of the pass itself start with `pass_`."""
    of_pass = {k[5:]: training.pop(k) for k in list(training) if k.startswith("pass_")}

    def change(config: dict[str, Any]) -> None:
        step = config["passes"]["lora"]
        step.update(of_pass)
        step["training_args"].update(training)

    return [f.key for f in refused(tmp_path, change)[0] if f.severity == "error"]


def test_there_is_no_setting_of_transformers_that_we_do_not_know() -> None:
    known = {*TrainingArgs.model_fields, *TRAINING_ARGS.renamed, *TRAINING_ARGS.ignored, *TRAINING_ARGS.refused}
    assert set(FIELDS) - known - OF_THE_PASS == set()
    assert set(TrainingArgs.model_fields) - set(FIELDS) == set()
    assert set(TrainingArgs.model_fields) & {*TRAINING_ARGS.ignored, *TRAINING_ARGS.refused} == set()


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_default_of_transformers_is_taken_of_every_setting(tmp_path: Path, name: str) -> None:
    value = default_of(name)
    value = value.value if hasattr(value, "value") else value
    assert errors_with(tmp_path, **{name: value}) == []


def test_our_defaults_are_those_of_transformers_but_for_olives() -> None:
    ours = TrainingArgs().model_dump()
    other = {name for name, value in ours.items() if value != default_of(name)}
    assert other == OTHER_DEFAULTS


def test_what_the_trainer_is_given_is_what_it_takes(tmp_path: Path) -> None:
    given = TrainingArgs().model_dump(exclude=set(TrainingArgs.OURS), exclude_none=True)
    made = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert made.learning_rate == 2e-4
    assert set(TrainingArgs.model_fields) >= TrainingArgs.OURS


def test_the_names_of_schedulers_and_optimizers_are_those_of_transformers() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(get_args(Scheduler)) == {s.value for s in SchedulerType} == set(SCHEDULER_SETTINGS)
    assert {*get_args(Optimizer), *OPTIMIZERS_REFUSED} == {o.value for o in OptimizerNames}
    assert set(get_args(Optimizer)) & set(OPTIMIZERS_REFUSED) == set()
    assert set(OPTIMIZER_PACKAGES) <= set(get_args(Optimizer))
    assert all(OPTIMIZER_PACKAGES[name] == "bitsandbytes" for name in ADAMW_OF_BITSANDBYTES)


@pytest.mark.parametrize("name", sorted({*get_args(Optimizer)} - {"adamw_torch_fused"}))
def test_an_optimizer_is_there_or_its_package_is_known(tmp_path: Path, name: str) -> None:
    import importlib.metadata

    from transformers import Trainer

    package = OPTIMIZER_PACKAGES.get(name)
    if package:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, optim=name, optim_target_modules="all-linear"
    )
    assert Trainer.get_optimizer_cls_and_kwargs(arguments)[0]


def test_the_settings_of_schedulers_are_those_of_transformers() -> None:
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR

    makers: dict[str, Any] = {kind.value: maker for kind, maker in TYPE_TO_SCHEDULER_FUNCTION.items()}
    makers |= {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    own = {"self", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for name, maker in makers.items():
        assert set(SCHEDULER_SETTINGS[name]) == set(inspect.signature(maker).parameters) - own, name
    assert all(set(needs) <= set(SCHEDULER_SETTINGS[name]) for name, needs in SCHEDULER_NEEDS.items())


ARGS = "passes.lora.training_args"


@pytest.mark.parametrize(
    ("training", "place"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        (
            {"load_best_model_at_end": True, "pass_eval_dataset_size": 0.5, "eval_strategy": "no"},
            "load_best_model_at_end",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-6}}, "lr_scheduler_kwargs.min_lr"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6, "min_lr_rate": 0.1}},
            "lr_scheduler_kwargs.min_lr",
        ),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers"),
        ({"dataloader_multiprocessing_context": "fork"}, "dataloader_multiprocessing_context"),
        ({"torch_compile_mode": "default"}, "torch_compile_mode"),
        ({"torch_compile_backend": "inductor"}, "torch_compile_backend"),
        ({"liger_kernel_config": {"rope": False}}, "liger_kernel_config"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),  # the host is a CPU
        ({"fsdp_config": {"cpu_offload": True}}, "fsdp_config"),
        ({"fsdp": True, "deepspeed": "deepspeed.json"}, "deepspeed"),
        ({"optim": "galore_adamw"}, "optim"),
        ({"optim_target_modules": "all-linear"}, "optim_target_modules"),
        ({"eval_steps": 1.5}, "eval_steps"),
        ({"logging_steps": 0}, "logging_steps"),
        ({"report_to": ["wandb", "comet_ml"]}, "report_to.1"),
        ({"dataloader_in_order": False}, "dataloader_in_order"),
        ({"optim_args": "beta1"}, "optim_args"),
        ({"lr_scheduler_type": "cosinus"}, "lr_scheduler_type"),
    ],
)
def test_settings_that_cannot_stand_together_are_an_error_where_they_stand(
    tmp_path: Path, training: dict[str, Any], place: str
) -> None:
    assert errors_with(tmp_path, **training) == [f"{ARGS}.{place}"]


@pytest.mark.parametrize(
    "training",
    [
        {"load_best_model_at_end": True, "pass_eval_dataset_size": 0.5, "save_steps": 7, "eval_steps": 3},
        {"pass_early_stopping_patience": 2, "pass_early_stopping_threshold": 0.01, "pass_eval_dataset_size": 0.5},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "pass_eval_dataset_size": 0.5},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True},
        {"torch_compile": True, "torch_compile_mode": "reduce-overhead"},
        {"optim": "apollo_adamw", "optim_target_modules": "all-linear", "optim_args": "rank=1, scale=128"},
        {"report_to": "all"},
        {"report_to": ["tensorboard", "trackio"]},
        {"fsdp": "full_shard auto_wrap", "fsdp_config": {"reshard_after_forward": False}},
        {"save_strategy": "best"},  # nothing is better without held-out rows: a warning
    ],
)
def test_settings_that_have_what_they_need_are_sound(tmp_path: Path, training: dict[str, Any]) -> None:
    assert errors_with(tmp_path, **training) == []


def test_early_stopping_needs_held_out_rows(tmp_path: Path) -> None:
    assert errors_with(tmp_path, pass_early_stopping_patience=2) == ["passes.lora.early_stopping_patience"]


def test_tf32_is_an_option_of_the_pass(tmp_path: Path) -> None:
    from phi_runtime.pipeline.load import check_file

    refused(tmp_path, lambda c: c["passes"]["lora"]["training_args"].update(tf32=False))
    draft = check_file(tmp_path / "olive-config.json").draft
    assert draft.get(("passes", "lora", "allow_tf32")) is False
    assert draft.get(("passes", "lora", "training_args", "tf32")) is MISSING
