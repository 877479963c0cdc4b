"""Fixtures that several rooms share: tiny models, projects on them, and the command line in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.events import Event
from phi_runtime.core.project import Project, find_project
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from tests import zygote

# The libraries read these when they are imported, which no module does before a test runs.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",  # pytest-xdist has a worker per core, and two threads on a busy core wait for each other
    "PHI_SCAFFOLD_CORES": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
zygote.install()

TONES = {
    "joy": ["sunny happy song {}", "we won the game {}", "a lovely party {}"],
    "fear": ["dark cold noise {}", "something moved there {}", "run from the fire {}"],
}


@pytest.fixture
def fresh_processes() -> Iterator[set[str]]:
    """Names of modules that `python -m` runs in a new interpreter, for tests of the memory that a process takes."""
    yield zygote.FRESH
    zygote.FRESH.clear()


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs `phi-scaffold …` in this process, through the same door as the console script."""
    from phi_scaffold.cli.app import command_line
    from phi_scaffold.cli.failure import guarded

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["phi-scaffold", *map(str, arguments)])
        capsys.readouterr()
        code = guarded(command_line(sys.argv[1:]))
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return run


def write_rows(path: Path, count: int = 60) -> Path:
    """A data file with two labels that follow from the words."""
    rows = [
        {"phrase": patterns[i % len(patterns)].format(i), "tone": tone}
        for i in range(count // 2)
        for tone, patterns in TONES.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer in ChatML's manner, trained on the spot: end of turn is end of text, as in phi-smol."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [p for patterns in TONES.values() for p in patterns] + ["### Text: The tone is:\n joy fear 0123456789"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


@pytest.fixture(scope="session")
def tiny_phi3(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3 model of random weights: two layers, grouped-query heads, tied embeddings."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-phi3"
    Phi3ForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


MakeProject = Callable[..., Project]


def tiny_project(
    folder: Path,
    model: Path,
    method: str = "lora",
    rows: int = 60,
    passes: dict[str, Any] | None = None,
    **training: Any,
) -> Project:
    """Emits a project into `folder` with a small data file, on the tiny `model`; keyword arguments change its config's training."""
    from phi_scaffold.new import generate

    data = write_rows(folder.parent / "rows" / "train.jsonl", rows)
    generate.new(folder, generate.Answers(model="org/tiny", method=method, data=data))
    config_path = folder / "fine-tuning" / "olive-config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["input_model"]["model_path"] = str(model)
    finetune = config["passes"]["finetune"]
    finetune["training_args"] |= {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 0.01,
        "logging_steps": 1,
        **training,
    }
    for key, change in (passes or {}).items():
        config["passes"].setdefault(key, {}).update(change)
    config_path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return find_project(folder)


@pytest.fixture
def make_project(tiny_phi3: Path, tmp_path: Path) -> MakeProject:
    """Emits a project with a small data file and the tiny model as its base; keyword arguments change its config's training."""

    def make(name: str = "tiny", method: str = "lora", **changes: Any) -> Project:
        return tiny_project(tmp_path / name, tiny_phi3, method, **changes)

    return make


def edit_config(project: Project, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the project's config in place."""
    config = json.loads(project.config.read_text(encoding="utf-8"))
    change(config)
    project.config.write_text(json.dumps(config, indent=2), encoding="utf-8")


class Listener(list[Event]):
    """Keep all events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, name: str) -> list[dict[str, Any]]:
        return [{"stage": e.stage, **e.data} for e in self if e.event == name]


def states(project: Project) -> dict[str, str]:
    return {s.name: s.state for s in plan(load_workflow(project.config), project)}


def weights(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()
