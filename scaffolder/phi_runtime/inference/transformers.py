"""Full models and adapters, through transformers and peft."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from phi_runtime.data.tokenize import prompt_ids as encode_prompt
from phi_runtime.inference.generator import Sampling, Speed
from phi_runtime.models.device import compute_dtype
from phi_runtime.models.load import load_reference, load_tokenizer, quiet_libraries
from phi_runtime.models.reference import ModelRef


class TransformersGenerator:
    """A base, an adapter on its base, or a merged model."""

    @classmethod
    def of(cls, ref: ModelRef, device: str = "cpu", *, special: bool = True) -> TransformersGenerator:
        """The model that `ref` names, loaded."""
        quiet_libraries()
        model = load_reference(ref, compute_dtype("bfloat16", device), device).eval()
        return cls(model, load_tokenizer(ref), device, special=special)

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu", *, special: bool = True) -> None:
        self.model, self.tokenizer, self.device, self.special = model, tokenizer, device, special
        self.pad_id = self.tokenizer.pad_token_id
        if self.pad_id is None:
            self.pad_id = self.tokenizer.eos_token_id

    def _encode(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Ids and mask, (B, T) each, padded on the left so that every answer starts at the same place."""
        import torch

        rows = [encode_prompt(self.tokenizer, p, special=self.special) for p in prompts]
        longest = max(len(r) for r in rows)
        ids = torch.tensor([[self.pad_id] * (longest - len(r)) + r for r in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=self.device)
        return {"input_ids": ids, "attention_mask": mask}

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self.model.generate(
                    **self._encode([prompt]),
                    streamer=streamer,
                    max_new_tokens=sampling.max_new_tokens,
                    pad_token_id=self.pad_id,
                    **options,
                )
            except BaseException as e:
                failure.append(e)
                streamer.end()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        yield from (piece for piece in streamer if piece)
        worker.join()
        if failure:
            raise failure[0]

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> Iterator[str]:
        # Rows of like length share a batch; the answers are put back into the order of the prompts.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, str] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            encoded = self._encode([prompts[i] for i in batch])
            output = self.model.generate(
                **encoded, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self.pad_id
            )
            texts = self.tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            found.update(zip(batch, texts, strict=True))
        yield from (found[i] for i in range(len(prompts)))

    def completion_loss(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> float:
        import torch

        ids = torch.tensor([[*prompt_ids, *completion_ids]], device=self.device)  # (1, T)
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=len(completion_ids) + 1).logits[
                0, :-1
            ]  # (C, V)
        targets = ids[0, len(prompt_ids) :]
        return float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        import torch

        some = self.tokenizer("The weather was fine and we went for a walk. ", add_special_tokens=False).input_ids
        ids = torch.tensor([(some * prompt_tokens)[:prompt_tokens]], device=self.device)
        self._timed(ids, 2)
        rounds = [self._timed(ids, new_tokens) for _ in range(3)]
        return Speed(*(statistics.median(each) for each in zip(*rounds, strict=True)))

    def _timed(self, ids: Any, new_tokens: int) -> tuple[float, float]:
        """Tokens a second of reading the prompt `ids` (1, T) and of writing exactly `new_tokens` after it."""
        import torch
        from transformers.generation.streamers import BaseStreamer

        class Clock(BaseStreamer):
            """Notes when the prompt goes in and when each token comes out."""

            def __init__(self) -> None:
                self.ticks: list[float] = []

            def put(self, value: Any) -> None:
                self.ticks.append(time.perf_counter())

            def end(self) -> None:
                pass

        clock = Clock()
        self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            streamer=clock,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=self.pad_id,
        )
        start, first, *_, last = clock.ticks
        return ids.shape[1] / (first - start), (new_tokens - 1) / (last - first)
