"""Full models and adapters, through transformers and peft."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.data.tokenize import prompt_ids as encode_prompt
from phi_runtime.hardware.device import compute_dtype
from phi_runtime.inference.answering import Decode, Writer, check_length
from phi_runtime.inference.generator import Answer, BadGuide, Sampling, Speed, unknown_adapter
from phi_runtime.inference.sequences import Conversations
from phi_runtime.models.load import load_reference, load_tokenizer, put_adapter, quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.stored import rope_switch

if TYPE_CHECKING:
    import numpy as np

_UNLIMITED = 1 << 30


class TorchSequence:
    """A sequence in transformers' cache (see sequences.Cached). What is appended is read when the next logits are asked for."""

    def __init__(self, owner: TransformersGenerator, adapter: str | None) -> None:
        self.owner, self.adapter, self.room = owner, adapter, _UNLIMITED
        self.ids: list[int] = []
        self.read = self.prompt = 0
        self._cache: Any = None
        self._held = 0  # of `ids`, in the cache
        self._logits: Any = None

    def rewind(self, length: int) -> None:
        switch = self.owner.rope_switch
        if length < self._held:
            try:
                if switch is not None and length <= switch < self._held:
                    raise RuntimeError("read with the other rotary factors")
                self._cache.crop(length - self._held)
                self._held = length
            except RuntimeError:  # also a sliding window, which forgets what it has left behind
                self._cache, self._held = None, 0
        del self.ids[length:]
        self.read, self._logits = min(self.read, length), None

    def extend(self, ids: Sequence[int]) -> None:
        if self.read == len(self.ids):
            self.read += len(ids)
        self.ids += ids
        self._catch_up()

    def logits(self) -> np.ndarray:
        self._catch_up()
        logits: np.ndarray = self._logits.float().cpu().numpy()
        return logits

    def append(self, token: int) -> None:
        self._catch_up()
        self.ids.append(token)

    def step(self, logits: np.ndarray | None = None) -> int:
        self._catch_up()
        token = int(self._logits.argmax() if logits is None else logits.argmax())
        self.ids.append(token)
        return token

    def _catch_up(self) -> None:
        switch = self.owner.rope_switch
        if switch is not None and 0 < self._held <= switch < len(self.ids):
            self._cache, self._held = None, 0
        if self._held < len(self.ids):
            self._logits, self._cache = self.owner.forward(self.ids[self._held :], self._cache, self.adapter)
            self._held = len(self.ids)


class TransformersGenerator:
    """A base, an adapter on its base, or a merged model. `adapters` can be put on a full model, each when it is asked for first."""

    guides = False

    @classmethod
    def of(
        cls,
        ref: ModelRef,
        device: str = "cpu",
        *,
        special: bool = True,
        specials: Mapping[str, bool] | None = None,
        conversations: int = 0,
        adapter: str | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> TransformersGenerator:
        """The model that `ref` names, loaded."""
        quiet_libraries()
        model = load_reference(ref, compute_dtype("bfloat16", device), device).eval()
        made = cls(model, load_tokenizer(ref), device, special=special, conversations=conversations)
        made.files, made.adapter, made.specials = dict(adapters or {}), adapter, dict(specials or {})
        made.use(adapter)
        return made

    def __init__(
        self, model: Any, tokenizer: Any, device: str = "cpu", *, special: bool = True, conversations: int = 0
    ) -> None:
        self.model, self.tokenizer, self.device, self.special = model, tokenizer, device, special
        self.pad_id = self.tokenizer.pad_token_id
        if self.pad_id is None:
            self.pad_id = self.tokenizer.eos_token_id
        self.rope_switch = rope_switch(model.config.to_dict())
        self.context_length = int(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED)
        self.end_ids = _end_ids(model, tokenizer)
        self.files: dict[str, Path] = {}
        self.specials: dict[str, bool] = {}
        self.adapter: str | None = None
        self._active: str | None = None
        self._ready: set[str] = set()
        self._conversations = Conversations(conversations, lambda _, adapter: TorchSequence(self, adapter))

    # -- answers -------------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self.files)

    def answer(self, prompt: str, sampling: Sampling, adapter: str | None = None) -> Answer:
        adapter = adapter or self.adapter
        ids = self.encode(prompt, adapter)
        check_length(len(ids), sampling, self.context_length)
        if sampling.guide:
            raise BadGuide("only ONNX models can be guided", fix="ask the ONNX model, or take the guide away")
        self.use(adapter)
        return Writer(
            ids,
            sampling,
            self.end_ids,
            _decoder(self.tokenizer),
            self.token_text,
            lambda: self._conversations.take(ids, 0, adapter),
            lambda sequence, sound: self._conversations.give_back(sequence, sound=sound),
        )

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The texts of the pieces of an answer."""
        yield from (piece.text for piece in self.answer(prompt, sampling) if piece.text)

    def count(self, text: str, adapter: str | None = None) -> int:
        return len(self.encode(text, adapter))

    def encode(self, prompt: str, adapter: str | None = None) -> list[int]:
        """The prompt as training had it."""
        special = self.specials.get(adapter or "", self.special)
        return [int(token) for token in encode_prompt(self.tokenizer, prompt, special=special)]

    def token_text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def use(self, adapter: str | None) -> None:
        """Makes `adapter` the active one; None takes all off. Raises UnknownAdapter, and UsageError where it does not fit."""
        if adapter == self._active:
            return
        if adapter is not None and adapter not in self._ready:
            if adapter not in self.files:
                raise unknown_adapter(adapter, self.adapters)
            self.model = put_adapter(self.model, self.files[adapter], adapter).eval()
            self._ready.add(adapter)
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(adapter)
        self._active = adapter

    def forward(self, ids: Sequence[int], cache: Any, adapter: str | None) -> tuple[Any, Any]:
        """Reads `ids` after what `cache` holds: the logits (V,) of the token that comes next, and the cache."""
        import torch
        from transformers import DynamicCache

        self.use(adapter)
        model, tokens = self.model, torch.tensor([list(ids)], device=self.device)  # (1, T)
        given: dict[str, Any] = {"input_ids": tokens}
        if _has_learned_prompt(model):
            # peft puts the learned tokens before each call; they belong before the first alone.
            learned, model = model, model.get_base_model()
            if cache is None:
                words = model.get_input_embeddings()(tokens)
                given = {"inputs_embeds": torch.cat([learned.get_prompt(batch_size=1).to(words.dtype), words], dim=1)}
        if cache is None:
            cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            output = model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1], output.past_key_values

    def _encode(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Ids and mask, (B, T) each, padded on the left so that every answer starts at the same place."""
        import torch

        rows = [encode_prompt(self.tokenizer, p, special=self.special) for p in prompts]
        longest = max(len(r) for r in rows)
        ids = torch.tensor([[self.pad_id] * (longest - len(r)) + r for r in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=self.device)
        return {"input_ids": ids, "attention_mask": mask}

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


def _has_learned_prompt(model: Any) -> bool:
    config = getattr(model, "active_peft_config", None)
    return config is not None and bool(config.is_prompt_learning)


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: those of generation_config.json, and the tokenizer's."""
    known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = known if isinstance(known, list) else [known]
    return {int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None}


def _decoder(tokenizer: Any) -> Decode:
    """What each token adds to the text, special tokens left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(backend, token) or ""
    ids: list[int] = []
    told = ""

    def decode(token: int) -> str:
        nonlocal told
        ids.append(token)
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        if text.endswith("\ufffd"):  # the bytes of a letter that is not whole yet
            return ""
        new, told = text[len(told) :], text
        return new

    return decode
