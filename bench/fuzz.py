"""Mutated configs and data files through `validate`, `data check` and `data preview`: crashes, hangs, memory, errors without a place.

    python bench/fuzz.py [--configs 20000] [--files 10000] [--seed 0] [--minutes 60] [--keep FOLDER]

Each failure is printed with its number and a folder that reproduces it. Exits with 1 if there are any.
"""

# ruff: noqa: E402 (the folder of the tests comes first)
from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scaffolder")]

from tests.factory import rendered
from tests.mutations import CASES, FILES, HOSTILE, VALUES, damage, damaged, damaged_archive, mutate, wrecked
from tests.tokenizer_kinds import tokenizer_of

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.file_formats import FORMATS_OF_KEY
from phi_runtime.config.reading.source import read_source
from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import silent
from phi_runtime.core.project import find_project
from phi_runtime.pipeline.load import check_file, load_workflow
from phi_scaffold.cli.app import command_line
from phi_scaffold.cli.failure import guarded

LIMIT_S, LIMIT_MB = 5, 500
BUG = "this is a bug in phi-scaffold"
SIDECARS = ("evaluation.json", "sweep.yaml")
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "cp1252")
LOAD_KEYS: dict[str, list[Any]] = {
    "sep": [",", "\t", ";", "|", "a"],
    "encoding": ["utf-8", "utf-16", "cp1252", "utf-7", "idna", "punycode", "gbk"],
    "header": [0, 1, 99, "infer"],
    "names": [["phrase", "tone"], ["a", "a"], ["x"] * 500],
    "sheet": ["x", "Sheet"],
    "sample_by": ["line", "paragraph", "document"],
    "field": ["rows", "v", "v.x"],
    "split": ["train", "train[:1]", "train[50%:]"],
    "col_filters": [{"label": "cold"}, {"phrase": 1}],
    "column_mapping": [{"text": "phrase", "label": "tone"}, {"phrase": "tone"}],
}
FORM_KEYS: dict[str, list[Any]] = {
    "text_template": ["{text}\n{label}", "{phrase}{tone}", "{a}", "{text}"],
    "chat_template": [
        True,
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ messages|tojson }}",
        "{{ 'a' * 10**10 }}",
    ],
    "text_cols": [["text"], ["label", "text"], ["x"]],
    "strategy": ["line-by-line", "join", "join-random", "join-sliding-window"],
    "max_seq_len": [1, 8, 512],
    "optional_cols": [["text"], ["phrase"]],
}


class Hang(BaseException):
    """A case takes too long."""


class Fault(Exception):
    """A case that shows a fault, by its kind."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 12))  # a busy machine
    for number, timer, times in timers:
        signal.signal(number, stop)
        signal.setitimer(timer, LIMIT_S * times)
    try:
        yield
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0)


def require_place(error: PhiError | Finding) -> None:
    """Raise Fault if an error has no place or says nothing."""
    what = error.what if isinstance(error, PhiError) else error.message
    if not what or (error.where is None and error.exit_code in (3, 4) if isinstance(error, PhiError) else False):
        raise Fault(f"an error without a place: {what or error!r}")


def run_command(*arguments: str) -> None:
    """Run a command of phi-scaffold in this process. Raises Fault if it blames itself."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guarded(functools.partial(command_line(), list(arguments)))
        err.flush()
        said = err.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]
    if BUG in said or "Traceback" in said or code not in (0, 2, 3, 4):
        raise Fault(f"exit code {code}: {said[-400:]}")


class Configs:
    """Mutations of configs and of the files next to them, through `validate`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "configs"
        self.folder.mkdir()
        (self.folder / "datasets").symlink_to(CASES / "datasets")
        project = rendered("fuzz", "lora", 20) / "fine-tuning"
        files = sorted(path for path in CASES.iterdir() if path.suffix in (".json", ".yaml"))
        self.bases = [read_source(path).value for path in [*files, project / "olive-config.json"]]
        self.sidecars = {name: [read_source(project / name).value] for name in SIDECARS}
        self.sidecars["sweep.yaml"] += [read_source(path).value for path in (CASES / "sweeps").glob("*.yaml")]

    def write(self, path: Path, value: Any, random: Random) -> None:
        for _ in range(random.choice((0, 1, 1, 2, 4))):
            if value:
                value = mutate(value, random, [*VALUES, *HOSTILE])
        as_yaml = path.suffix == ".yaml" or random.random() < 0.1
        text = (
            yaml.safe_dump(value)
            if as_yaml
            else json.dumps(value, indent=random.choice((None, 1, 4)), ensure_ascii=False)
        )
        if random.random() < 0.2:
            text = random.choice((damage, wrecked))(text, random)
        encoding = random.choice(ENCODINGS)
        surrogates = "surrogatepass" if encoding.startswith("utf") and random.random() < 0.5 else "replace"
        path.write_bytes(text.encode(encoding, surrogates))

    def case(self, random: Random) -> None:
        path = self.folder / "olive-config.json"
        for name in SIDECARS:
            (self.folder / name).unlink(missing_ok=True)
            if random.random() < 0.3:
                self.write(self.folder / name, random.choice(self.sidecars[name]), random)
        self.write(path, random.choice(self.bases), random)
        with time_limit():
            try:
                for finding in check_file(path).findings:
                    require_place(finding)
            except PhiError as e:
                require_place(e)
            if random.random() < 0.05:
                run_command("validate", str(path))


class DataFiles:
    """Damaged data files and settings that do not fit them, through `data check` and `data preview`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        shutil.copytree(rendered("fuzz", "lora", 20), self.folder)
        model = self.folder / "model"
        tokenizer = tokenizer_of("byte-level")
        tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        tokenizer.save_pretrained(model)
        shape = {"vocab_size": 2000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0}
        (model / "config.json").write_text(
            json.dumps({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], **shape})
        )
        self.project = find_project(self.folder)
        self.config = json.loads(self.project.config.read_text(encoding="utf-8"))
        self.config["input_model"]["model_path"] = str(model)
        self.config["passes"] = {"finetune": self.config["passes"]["finetune"]}
        self.files = dict(FILES)
        with contextlib.suppress(ImportError):
            self.files["a.parquet"] = _parquet()
        chat = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}] * 4
        self.files["chat.jsonl"] = "\n".join(map(json.dumps, chat)).encode()
        self.tokens: Any = None
        self.project.config.write_text(json.dumps(self.config), encoding="utf-8")
        self._check()  # imports the libraries, whose time is not a case's

    def case(self, random: Random) -> None:
        datasets = self.folder / "datasets"
        shutil.rmtree(datasets)
        shutil.rmtree(self.project.token_cache, ignore_errors=True)
        datasets.mkdir()
        name = random.choice(list(self.files))
        content = self.files[name]
        for _ in range(random.choice((0, 1, 1, 2))):
            archive = name.endswith(".xlsx") and random.random() < 0.8
            with contextlib.suppress(Exception):
                content = (damaged_archive if archive else damaged)(random, content)
        if random.random() < 0.1:
            name, content = f"{name}.gz", gzip.compress(content, mtime=0)[: random.choice((None, -1, -8, 20))]
        (datasets / name).write_bytes(content)
        self.project.config.write_text(json.dumps(self._config_for(name, random)), encoding="utf-8")
        with time_limit():
            self._check()
            if random.random() < 0.05:
                run_command("data", random.choice(("check", "preview")), "--project", str(self.folder))

    def _config_for(self, name: str, random: Random) -> dict[str, Any]:
        config = json.loads(json.dumps(self.config))
        data = config["data_configs"][0]
        load, form = data["load_dataset_config"], data["pre_process_data_config"]
        load["data_name"] = {"csv": "csv", "tsv": "csv", "txt": "text", "parquet": "parquet", "xlsx": "xlsx"}.get(
            name.split(".")[1], "json"
        )
        load["data_files"] = random.choice(
            (f"../datasets/{name}", f"../datasets/{name}", [f"../datasets/{name}"] * 2, "../datasets/*")
        )
        form["text_template"] = "{text}" if name.startswith("a.txt") else "{text}\n{label}"
        if name.startswith("chat"):
            del form["text_template"]
            form["chat_template"] = True
        fitting = [key for key in LOAD_KEYS if load["data_name"] in FORMATS_OF_KEY.get(key, (load["data_name"],))]
        for keys, names, target in ((LOAD_KEYS, fitting, load), (FORM_KEYS, list(FORM_KEYS), form)):
            for key in random.sample(names, min(len(names), random.choice((0, 0, 0, 1, 2)))):
                target[key] = random.choice(keys[key])
        return config  # type: ignore[no-any-return]

    def _check(self) -> None:
        from phi_runtime.data.dataset import data_context, load_dataset
        from phi_runtime.data.preview import preview
        from phi_runtime.data.report import examine
        from phi_runtime.models.fetch import fetch_tokenizer

        try:
            workflow = load_workflow(self.project.config)
            training = next(iter(workflow.trainings.values()))
            context = data_context(self.project, fetch_tokenizer(workflow.input_model, self.project, silent))
            self.tokens = self.tokens or context.tokenizer
            context.__dict__["tokenizer"] = self.tokens  # loaded once
            json.dumps(examine(workflow, training, context, silent))
            dataset = load_dataset(workflow, training, context.skipping_bad_rows(), silent, "data")
            json.dumps(preview(dataset.training, context.tokenizer, 2))
        except PhiError as e:
            require_place(e)


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["it rains", "frost", None], "label": ["cold", "cold", "warm"]}), file)
    return file.getvalue()


def fuzz(subject: Configs | DataFiles, count: int, seed: int, end: float, keep: Path) -> Counter[str]:
    """Run `count` cases until the time `end`; print each failure and keep its files. Returns the kinds of failures."""
    kinds: Counter[str] = Counter()
    begin, done = time.monotonic(), 0
    for number in range(count):
        if time.monotonic() > end:
            break
        done += 1
        kind = ""
        try:
            subject.case(Random(f"{seed}:{number}"))
        except Hang:
            kind = f"more than {LIMIT_S} s"
        except Fault as e:
            kind = str(e)
        except Exception as e:
            last = traceback.extract_tb(e.__traceback__)[-1]
            kind = f"{type(e).__name__}: {str(e)[:200]} ({Path(last.filename).name}:{last.lineno})"
        if kind:
            kinds[kind.split("\n")[0][:160]] += 1
            folder = keep / f"{type(subject).__name__.lower()}-{seed}-{number}"
            if kinds[kind.split("\n")[0][:160]] == 1:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(
                    subject.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("model", "model-cache")
                )
                print(f"{type(subject).__name__} {number}: {kind}\n  {folder}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    if memory > LIMIT_MB:
        kinds[f"{memory:.0f} MB of memory"] += 1
    print(
        f"{type(subject).__name__}: {done} cases, {sum(kinds.values())} failures of {len(kinds)} kinds, "
        f"{time.monotonic() - begin:.0f} s, {memory:.0f} MB",
        flush=True,
    )
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    end = time.monotonic() + args.minutes * 60
    failures: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="phi-fuzz-") as folder:
        for kind, count in ((Configs, args.configs), (DataFiles, args.files)):
            if count:
                failures += fuzz(kind(Path(folder)), count, args.seed, end, args.keep.resolve())
    for name, times in failures.most_common():
        print(f"{times:6} {name}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
