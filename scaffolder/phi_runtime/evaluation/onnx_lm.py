"""An ONNX model as a model of lm-evaluation-harness (0.4.13), an extra that this module imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from phi_runtime.core.errors import DataError
from phi_runtime.data.tokenize import prompt_ids
from phi_runtime.inference.generator import PromptTask
from phi_runtime.inference.onnx import OnnxGenerator

_MAX_NEW_TOKENS = 256  # as in the harness's own classes

Request = tuple[Any, list[int], list[int]]
"""Texts, and the token ids of context and continuation."""


class OnnxLM(TemplateLM):
    """Likelihoods and greedy answers of an ONNX model, by ONNX Runtime GenAI.

    Args:
        generator: The model.
        tokenizer: Its tokenizer of transformers, so that texts become the same tokens as in the harness's own class.
    """

    def __init__(self, generator: OnnxGenerator, tokenizer: Any) -> None:
        super().__init__()
        self.generator, self.tokenizer = generator, tokenizer

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:
            return prompt_ids(self.tokenizer, string)
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens).input_ids)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in requests:
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.generator.context_length,
                context_len=1,
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        pairs = []
        for _texts, context, continuation in requests:
            excess = max(len(context) + len(continuation) - self.generator.context_length, 0)  # cut off at the left
            pairs.append((context[excess:], continuation))
        return self.generator.completion_scores(pairs)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        tasks = []
        for request in requests:
            text, kwargs = request.args
            settings = normalize_gen_kwargs(dict(kwargs), _MAX_NEW_TOKENS)
            until = handle_stop_sequences(settings.get("until"), eos=self.tokenizer.eos_token)
            new_tokens = int(settings["max_gen_toks"])
            limit = self.generator.context_length - new_tokens
            if limit <= 0:
                raise DataError(
                    f"the task has answers of {new_tokens} tokens, as many as the context of the model or more",
                    fix=f"set max_gen_toks of the task below {self.generator.context_length}, or measure another task",
                )
            ids = self.tok_encode(text)[-limit:] or [self.prefix_token_id]
            tasks.append(PromptTask(ids, (), new_tokens, tuple(filter(None, until))))
        results = self.generator.run_prompts(tasks, 1)
        return [
            postprocess_generated_text(generation=result.answer, stop=list(task.stop), think_end_token=None)
            for task, result in zip(tasks, results, strict=True)
        ]
