"""Run inside Olive's environment and query Olive itself: a JSON request on standard input, a JSON answer on standard output.

    {
        "configs": {name: path},
        "rows": {name: load_dataset_config},
        "sequences": {name: {"rows": [...], "tokenizer": folder, "params": pre_process_data_config}},
        "commands": {name: words of a command line},
    }

One process answers everything, as `import olive` alone takes seconds. Nothing is loaded, trained or built: Olive's code runs
up to the point where a model would be needed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

ANSWER_TO = sys.stdout
sys.stdout = sys.stderr  # Olive logs to standard output

import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from olive.cli.launcher import main as run_command_line  # noqa: E402
from olive.common.config_utils import validate_config  # noqa: E402
from olive.common.constants import DEFAULT_HF_TASK  # noqa: E402
from olive.data.component.load_dataset import huggingface_dataset  # noqa: E402
from olive.data.component.text_generation import TextGenParams, text_gen_pre_process  # noqa: E402
from olive.package_config import OlivePackageConfig  # noqa: E402
from olive.passes.pytorch.lora import HFTrainingArguments, LoRA, QLoRABase, QLoRATrainingArguments  # noqa: E402
from olive.systems.accelerator_creator import create_accelerator  # noqa: E402
from olive.workflows.run.config import RunConfig  # noqa: E402


class Listener(logging.Handler):
    """Keeps the warnings that Olive logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())


class Recorded(Exception):
    """Thrown where Olive would start to train, so that it stops there."""


def main() -> None:
    request = json.load(sys.stdin)
    answer = {
        "configs": {name: heard(resolve, path) for name, path in request.get("configs", {}).items()},
        "rows": {name: heard(selected, **load) for name, load in request.get("rows", {}).items()},
        "sequences": {name: heard(sequences, **data) for name, data in request.get("sequences", {}).items()},
        "commands": {name: heard(config_of, *words) for name, words in request.get("commands", {}).items()},
    }
    json.dump(answer, ANSWER_TO, default=str)


def heard(question: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    """The answer to a question, with the error that ended it, if one did, and the warnings on the way."""
    listener = Listener()
    logger = logging.getLogger("olive")
    logger.addHandler(listener)
    try:
        return {"answer": question(*arguments, **keywords), "error": None, "warnings": listener.warnings}
    except Exception as error:
        return {"answer": None, "error": f"{type(error).__name__}: {error}", "warnings": listener.warnings}
    finally:
        logger.removeHandler(listener)


def resolve(path: str) -> dict[str, Any]:
    """The config at `path` as Olive understands it, every default filled in by Olive."""
    os.chdir(Path(path).parent)  # where our paths start from, and where the user calls `olive run`
    config = RunConfig.parse_file_or_obj(path)
    engine = config.engine
    accelerator = create_accelerator(engine.target, skip_supported_eps_check=True, is_ep_required=True)
    packages = OlivePackageConfig.load_default_config()
    passes = {}
    for name, (step,) in config.passes.items():
        kind = packages.import_pass_module(step.type)
        # As in Engine._run_no_search and Engine._run_pass.
        options = kind.generate_config(accelerator, step.config, {}, True)
        if not kind.validate_config(options, accelerator):
            raise ValueError(f"passes.{name}: {kind.__name__}.validate_config refuses it on {accelerator}")
        passes[name] = {"type": kind.__name__, **options.model_dump(mode="json", warnings=False)}
        if issubclass(kind, LoRA):
            for role in ("train_data_config", "eval_data_config"):
                data = getattr(options, role)
                passes[name][role] = data and data.name
            passes[name]["training_args"] = training_arguments(kind, accelerator, options)
    model = config.input_model.model_dump(mode="json")
    model["config"].setdefault("task", DEFAULT_HF_TASK)
    return {
        "input_model": model,
        "systems": {name: system.model_dump(mode="json") for name, system in config.systems.items()},
        "host": engine.host.model_dump(mode="json"),
        "target": {"device": accelerator.accelerator_type, "execution_provider": accelerator.execution_provider},
        "data_configs": {data.name: resolved_data(data) for data in config.data_configs},
        "passes": passes,
        "workflow_id": config.workflow_id,
        "engine": engine.model_dump(mode="json", exclude={"host", "target"}),
    }


def resolved_data(data: Any) -> dict[str, Any]:
    params = dict(data.pre_process_params)
    # As in olive.data.component.pre_process_data.text_generation_huggingface_pre_process.
    model_name, trust_remote_code = params.pop("model_name", None), params.pop("trust_remote_code", None)
    params.pop("task", None)
    return {
        "container": data.type,
        "component": data.pre_process_data_config.type,
        "model_name": model_name,
        "trust_remote_code": trust_remote_code,
        "load_dataset": data.load_dataset_params,
        "pre_process": validate_config(params, TextGenParams).model_dump(mode="json"),
    }


def training_arguments(kind: type[LoRA], accelerator: Any, options: Any) -> dict[str, Any]:
    """What Olive hands to transformers' Trainer: its own code runs up to there."""
    recorded: dict[str, Any] = {}

    def trainer(*, args: transformers.TrainingArguments, **_: Any) -> None:
        recorded.update(args.to_dict())
        raise Recorded

    # As in LoRA._run_lora_training and QLoRABase._run_for_config.
    defaults = QLoRATrainingArguments if issubclass(kind, QLoRABase) else HFTrainingArguments
    options.training_args = options.training_args or defaults()
    rows = (["a row"], ["a row"] if options.eval_data_config else None)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(kind, "get_datasets", return_value=rows),
        patch.object(transformers, "Trainer", trainer),
    ):
        try:
            kind(accelerator, options).train_and_save_new_model(None, None, options, None, folder)
        except Recorded:
            return recorded
    raise RuntimeError(f"{kind.__name__} did not come to train")


def selected(**load: Any) -> list[dict[str, Any]]:
    """The rows that Olive reads."""
    return list(huggingface_dataset(**load))


def sequences(rows: list[dict[str, Any]], tokenizer: str, params: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The sequences that Olive makes of rows."""
    made = text_gen_pre_process(
        Dataset.from_list(rows), transformers.AutoTokenizer.from_pretrained(tokenizer), dict(params)
    )
    return [
        {"input_ids": inputs["input_ids"].tolist(), "labels": labels.tolist()}
        for inputs, labels in (made[i] for i in range(len(made)))
    ]


def config_of(*words: str) -> dict[str, Any]:
    """The config that a command line describes."""
    with tempfile.TemporaryDirectory() as folder:
        run_command_line([*words, "--output_path", folder, "--save_config_file", "--dry_run"], False)
        config: dict[str, Any] = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    return config


if __name__ == "__main__":
    main()
