"""ONNX models, through ONNX Runtime GenAI."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.supported_precisions import SHORT
from phi_runtime.core.errors import MissingDependency, OutOfResources, WorkFailed
from phi_runtime.hardware.device import has_nvidia_gpu, usable_cores
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.inference.answering import Writer, check_length
from phi_runtime.inference.generator import Answer, BadGuide, Guide, Sampling, Speed, unknown_adapter
from phi_runtime.inference.sequences import Conversations
from phi_runtime.models.onnx_adapters import adapter_files

if TYPE_CHECKING:
    import numpy as np

_ROOM, _AMPLE_ROOM = 512, 4096  # tokens; the rooms of sequences are the first, doubled as often as needed


class OnnxSequence:
    """A sequence of the runtime, with what it has read and written (see sequences.Cached)."""

    def __init__(self, generator: Any, room: int, adapter: str | None) -> None:
        self.generator, self.room, self.adapter = generator, room, adapter
        self.ids: list[int] = []
        self.read = self.prompt = 0

    def rewind(self, length: int) -> None:
        if length < len(self.ids):
            self.generator.rewind_to(length)
            del self.ids[length:]
        self.read = min(self.read, length)

    def extend(self, ids: Sequence[int]) -> None:
        import numpy as np

        self.generator.append_tokens(np.asarray(ids, dtype=np.int32))
        if self.read == len(self.ids):
            self.read += len(ids)
        self.ids += ids

    def logits(self) -> np.ndarray:
        import numpy as np

        logits: np.ndarray = np.asarray(self.generator.get_logits())
        return logits.reshape(-1, logits.shape[-1])[-1]

    def append(self, token: int) -> None:
        import numpy as np

        self.generator.append_tokens(np.array([token], dtype=np.int32))
        self.ids.append(token)

    def step(self, logits: np.ndarray | None = None) -> int:
        if logits is not None:
            self.generator.set_logits(logits.reshape(1, 1, -1))
        self.generator.generate_next_token()
        token = int(self.generator.get_next_tokens()[0])
        self.ids.append(token)
        return token


class OnnxGenerator:
    """A model in the folder that the builder wrote, with the adapters that lie beside it.

    `conversations` says how many sequences are kept for their next turn; 0 keeps none and takes no more memory than an answer needs.
    `adapter` is active unless an answer asks for another; `adapters` are files (.onnx_adapter) from elsewhere, by name.
    Raises WorkFailed where the folder holds no model that the runtime can load, UnknownAdapter.
    """

    guides = True

    def __init__(
        self,
        path: Path,
        *,
        special: bool = True,
        specials: Mapping[str, bool] | None = None,
        conversations: int = 0,
        adapter: str | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        og = self.og = runtime()
        self.model, self.tokenizer, stored = _load(og, path)
        model = stored["model"]
        self.context_length: int = model["context_length"]
        self.vocabulary: int = model["vocab_size"]
        decoder = model["decoder"]
        self._token_bytes = 8 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
        self.end_ids = {int(token) for token in self.tokenizer.eos_token_ids}
        self.special, self.specials, self.added = (
            special,
            dict(specials or {}),
            [int(token) for token in self.tokenizer.encode("")],
        )
        files = adapter_files(path) | dict(adapters or {})
        self.adapters = tuple(files)
        self._files, self._loaded = files, None if not files else og.Adapters(self.model)
        self._ready: set[str] = set()
        self.adapter = adapter
        self._use(adapter)
        self._conversations = Conversations(conversations, self._sequence)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, prompt: str, sampling: Sampling, adapter: str | None = None) -> Answer:
        adapter = adapter or self.adapter
        ids = self.encode(prompt, adapter)
        check_length(len(ids), sampling, self.context_length)
        self._use(adapter)
        if sampling.guide:
            guided = self._guided(ids, sampling, adapter)
            take, done = (lambda: (guided, 0)), (lambda *_: None)
            return self._writer(ids, sampling, take, done)
        room = self._room(len(ids) + sampling.max_new_tokens)
        return self._writer(
            ids,
            sampling,
            lambda: self._conversations.take(ids, room, adapter),
            lambda sequence, sound: self._conversations.give_back(sequence, sound=sound),
        )

    def _writer(self, ids: list[int], sampling: Sampling, take: Any, done: Any) -> Writer:
        return Writer(ids, sampling, self.end_ids, self.tokenizer.create_stream().decode, self.token_text, take, done)

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The texts of the pieces of an answer."""
        yield from (piece.text for piece in self.answer(prompt, sampling) if piece.text)

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> Iterator[str]:
        # One at a time: the runtime masks padding by token id, and a chat prompt holds the padding token itself.
        for prompt in prompts:
            yield "".join(self.stream(prompt, Sampling(max_new_tokens=max_new_tokens)))

    def count(self, text: str, adapter: str | None = None) -> int:
        return len(self.encode(text, adapter))

    def encode(self, prompt: str, adapter: str | None = None) -> list[int]:
        """The prompt as training had it: this tokenizer puts its BOS before every text, also one that spells it out."""
        ids = [int(token) for token in self.tokenizer.encode(prompt)]
        count = len(self.added)
        before, spelled = ids[:count] == self.added, ids[count : 2 * count] == self.added
        special = self.specials.get(adapter or "", self.special)
        return ids[count:] if count and before and (spelled or not special) else ids

    def token_text(self, token: int) -> str:
        import numpy as np

        return str(self.tokenizer.decode(np.array([token], dtype=np.int32)))

    # -- sequences -----------------------------------------------------------------------------------------------------

    def _room(self, needed: int) -> int:
        """Tokens to make room for. The cache is allocated whole at once, so never for the full context unasked; but what outgrows its
        room is read anew, so that a conversation gets what memory allows, up to what most of them need."""
        if not self._conversations.limit:
            return needed
        room = _ROOM
        share = memory_bytes() / 16 / self._conversations.limit  # of a conversation, in bytes
        while room < needed or (room < _AMPLE_ROOM and 2 * room * self._token_bytes <= share):
            room *= 2
        return min(room, self.context_length)

    def _sequence(self, room: int, adapter: str | None, **options: Any) -> OnnxSequence:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**{"max_length": room, "do_sample": False, **options})
        return self._started(parameters, room, adapter)

    def _started(self, parameters: Any, room: int, adapter: str | None) -> OnnxSequence:
        try:
            generator = self.og.Generator(self.model, parameters)
            if adapter is not None:
                generator.set_active_adapter(self._loaded, adapter)
        except (RuntimeError, MemoryError) as e:
            if "alloc" in str(e).lower() or isinstance(e, MemoryError):
                size = f"{room * self._token_bytes / 1e9:.1f} GB"
                raise OutOfResources(
                    f"the cache of {room} tokens takes {size}, which this machine has not free",
                    fix="lower --max-new-tokens, or shorten the prompt",
                ) from None
            raise
        return OnnxSequence(generator, room, adapter)

    def _guided(self, ids: list[int], sampling: Sampling, adapter: str | None) -> OnnxSequence:
        """A sequence of its own: the runtime draws from the tokens that the guide leaves in. Raises BadGuide."""
        assert sampling.guide
        options: dict[str, Any] = {"max_length": len(ids) + sampling.max_new_tokens, "do_sample": False}
        if sampling.temperature > 0:
            options |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
            options |= {"top_k": sampling.top_k or self.vocabulary}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed % 2**31
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**options)
        parameters.set_guidance(*_guidance(sampling.guide))
        try:
            return self._started(parameters, options["max_length"], adapter)
        except RuntimeError as e:
            raise _bad_guide(sampling.guide, e) from None

    def _use(self, adapter: str | None) -> None:
        """Has `adapter` in memory. Raises UnknownAdapter."""
        if adapter is None or adapter in self._ready:
            return
        if adapter not in self._files:
            raise unknown_adapter(adapter, self.adapters)
        assert self._loaded is not None
        try:
            self._loaded.load(str(self._files[adapter]), adapter)
        except RuntimeError as e:
            raise WorkFailed(
                f"the adapter {self._files[adapter]} cannot be loaded: {first_line(e)}",
                fix="`phi-scaffold run --force` the stage that made it",
            ) from None
        self._ready.add(adapter)

    # -- measurement ---------------------------------------------------------------------------------------------------

    def completion_loss(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> float:
        from phi_runtime.inference.sampler import log_probabilities

        sequence = self._sequence(len(prompt_ids) + len(completion_ids), self.adapter)
        sequence.extend(list(prompt_ids))
        loss = 0.0
        for position, token in enumerate(completion_ids):
            loss -= float(log_probabilities(sequence.logits())[token])
            if position < len(completion_ids) - 1:
                sequence.append(token)
        return loss

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        text = self.encode("The weather was fine and we went for a walk. ")
        ids = (text * (prompt_tokens // len(text) + 1))[:prompt_tokens]
        prefill, decode = [], []
        for _ in range(4):
            sequence = self._sequence(prompt_tokens + new_tokens, self.adapter, min_length=prompt_tokens + new_tokens)
            start = time.perf_counter()
            sequence.extend(ids)
            sequence.step()
            first = time.perf_counter()
            for _ in range(new_tokens - 1):
                sequence.step()
            prefill.append(prompt_tokens / (first - start))
            decode.append((new_tokens - 1) / (time.perf_counter() - first))
        return Speed(statistics.median(prefill[1:]), statistics.median(decode[1:]))


def runtime() -> Any:
    """ONNX Runtime GenAI, its telemetry off unless the user set it. Raises MissingDependency."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime_genai
    except ImportError as e:
        from phi_runtime.models.load import missing_runtime

        raise missing_runtime(e) from e
    return onnxruntime_genai


def runs_here(provider: str) -> bool:
    """Whether the installed runtime and this machine can run a model of `provider`."""
    if provider == "CPUExecutionProvider":
        return True
    og = runtime()
    if provider == "CUDAExecutionProvider":
        return bool(og.is_cuda_available()) and has_nvidia_gpu()
    if provider == "DmlExecutionProvider":
        return bool(og.is_dml_available())
    import onnxruntime  # type: ignore[import-untyped]

    # og.is_webgpu_available says yes also in builds that lack it (seen in 0.18)
    return provider in onnxruntime.get_available_providers()


def open_model(path: Path) -> Any:
    """The model in the folder `path`, as ONNX Runtime GenAI has it. Raises what that raises, mostly RuntimeError."""
    og = runtime()
    config = og.Config(str(path))
    # Left unset, the runtime takes fewer threads than we may use; more than that are four times slower.
    threads = {"session_options": {"intra_op_num_threads": usable_cores()}}
    config.overlay(json.dumps({"model": {"decoder": threads}}))
    return og.Model(config)


def _load(og: Any, path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and genai_config.json of the folder `path`. Raises WorkFailed, MissingDependency."""
    try:
        stored: dict[str, Any] = json.loads((path / "genai_config.json").read_text(encoding="utf-8"))
        model = open_model(path)
        return model, og.Tokenizer(model), stored
    except (OSError, ValueError) as e:
        raise WorkFailed(
            f"{path} holds no ONNX model: {first_line(e)}",
            fix="make it with `phi-scaffold run`, or name another folder",
        ) from None
    except RuntimeError as e:
        for provider, name in SHORT.items():
            if name in _made_for(stored) and not runs_here(provider):
                raise MissingDependency(
                    f"{path} is made for {name}, which this runtime does not drive",
                    fix="build it for this machine (`target` in the config), or take it to one with that device",
                ) from None
        raise WorkFailed(
            f"the ONNX model in {path} cannot be loaded: {first_line(e)}",
            fix="a file of it may be cut off or foreign: `phi-scaffold run --force` the stage that made it",
        ) from None


def _made_for(stored: dict[str, Any]) -> list[str]:
    """What the model is made for, in the runtime's words: cuda, dml, webgpu; nothing for the CPU."""
    options = stored.get("model", {}).get("decoder", {}).get("session_options", {}).get("provider_options", [])
    return [name.lower() for each in options for name in each]


def _guidance(guide: Guide) -> tuple[str, str]:
    """What the runtime calls it. Left alone, its JSON may have white space everywhere, of which a small model finds no end."""
    if guide.kind == "regex":
        return "regex", guide.text
    try:
        schema = json.loads(guide.text)
    except ValueError as e:
        raise BadGuide(f"the JSON schema is no JSON: {e}", fix="mend it") from None
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_flexible": False}, **schema}
    elif not isinstance(schema, bool):
        raise BadGuide("the JSON schema is no object", fix='write one, such as {"type": "object"}')
    return "json_schema", json.dumps(schema, ensure_ascii=False)


def _bad_guide(guide: Guide, error: Exception) -> BadGuide:
    what = "JSON schema" if guide.kind == "json_schema" else "regular expression"
    reason = " ".join(str(error).split()).removeprefix("Error creating grammar: ")
    return BadGuide(f"no answer can be guided by this {what}: {reason}", fix=f"mend the {what}, or ask without it")


def first_line(error: BaseException) -> str:
    """What an error says, without the names of C++ functions that ONNX Runtime puts before it."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rpartition("FAIL : ")[2].rpartition("GetExtDataFromTensorProto ")[2]
