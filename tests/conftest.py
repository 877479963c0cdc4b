"""Fixtures that several rooms share: tiny models, projects on them, and the command line in this process."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from tests import factory, zygote
from tests.factory import tiny_project as tiny_project
from tests.factory import write_rows as write_rows

# The libraries read these when they are imported, which no module does before a test runs.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",  # pytest-xdist has a worker per core, and two threads on a busy core wait for each other
    "OMP_WAIT_POLICY": "passive",  # the few tests with two threads
    "PHI_SCAFFOLD_BFLOAT16": "0",  # the same numbers on every machine
    "PHI_SCAFFOLD_CORES": "1",
    "GLIBC_TUNABLES": "",  # commands that train would start a second time (cli/allocator.py)
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)
_state = tempfile.TemporaryDirectory(
    prefix="phi-scaffold-state-"
)  # projects that tests trust are not those of the user
os.environ["XDG_STATE_HOME"] = _state.name
os.fsync = zygote.no_fsync
zygote.install()
gc.set_threshold(100_000)  # as the command line does

# Files and folders that take long, and the seconds of all their tests: these start first, so that no worker ends alone with one of
# them. The folder of the server has a server that all its tests share.
LONGEST_FIRST = {
    "phi_runtime/serving/": 46,
    "generated/test_samples.py": 21,
    "generated/test_matrix.py": 20,
    "pipeline/test_engine.py": 16,
    "search/test_sweep.py": 16,
    "pipeline/test_input_adapter.py": 13,
    "pipeline/test_several_adapters.py": 12,
    "training/test_finetune.py": 10,
    "report/test_verdict.py": 10,
    "phi_scaffold/test_mcp.py": 9,
    "pipeline/test_interruption.py": 9,
    "export/test_adapters_apart.py": 9,
    "passes/test_third_party.py": 9,
    "phi_scaffold/test_cli.py": 8,
    "search/test_optimize.py": 8,
    "pipeline/test_kills.py": 6,
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal whole files to the parts that `--dist worksteal` gives to its workers: each fixture of a file is created once.

    The order within a file stays random.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        path = item.nodeid.partition("::")[0]
        files.setdefault(next((part for part in LONGEST_FIRST if part in path), path), []).append(item)
    long = [files.pop(part) for part in LONGEST_FIRST if part in files]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, tests in enumerate(long):
        parts[number % workers].extend(tests)
    for tests in sorted(files.values(), key=len, reverse=True):  # the workers get the same number of tests
        min(parts, key=len).extend(tests)
    items[:] = [item for part in parts for item in part]
    gc.freeze()  # a collection of garbage looks no more at what stays until the end


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
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs `phi-scaffold …` in this process, through the same door as the console script.

    Variables that a command takes from a project's .env are removed after the test: with another HF_TOKEN no process of a later test
    could be forked (tests/zygote.py).
    """
    from phi_scaffold.cli.app import command_line
    from phi_scaffold.cli.failure import guarded

    before = set(os.environ)

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["phi-scaffold", *map(str, arguments)])
        capsys.readouterr()
        code = guarded(command_line())
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    yield run
    for name in set(os.environ) - before:
        del os.environ[name]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer in ChatML's manner, trained on the spot: end of turn is end of text, as in phi-smol."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [p for patterns in factory.TONES.values() for p in patterns] + [
        "### Text: The tone is:\n joy fear 0123456789"
    ]
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
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of this session in which the workers of pytest-xdist share what is created once."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def tiny_phi3(tiny_tokenizer: Any, shared: Path) -> Path:
    """A Phi-3 model of random weights: two layers, grouped-query heads, tied embeddings."""
    folder = shared / "models" / "tiny-phi3"
    with FileLock(shared / "models.lock"):
        if not folder.exists():
            save_tiny_phi3(folder, tiny_tokenizer)
    return folder


def save_tiny_phi3(folder: Path, tokenizer: Any) -> None:
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
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    staging = folder.with_name("staging")
    Phi3ForCausalLM(config).save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    staging.rename(folder)


MakeProject = Callable[..., ProjectFolder]


@pytest.fixture
def make_project(tiny_phi3: Path, tmp_path: Path) -> MakeProject:
    """Emits a project with a small data file and the tiny model as its base; keyword arguments change its config's training."""

    def make(name: str = "tiny", method: str = "lora", **changes: Any) -> ProjectFolder:
        return tiny_project(tmp_path / name, tiny_phi3, method, **changes)

    return make


@pytest.fixture
def trained_project(tiny_phi3: Path, shared: Path, tmp_path: Path) -> MakeProject:
    """Copies the default tiny project after a run, which happens once a session: `trained_project(until="merge", method="qlora")`."""

    def copy(name: str = "tiny", method: str = "lora", until: str = "evaluate") -> ProjectFolder:
        return factory.trained_project(shared / "trained", tmp_path / name, tiny_phi3, method, until)

    return copy


def edit_config(project: ProjectFolder, change: Callable[[dict[str, Any]], None]) -> None:
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


def states(project: ProjectFolder) -> dict[str, str]:
    return {s.name: s.state for s in plan(load_workflow(project.config), project)}


def weights(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()
