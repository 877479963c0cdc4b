"""Full models and adapters, through transformers and peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.data.tokenize import pad_id
from phi_runtime.hardware.busy_cores import AdaptedThreads
from phi_runtime.inference.generator import (
    Answer,
    GeneratorOptions,
    InvalidGuide,
    PromptResult,
    PromptTask,
    SamplingParams,
    unknown_adapter,
)
from phi_runtime.inference.sequences import crosses
from phi_runtime.inference.streaming import CachedGenerator, check_context_length
from phi_runtime.models.load import put_adapter
from phi_runtime.models.stored import rope_switch

if TYPE_CHECKING:
    import numpy as np

_UNLIMITED = 1 << 30  # tokens


class TorchSequence:
    """A sequence in transformers' KV cache; see sequences.CachedSequence.

    Appended tokens are computed when the next logits are needed.
    """

    def __init__(self, generator: TransformersGenerator, adapter: str | None) -> None:
        self.generator, self.adapter, self.capacity = generator, adapter, _UNLIMITED
        self.rope_switch = generator.rope_switch
        self.ids: list[int] = []
        self.prefilled = self.prompt_length = 0
        self._cache: Any = None
        self._cached = 0  # leading tokens of `ids` that are in the cache
        self._logits: Any = None  # (V,)

    def rewind(self, length: int) -> None:
        if length < self._cached:
            try:
                if crosses(self.rope_switch, length, self._cached):
                    raise RuntimeError("computed with the long rotary factors")
                self._cache.crop(length - self._cached)
                self._cached = length
            except RuntimeError:  # also raised by a sliding window, whose earlier tokens are gone
                self._cache, self._cached = None, 0
        del self.ids[length:]
        self.prefilled, self._logits = min(self.prefilled, length), None

    def prefill(self, ids: Sequence[int]) -> None:
        if self.prefilled == len(self.ids):
            self.prefilled += len(ids)
        self.ids += ids
        self._compute()

    def logits(self) -> np.ndarray:
        self._compute()
        logits: np.ndarray = self._logits.float().cpu().numpy()  # (V,)
        return logits

    def append(self, token: int) -> None:
        self._compute()
        self.ids.append(token)

    def step(self, logits: np.ndarray | None = None) -> int:
        self._compute()
        token = int(self._logits.argmax() if logits is None else logits.argmax())
        self.ids.append(token)
        return token

    def _compute(self) -> None:
        """Run the model on the tokens that are not in the cache."""
        if self._cached and crosses(self.rope_switch, self._cached, len(self.ids)):
            self._cache, self._cached = None, 0
        if self._cached < len(self.ids):
            logits, self._cache = self.generator.forward([self.ids[self._cached :]], self._cache, self.adapter)
            self._logits = logits[0, -1]
            self._cached = len(self.ids)


class TransformersGenerator(CachedGenerator):
    """A base, an adapter on its base, or a merged model.

    Args:
        model: A causal language model of transformers, or a peft model.
        tokenizer: Its tokenizer.
        device: Device of its inputs.
        options: Options of the model.
    """

    guides = False
    adapter: str | None = None

    def __init__(
        self, model: Any, tokenizer: Any, device: str = "cpu", options: GeneratorOptions | None = None
    ) -> None:
        super().__init__(tokenizer, options, lambda _, adapter: self.create_sequence(adapter))
        self.model, self.device = model, device
        self.pad_id = pad_id(tokenizer)
        self.rope_switch: int | None = rope_switch(model.config.to_dict())
        self.context_length = int(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED)
        template_ends = tokenizer.convert_tokens_to_ids(list(self.options.stop_tokens))
        self.stop_ids = stop_ids(model, tokenizer) | set(template_ends)
        self._files = self.options.adapters
        self._own: str | None = model.active_adapter if hasattr(model, "active_peft_config") else None
        self._active: str | None = None
        self._loaded: set[str] = set()
        self._threads = AdaptedThreads() if device == "cpu" else None

    # -- answers -------------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self._files)

    def answer(self, prompt: str, sampling: SamplingParams, adapter: str | None = None) -> Answer:
        ids = self.encode(prompt, adapter)
        check_context_length(len(ids), sampling, self.context_length)
        if sampling.guide:
            raise InvalidGuide("only ONNX models can be guided", fix="use the ONNX model, or omit the guide")
        self._activate(adapter)
        return self._stream(ids, sampling, self._sequences, 0, adapter)

    def _activate(self, adapter: str | None) -> None:
        """Activate `adapter`, or with None the model's own, or disable all if it has none.

        Raises:
            UnknownAdapter: There is no such adapter.
            UsageError: It does not fit the model.
        """
        if adapter == self._active:
            return
        if adapter is not None and adapter not in self._loaded:
            if adapter not in self._files:
                raise unknown_adapter(adapter, self.adapters)
            self.model = put_adapter(self.model, self._files[adapter], f"file_{adapter}").eval()
            self._loaded.add(adapter)
        name = self._own if adapter is None else f"file_{adapter}"  # never `default`, peft's name for the model's own
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name)
        self._active = adapter

    @property
    def has_trained_prompt(self) -> bool:
        config = getattr(self.model, "active_peft_config", None)
        return config is not None and bool(config.is_prompt_learning)

    @property
    def _language_model(self) -> Any:
        """The model without a trained prompt, which peft would prepend in each call."""
        return self.model.get_base_model() if self.has_trained_prompt else self.model

    def create_cache(self) -> Any:
        """Return an empty KV cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self._language_model.config)

    def reads_trees(self, tokens: int) -> bool:
        """Return True if each token of a sequence of `tokens` can have a mask of its own.

        Code of the model's own folder may ignore it; a layer that forgets tokens cannot apply it.
        """
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        if model.config._attn_implementation != "sdpa" or not type(model).__module__.startswith("transformers.models."):
            return False
        return self.keeps_tokens(tokens)

    def keeps_tokens(self, tokens: int) -> bool:
        """Return True if the KV cache of a sequence of `tokens` keeps each of them, in all layers."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        return all(
            type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and tokens < layer.sliding_window)
            for layer in self.create_cache().layers
        )

    def create_sequence(self, adapter: str | None = None) -> TorchSequence:
        return TorchSequence(self, adapter)

    def forward(
        self, rows: Sequence[Sequence[int]], cache: Any, adapter: str | None = None, keep: int = 1, **padding: Any
    ) -> tuple[Any, Any]:
        """Run the model on tokens, (B, T), which follow those in `cache`; None: a trained prompt comes before them, if any.

        Args:
            rows: The tokens.
            cache: KV cache of B rows, which is extended.
            adapter: The adapter to use.
            keep: Number of last tokens that logits are returned of.
            padding: `attention_mask` (B, cached + T) and `position_ids` (B, T) of rows with padding.

        Returns:
            Logits (B, keep, V), and the cache.
        """
        import torch

        if self._threads:
            self._threads.adapt()
        self._activate(adapter)
        model, tokens = self._language_model, torch.tensor(rows, dtype=torch.long, device=self.device)  # (B, T)
        inputs: dict[str, Any] = {"input_ids": tokens}
        if self.has_trained_prompt and cache is None:
            embeddings = model.get_input_embeddings()(tokens)  # (B, T, H)
            prompt = self.model.get_prompt(batch_size=len(tokens)).to(embeddings.dtype)  # (B, virtual tokens, H)
            inputs = {"inputs_embeds": torch.cat([prompt, embeddings], dim=1)}
        if cache is None:
            cache = self.create_cache()
        # Positions, not their number: a slice of several rows is not contiguous, and with frozen weights torch multiplies it by a
        # copy of the output head per row (2.13).
        last = torch.arange(-keep, 0, device=self.device)  # (keep,)
        with torch.inference_mode():
            output = model(**inputs, **padding, past_key_values=cache, use_cache=True, logits_to_keep=last)
        return output.logits, output.past_key_values

    # -- batches and measurement ---------------------------------------------------------------------------------------

    def run_prompts(self, tasks: Sequence[PromptTask], batch_size: int) -> list[PromptResult]:
        from phi_runtime.inference.batches import run_batched

        return run_batched(self, tasks, batch_size)

    def _measured_sequence(self, tokens: int) -> TorchSequence:
        return self.create_sequence()


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer: those of generation_config.json, and the tokenizer's."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    eos_ids = eos if isinstance(eos, list) else [eos]
    return {int(token) for token in [*eos_ids, tokenizer.eos_token_id] if token is not None}
