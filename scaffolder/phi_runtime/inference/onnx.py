"""ONNX models, through ONNX Runtime GenAI."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_runtime.errors import DataError
from phi_runtime.inference.generator import Sampling, Speed
from phi_runtime.models.device import usable_cores


class OnnxGenerator:
    """A model in the folder that the builder wrote."""

    def __init__(self, path: Path, *, special: bool = True) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime_genai as og

        self.og = og
        config = og.Config(str(path))
        # Left unset, the runtime takes fewer threads than we may use; more than that are four times slower.
        threads = {"session_options": {"intra_op_num_threads": usable_cores()}}
        config.overlay(json.dumps({"model": {"decoder": threads}}))
        self.model = og.Model(config)
        self.tokenizer = og.Tokenizer(self.model)
        stored = json.loads((path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length: int = stored["model"]["context_length"]
        self.vocabulary: int = stored["model"]["vocab_size"]
        self.end_ids = set(self.tokenizer.eos_token_ids)
        self.special, self.added = special, list(self.tokenizer.encode(""))
        self.last_token_count = 0

    def _start(self, prompt_tokens: int, sampling: Sampling, min_new_tokens: int = 0) -> Any:
        # The key-value cache is allocated for the whole max_length at once: ask for what is needed, never for the full context.
        length = prompt_tokens + sampling.max_new_tokens
        if length > self.context_length:
            raise DataError(
                f"prompt ({prompt_tokens} tokens) and answer ({sampling.max_new_tokens}) exceed the context of {self.context_length}",
                fix="shorten the prompt or lower --max-new-tokens",
            )
        options: dict[str, Any] = {"max_length": length, "min_length": prompt_tokens + min_new_tokens}
        if sampling.temperature > 0:
            options |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed
        else:
            options["do_sample"] = False
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(**options)
        return self.og.Generator(self.model, parameters)

    def _encode(self, prompt: str) -> Any:
        """The prompt as training had it: this tokenizer puts its BOS before every text, also one that spells it out."""
        import numpy as np

        ids = np.asarray(self.tokenizer.encode(prompt), dtype=np.int32)
        count = len(self.added)
        before = ids[:count].tolist() == self.added
        spelled = ids[count : 2 * count].tolist() == self.added
        return ids[count:] if count and before and (spelled or not self.special) else ids

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        ids = self._encode(prompt)
        generator = self._start(len(ids), sampling)
        generator.append_tokens(ids)
        decoder = self.tokenizer.create_stream()
        self.last_token_count = 0
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            self.last_token_count += 1
            if token not in self.end_ids:
                yield decoder.decode(token)

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> Iterator[str]:
        # One at a time: the runtime masks padding by token id, and a chat prompt holds the padding token itself.
        for prompt in prompts:
            yield "".join(self.stream(prompt, Sampling(max_new_tokens=max_new_tokens)))

    def completion_loss(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> float:
        import numpy as np

        generator = self._start(len(prompt_ids), Sampling(max_new_tokens=len(completion_ids)))
        generator.append_tokens(np.array(prompt_ids, dtype=np.int32))
        loss = 0.0
        for position, token in enumerate(completion_ids):
            logits = np.asarray(generator.get_logits(), dtype=np.float64).reshape(-1, self.vocabulary)[-1]  # (V,)
            top = logits.max()
            loss += float(top + np.log(np.exp(logits - top).sum()) - logits[token])
            if position < len(completion_ids) - 1:
                generator.append_tokens(np.array([token], dtype=np.int32))
        return loss

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        import numpy as np

        ids: Any = np.resize(
            np.array(self.tokenizer.encode("The weather was fine and we went for a walk. "), dtype=np.int32),
            prompt_tokens,
        )
        prefill, decode = [], []
        for _ in range(4):
            generator = self._start(prompt_tokens, Sampling(max_new_tokens=new_tokens), min_new_tokens=new_tokens)
            start = time.perf_counter()
            generator.append_tokens(ids)
            generator.generate_next_token()
            first = time.perf_counter()
            count = 1
            while not generator.is_done():
                generator.generate_next_token()
                count += 1
            prefill.append(prompt_tokens / (first - start))
            decode.append((count - 1) / (time.perf_counter() - first))
        return Speed(statistics.median(prefill[1:]), statistics.median(decode[1:]))
