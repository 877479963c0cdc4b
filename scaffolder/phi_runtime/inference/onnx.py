"""ONNX models, through ONNX Runtime GenAI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import OutOfResources, WorkFailed
from phi_runtime.hardware.machine import memory_bytes
from phi_runtime.inference.generator import (
    Answer,
    GeneratorOptions,
    Guide,
    InvalidGuide,
    PromptResult,
    PromptTask,
    SamplingParams,
    unknown_adapter,
)
from phi_runtime.inference.guides import require_bounded, require_short
from phi_runtime.inference.onnx_folder import load_folder, runtime, short_error
from phi_runtime.inference.prompt_tasks import run_alone
from phi_runtime.inference.sequences import SequenceCache, crosses, prefill_chunks, read_prompt
from phi_runtime.inference.streaming import CachedGenerator, check_context_length
from phi_runtime.models.onnx_adapters import adapter_files

if TYPE_CHECKING:
    import numpy as np

# Capacities of the KV cache, in tokens: the smallest, doubled as often as needed; and up to which memory is used freely.
_MIN_CAPACITY, _AMPLE_CAPACITY = 512, 4096
_GUIDE_ERRORS = ("Error creating grammar: ", "Error committing tokens: ", "Error computing mask: ")


class OnnxSequence:
    """A sequence of the runtime; see sequences.CachedSequence.

    The runtime chooses the rotary factors of a step by the length after it. What earlier steps read with others is read again.
    """

    def __init__(self, generator: Any, capacity: int, adapter: str | None, rope_switch: int | None = None) -> None:
        self.generator, self.capacity, self.adapter, self.rope_switch = generator, capacity, adapter, rope_switch
        self.ids: list[int] = []
        self.prefilled = self.prompt_length = 0

    def rewind(self, length: int) -> None:
        if length < len(self.ids):
            switches = crosses(self.rope_switch, length, len(self.ids))
            self.generator.rewind_to(0 if switches else length)
            del self.ids[length:]
            for chunk in prefill_chunks(self.ids) if switches else ():
                self._append(chunk)
        self.prefilled = min(self.prefilled, length)

    def prefill(self, ids: Sequence[int]) -> None:
        self._read(ids)
        if self.prefilled == len(self.ids):
            self.prefilled += len(ids)
        self.ids += ids

    def logits(self) -> np.ndarray:
        import numpy as np

        logits: np.ndarray = np.asarray(self.generator.get_logits())
        return logits.reshape(-1, logits.shape[-1])[-1]  # (V,)

    def append(self, token: int) -> None:
        self._read([token])
        self.ids.append(token)

    def step(self, logits: np.ndarray | None = None) -> int:
        if self.rope_switch is not None and 0 <= len(self.ids) - self.rope_switch <= 1:
            # At the second of these lengths the runtime reads the sequence again by itself, and drops `logits`.
            token = int((self.logits() if logits is None else logits).argmax())
            self.append(token)
            return token
        return self._generate(logits)

    def _generate(self, logits: np.ndarray | None) -> int:
        """Let the runtime choose the next token, from `logits` (V,) if given."""
        if logits is not None:
            self.generator.set_logits(logits.reshape(1, 1, -1))  # (1, 1, V)
        self.generator.generate_next_token()
        token = int(self.generator.get_next_tokens()[0])
        self.ids.append(token)
        return token

    def _read(self, ids: Sequence[int]) -> None:
        if self.ids and crosses(self.rope_switch, len(self.ids), len(self.ids) + len(ids)):
            self.generator.rewind_to(0)
            ids = [*self.ids, *ids]
        self._append(ids)

    def _append(self, ids: Sequence[int]) -> None:
        import numpy as np

        self.generator.append_tokens(np.asarray(ids, dtype=np.int32))


class GuidedSequence(OnnxSequence):
    """A sequence whose tokens a guide limits; some guides show only while they are followed that they are too complex."""

    def __init__(
        self, generator: Any, capacity: int, adapter: str | None, rope_switch: int | None, guide: Guide
    ) -> None:
        super().__init__(generator, capacity, adapter, rope_switch)
        self.guide = guide

    def prefill(self, ids: Sequence[int]) -> None:
        with self._explained():
            super().prefill(ids)

    def logits(self) -> np.ndarray:
        with self._explained():
            return super().logits()

    def step(self, logits: np.ndarray | None = None) -> int:
        with self._explained():
            return self._generate(logits)  # the guide is known to the runtime alone

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            if not str(e).startswith(_GUIDE_ERRORS):
                raise
            raise _invalid_guide(self.guide, e) from None


class OnnxGenerator(CachedGenerator):
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
        og = self.og = runtime()
        self.model, tokenizer, facts = load_folder(path)
        super().__init__(tokenizer, options, self.create_sequence)
        self.context_length, self.vocab_size = facts.context_length, facts.vocab_size
        self._token_bytes, self._rope_switch = facts.token_bytes, facts.rope_switch
        template_ends = [tokenizer(token, add_special_tokens=False).input_ids[-1] for token in self.options.stop_tokens]
        self.stop_ids = {*facts.stop_ids, *template_ends}
        self._files = {**adapter_files(path), **self.options.adapters}
        self.adapters = tuple(self._files)
        self._og_adapters = og.Adapters(self.model) if self._files else None
        self._loaded: set[str] = set()
        self.adapter = adapter
        self._load_adapter(adapter)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, prompt: str, sampling: SamplingParams, adapter: str | None = None) -> Answer:
        adapter = adapter or self.adapter
        ids = self.encode(prompt, adapter)
        check_context_length(len(ids), sampling, self.context_length)
        self._load_adapter(adapter)
        if sampling.guide is None:
            capacity = self._capacity(len(ids) + sampling.max_new_tokens)
            return self._stream(ids, sampling, self._sequences, capacity, adapter)
        guided = self._create_guided(ids, sampling, sampling.guide, adapter)
        return self._stream(ids, sampling, SequenceCache(0, lambda *_: guided), guided.capacity, adapter)

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

    def create_sequence(
        self, capacity: int, adapter: str | None, guide: Guide | None = None, **options: Any
    ) -> OnnxSequence:
        """Return a sequence for `capacity` tokens, whose tokens follow `guide`. Raises OutOfResources, InvalidGuide."""
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**{"max_length": capacity, "do_sample": False, **options})
        try:
            if guide:
                parameters.set_guidance(*self._guidance(guide))
            generator = self.og.Generator(self.model, parameters)
        except (RuntimeError, MemoryError, UnicodeEncodeError) as e:
            # The runtime has no error class for it (0.18).
            if "alloc" in str(e).lower() or isinstance(e, MemoryError):
                size = f"{capacity * self._token_bytes / 1e9:.1f} GB"
                raise OutOfResources(
                    f"the KV cache for {capacity} tokens needs {size}, more than the free memory",
                    fix="lower --max-new-tokens or shorten the prompt",
                ) from None
            if guide:
                raise _invalid_guide(guide, e) from None
            raise
        if adapter is not None:
            generator.set_active_adapter(self._og_adapters, adapter)
        if guide:
            return GuidedSequence(generator, capacity, adapter, self._rope_switch, guide)
        return OnnxSequence(generator, capacity, adapter, self._rope_switch)

    def _create_guided(
        self, ids: list[int], sampling: SamplingParams, guide: Guide, adapter: str | None
    ) -> OnnxSequence:
        """Create a sequence in which the runtime samples from the tokens that the guide allows. Raises InvalidGuide."""
        options: dict[str, Any] = {}
        if sampling.temperature > 0:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
            options |= {"top_k": sampling.top_k or self.vocab_size}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed % 2**31
        return self.create_sequence(len(ids) + sampling.max_new_tokens, adapter, guide, **options)

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
        sequence = self.create_sequence(capacity, self.adapter) if tasks else None
        for i in sorted(range(len(tasks)), key=lambda i: tasks[i].ids):
            assert sequence
            results[i] = run_alone(sequence, tasks[i], self.stop_ids, self.tokenizer)
        return [results[i] for i in range(len(tasks))]

    def completion_scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return the log-probability (nats) of each completion after its prompt, and True if all of its tokens are the likeliest.

        What a prompt has in common with the one before, such as the context of a question with several choices, is read once.
        """
        from phi_runtime.inference.sampler import log_softmax

        scores = []
        capacity = max((len(prompt) + len(completion) for prompt, completion in pairs), default=1)
        sequence = self.create_sequence(capacity, self.adapter)
        for prompt, completion in pairs:
            read_prompt(sequence, prompt)
            logprob, greedy = 0.0, True
            for position, token in enumerate(completion):
                logits = sequence.logits()
                logprob += float(log_softmax(logits)[token])
                greedy = greedy and int(logits.argmax()) == token
                if position < len(completion) - 1:
                    sequence.append(token)
            scores.append((logprob, greedy))
        return scores

    def _measured_sequence(self, tokens: int) -> OnnxSequence:
        return self.create_sequence(tokens, self.adapter, min_length=tokens)


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
