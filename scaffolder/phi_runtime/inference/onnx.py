"""ONNX models, through ONNX Runtime GenAI."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.supported_precisions import PROVIDER_NAMES
from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import MissingDependency, OutOfResources, WorkFailed, first_line
from phi_runtime.data.tokenize import prompt_ids as encode_prompt
from phi_runtime.hardware.device import has_nvidia_gpu, usable_cores
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.inference.detokenizer import detokenizer
from phi_runtime.inference.generator import (
    Answer,
    GeneratorOptions,
    Guide,
    InvalidGuide,
    PromptResult,
    PromptTask,
    SamplingParams,
    Speed,
    unknown_adapter,
)
from phi_runtime.inference.guides import require_bounded, require_short
from phi_runtime.inference.prompt_tasks import run_alone
from phi_runtime.inference.sequences import SequenceCache, reusable_prefix
from phi_runtime.inference.stored_tokenizer import open_tokenizer
from phi_runtime.inference.streaming import StreamedAnswer, check_context_length
from phi_runtime.models.onnx_adapters import adapter_files

if TYPE_CHECKING:
    import numpy as np

# Keys of a session.
_LOADS_OR_WRITES = re.compile(r"(?i)library|profiling|backend_path|lib_paths|optimized_model|file_?path")
# Capacities of the KV cache, in tokens: the smallest, doubled as often as needed; and up to which memory is used freely.
_MIN_CAPACITY, _AMPLE_CAPACITY = 512, 4096
_GUIDE_ERRORS = ("Error creating grammar: ", "Error committing tokens: ", "Error computing mask: ")


class OnnxSequence:
    """A sequence of the runtime; see sequences.CachedSequence."""

    def __init__(self, generator: Any, capacity: int, adapter: str | None) -> None:
        self.generator, self.capacity, self.adapter = generator, capacity, adapter
        self.ids: list[int] = []
        self.prefilled = self.prompt_length = 0

    def rewind(self, length: int) -> None:
        if length < len(self.ids):
            self.generator.rewind_to(length)
            del self.ids[length:]
        self.prefilled = min(self.prefilled, length)

    def prefill(self, ids: Sequence[int]) -> None:
        import numpy as np

        self.generator.append_tokens(np.asarray(ids, dtype=np.int32))
        if self.prefilled == len(self.ids):
            self.prefilled += len(ids)
        self.ids += ids

    def logits(self) -> np.ndarray:
        import numpy as np

        logits: np.ndarray = np.asarray(self.generator.get_logits())
        return logits.reshape(-1, logits.shape[-1])[-1]  # (V,)

    def append(self, token: int) -> None:
        import numpy as np

        self.generator.append_tokens(np.array([token], dtype=np.int32))
        self.ids.append(token)

    def step(self, logits: np.ndarray | None = None) -> int:
        if logits is not None:
            self.generator.set_logits(logits.reshape(1, 1, -1))  # (1, 1, V)
        self.generator.generate_next_token()
        token = int(self.generator.get_next_tokens()[0])
        self.ids.append(token)
        return token


class GuidedSequence(OnnxSequence):
    """A sequence whose tokens a guide limits; some guides show only while they are followed that they are too complex."""

    def __init__(self, sequence: OnnxSequence, guide: Guide) -> None:
        super().__init__(sequence.generator, sequence.capacity, sequence.adapter)
        self.guide = guide

    def prefill(self, ids: Sequence[int]) -> None:
        with self._explained():
            super().prefill(ids)

    def logits(self) -> np.ndarray:
        with self._explained():
            return super().logits()

    def step(self, logits: np.ndarray | None = None) -> int:
        with self._explained():
            return super().step(logits)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            if not str(e).startswith(_GUIDE_ERRORS):
                raise
            raise _invalid_guide(self.guide, e) from None


class OnnxGenerator:
    """An ONNX model folder, with the adapters in it.

    Args:
        path: Folder that the export wrote.
        options: Options of the model.
        adapter: Adapter that is used where an answer names none.

    Raises:
        WorkFailed: The runtime cannot load the folder.
        MissingDependency: The runtime is not installed, or does not support the model's device.
        UnknownAdapter: `adapter` does not exist.
    """

    guides = True

    def __init__(self, path: Path, options: GeneratorOptions | None = None, adapter: str | None = None) -> None:
        self.options = options or GeneratorOptions()
        og = self.og = runtime()
        self.model, self.tokenizer, genai_config = _load(path)
        model = genai_config["model"]
        self.context_length: int = model["context_length"]
        self.vocab_size: int = model["vocab_size"]
        decoder = model["decoder"]
        # Keys and values in float32.
        self._token_bytes = 8 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
        eos = model["eos_token_id"]
        template_ends = [
            self.tokenizer(token, add_special_tokens=False).input_ids[-1] for token in self.options.stop_tokens
        ]
        self.stop_ids = {*(eos if isinstance(eos, list) else [eos]), *template_ends}
        self._files = {**adapter_files(path), **self.options.adapters}
        self.adapters = tuple(self._files)
        self._og_adapters = og.Adapters(self.model) if self._files else None
        self._loaded: set[str] = set()
        self.adapter = adapter
        self._load_adapter(adapter)
        self._sequences = SequenceCache(self.options.conversations, self._create_sequence)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, prompt: str, sampling: SamplingParams, adapter: str | None = None) -> Answer:
        adapter = adapter or self.adapter
        ids = self.encode(prompt, adapter)
        check_context_length(len(ids), sampling, self.context_length)
        self._load_adapter(adapter)
        if sampling.guide:
            guided = self._create_guided(ids, sampling, adapter)
            return self._stream(ids, sampling, lambda: (guided, 0), lambda *_: None)
        capacity = self._capacity(len(ids) + sampling.max_new_tokens)
        return self._stream(
            ids,
            sampling,
            lambda: self._sequences.acquire(ids, capacity, adapter),
            lambda sequence, reusable: self._sequences.release(sequence, reusable=reusable),
        )

    def _stream(self, ids: list[int], sampling: SamplingParams, acquire: Any, release: Any) -> StreamedAnswer:
        stream = detokenizer(self.tokenizer)
        return StreamedAnswer(ids, sampling, self.stop_ids, stream, self.token_text, acquire, release)

    def count(self, text: str, adapter: str | None = None) -> int:
        return len(self.encode(text, adapter))

    def encode(self, prompt: str, adapter: str | None = None) -> list[int]:
        """Tokenize a prompt as in training."""
        return encode_prompt(self.tokenizer, prompt, special=self.options.adds_special_tokens(adapter))

    def token_text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    # -- sequences -----------------------------------------------------------------------------------------------------

    def _capacity(self, needed: int) -> int:
        """Return the capacity for a sequence of `needed` tokens.

        The cache is allocated at once, so it is not made for the full context. But a conversation that outgrows its cache is
        read again from the start, so it gets what memory allows, up to what most conversations need.
        """
        if not self._sequences.limit:
            return needed
        capacity = _MIN_CAPACITY
        share_bytes = memory_bytes() / 16 / self._sequences.limit  # of one conversation
        while capacity < needed or (capacity < _AMPLE_CAPACITY and 2 * capacity * self._token_bytes <= share_bytes):
            capacity *= 2
        return min(capacity, self.context_length)

    def _create_sequence(self, capacity: int, adapter: str | None, **options: Any) -> OnnxSequence:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**{"max_length": capacity, "do_sample": False, **options})
        return self._start(parameters, capacity, adapter)

    def _start(self, parameters: Any, capacity: int, adapter: str | None) -> OnnxSequence:
        try:
            generator = self.og.Generator(self.model, parameters)
            if adapter is not None:
                generator.set_active_adapter(self._og_adapters, adapter)
        except (RuntimeError, MemoryError) as e:
            # The runtime has no error class for it (0.18).
            if "alloc" in str(e).lower() or isinstance(e, MemoryError):
                size = f"{capacity * self._token_bytes / 1e9:.1f} GB"
                raise OutOfResources(
                    f"the KV cache for {capacity} tokens needs {size}, more than the free memory",
                    fix="lower --max-new-tokens or shorten the prompt",
                ) from None
            raise
        return OnnxSequence(generator, capacity, adapter)

    def _create_guided(self, ids: list[int], sampling: SamplingParams, adapter: str | None) -> OnnxSequence:
        """Create a sequence in which the runtime samples from the tokens that the guide allows. Raises InvalidGuide."""
        assert sampling.guide
        options: dict[str, Any] = {"max_length": len(ids) + sampling.max_new_tokens, "do_sample": False}
        if sampling.temperature > 0:
            options |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
            options |= {"top_k": sampling.top_k or self.vocab_size}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed % 2**31
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**options)
        guidance = self._guidance(sampling.guide)
        try:
            parameters.set_guidance(*guidance)
            sequence = self._start(parameters, options["max_length"], adapter)
        except (RuntimeError, UnicodeEncodeError) as e:
            raise _invalid_guide(sampling.guide, e) from None
        return GuidedSequence(sequence, sampling.guide)

    def _guidance(self, guide: Guide) -> tuple[str, str]:
        """Return the guide in the runtime's terms. Raises InvalidGuide."""
        require_short(guide.text)
        if guide.kind == "json_schema":
            return "json_schema", _schema_guidance(guide.text)
        if guide.kind == "regex":
            return "regex", guide.text
        rules = [guide.text]
        for number, token in enumerate(guide.tokens):
            ids = self.tokenizer(token, add_special_tokens=False).input_ids
            rules.append(f"token_{number}: " + (f"<[{ids[0]}]>" if len(ids) == 1 else json.dumps(token)))
        return "lark_grammar", "\n".join(rules)

    def _load_adapter(self, adapter: str | None) -> None:
        """Load `adapter` if it is not loaded. Raises UnknownAdapter, WorkFailed."""
        if adapter is None or adapter in self._loaded:
            return
        if adapter not in self._files:
            raise unknown_adapter(adapter, self.adapters)
        assert self._og_adapters is not None
        try:
            self._og_adapters.load(str(self._files[adapter]), adapter)
        except RuntimeError as e:
            raise WorkFailed(
                f"cannot load the adapter {self._files[adapter]}: {short_error(e)}",
                fix="rebuild it with `phi-scaffold run --force` and the name of its stage",
            ) from None
        self._loaded.add(adapter)

    # -- measurement ---------------------------------------------------------------------------------------------------

    def run_prompts(self, tasks: Sequence[PromptTask], batch_size: int) -> list[PromptResult]:
        # One at a time: the runtime masks padding by token id, a chat prompt contains the padding token itself, and only a
        # single sequence can be rewound (0.18). Neighbors in this order share most tokens, which are not read again.
        results: dict[int, PromptResult] = {}
        capacity = max((len(task.ids) + task.longest_continuation for task in tasks), default=0)
        sequence = self._create_sequence(capacity, self.adapter) if tasks else None
        for i in sorted(range(len(tasks)), key=lambda i: tasks[i].ids):
            assert sequence
            cached = reusable_prefix(sequence, tasks[i].ids)
            sequence.rewind(cached)
            results[i] = run_alone(sequence, tasks[i], cached, self.stop_ids, self.tokenizer)
        return [results[i] for i in range(len(tasks))]

    def completion_score(self, prompt_ids: list[int], completion_ids: list[int]) -> tuple[float, bool]:
        """Return the negative log-probability of a completion in nats, and True if each of its tokens is the likeliest."""
        from phi_runtime.inference.sampler import log_softmax

        sequence = self._create_sequence(len(prompt_ids) + len(completion_ids), self.adapter)
        sequence.prefill(prompt_ids)
        loss, greedy = 0.0, True
        for position, token in enumerate(completion_ids):
            logits = sequence.logits()
            loss -= float(log_softmax(logits)[token])
            greedy = greedy and int(logits.argmax()) == token
            if position < len(completion_ids) - 1:
                sequence.append(token)
        return loss, greedy

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        text = self.encode("The weather was fine and we went for a walk. ")
        ids = (text * (prompt_tokens // len(text) + 1))[:prompt_tokens]
        length = prompt_tokens + new_tokens
        sequence = self._create_sequence(length, self.adapter, min_length=length)
        start = time.perf_counter()
        sequence.prefill(ids)
        sequence.step()
        first_token = time.perf_counter()
        for _ in range(new_tokens - 1):
            sequence.step()
        return Speed(first_token - start, (new_tokens - 1) / (time.perf_counter() - first_token))


def runtime() -> Any:
    """Import ONNX Runtime GenAI, with its telemetry off unless the user has set it.

    Raises:
        MissingDependency: It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime_genai
    except ImportError as e:
        from phi_runtime.models.load import missing_runtime

        raise missing_runtime(e) from e
    return onnxruntime_genai


def provider_available(provider: str) -> bool:
    """Return True if the installed runtime and this machine support the execution provider."""
    if provider == "CPUExecutionProvider":
        return True
    og = runtime()
    if provider == "CUDAExecutionProvider":
        return bool(og.is_cuda_available()) and has_nvidia_gpu()
    if provider == "DmlExecutionProvider":
        return bool(og.is_dml_available())
    import onnxruntime  # type: ignore[import-untyped]

    # og.is_webgpu_available returns True even in builds without it (0.18).
    return provider in onnxruntime.get_available_providers()


def open_model(path: Path) -> Any:
    """Load the model in the folder `path` with ONNX Runtime GenAI, whose errors (mostly RuntimeError) are raised."""
    og = runtime()
    refuse_libraries(read_json(path / "genai_config.json"), path)
    config = og.Config(str(path))
    # By default the runtime uses fewer threads than this process may; more threads than that are four times slower.
    threads = {"session_options": {"intra_op_num_threads": usable_cores()}}
    config.overlay(json.dumps({"model": {"decoder": threads}}))
    return og.Model(config)


def refuse_libraries(value: Any, path: Path) -> None:
    """Raise WorkFailed if genai_config.json names a program library, a provider with its own, or a file elsewhere."""
    if isinstance(value, list):
        for item in value:
            refuse_libraries(item, path)
    elif isinstance(value, dict):
        providers = [name for option in value.get("provider_options") or () for name in option]
        unsafe = [f"provider `{name}`" for name in providers if name.lower() not in PROVIDER_NAMES.values()]
        unsafe += [f"`{key}`" for key in value if _LOADS_OR_WRITES.search(key)]
        unsafe += [f"`{key}`" for key, name in value.items() if key.endswith("filename") and _leaves_folder(name)]
        if unsafe:
            raise WorkFailed(
                f"genai_config.json of {path} has {', '.join(unsafe)}, which a model may not name",
                fix="remove it from that file, or use another model",
            )
        for item in value.values():
            refuse_libraries(item, path)


def _leaves_folder(name: Any) -> bool:
    return isinstance(name, str) and (
        ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:", name) is not None
    )


def _load(path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return model, tokenizer and genai_config.json of the folder `path`. Raises WorkFailed, MissingDependency."""
    try:
        genai_config: dict[str, Any] = read_json(path / "genai_config.json")
        return open_model(path), open_tokenizer(path), genai_config
    except (OSError, ValueError) as e:
        raise WorkFailed(
            f"{path} contains no ONNX model: {short_error(e)}",
            fix="build it with `phi-scaffold run`, or name another folder",
        ) from None
    except RuntimeError as e:
        for provider, name in PROVIDER_NAMES.items():
            if name in runtime_providers(genai_config) and not provider_available(provider):
                raise MissingDependency(
                    f"{path} is built for {name}, which is not available here",
                    fix="build it for this machine (`target` in the config), or run it on a machine with that device",
                ) from None
        raise WorkFailed(
            f"cannot load the ONNX model in {path}: {short_error(e)}",
            fix="a file may be incomplete or corrupt: rebuild it with `phi-scaffold run --force` and the name of its stage",
        ) from None


def runtime_providers(genai_config: dict[str, Any]) -> list[str]:
    """Return the providers of a model in the runtime's words (cuda, dml, webgpu); empty for the CPU."""
    options = genai_config.get("model", {}).get("decoder", {}).get("session_options", {}).get("provider_options", [])
    return [name.lower() for option in options for name in option]


def _schema_guidance(text: str) -> str:
    """Return a JSON schema for the runtime.

    By default its JSON may have white space anywhere, which a small model never stops writing.
    """
    try:
        schema = json.loads(text)
    except ValueError as e:
        raise InvalidGuide(f"the JSON schema is not valid JSON: {e}", fix="fix the JSON") from None
    require_bounded(schema)
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_flexible": False}, **schema}
    elif not isinstance(schema, bool):
        raise InvalidGuide("the JSON schema is not an object", fix='write an object, such as {"type": "object"}')
    return json.dumps(schema, ensure_ascii=False)


def _invalid_guide(guide: Guide, error: Exception) -> InvalidGuide:
    reason = str(error).partition("\n<state>\n")[0]  # what follows describes the state of the parser
    for prefix in _GUIDE_ERRORS:
        reason = reason.removeprefix(prefix)
    if isinstance(error, UnicodeEncodeError):
        reason = "it has half of a surrogate pair, which is no character"
    if guide.kind == "lark":  # without the place in the grammar
        reason = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", reason).partition("\n")[0]
    reason = " ".join(reason.split())
    return InvalidGuide(f"unsupported {guide.name}: {reason}", fix=f"change the {guide.name}, or omit it")


def short_error(error: BaseException) -> str:
    """Return the first line of an error, without the C++ function names that ONNX Runtime puts before it."""
    return first_line(error).rpartition("FAIL : ")[2].rpartition("GetExtDataFromTensorProto ")[2]
