"""Prompt tasks in batches, through transformers: prompts of similar length share a batch, and what all begin with is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.core.grouping import grouped
from phi_runtime.inference.decoding import AnswerDecoder, StartedAnswers
from phi_runtime.inference.generator import PromptResult, PromptTask
from phi_runtime.inference.kv_cache import select_rows
from phi_runtime.inference.prompt_tasks import GreedyAnswer, Path, run_alone
from phi_runtime.inference.sequences import crosses

if TYPE_CHECKING:
    from phi_runtime.inference.transformers import TransformersGenerator

_BATCH_TOKENS = 8192  # cached tokens of a batch, with padding
_LOGIT_TOKENS = 2048  # tokens whose logits are in memory at once


def run_batched(generator: TransformersGenerator, tasks: Sequence[PromptTask], batch_size: int) -> list[PromptResult]:
    """Run `tasks` in batches of up to `batch_size` prompts.

    A prompt whose continuation crosses the length at which LongRoPE changes its factors runs alone: what was computed with the
    other factors is computed again there.
    """
    import torch

    results: dict[int, PromptResult] = {}
    switch = generator.rope_switch
    with torch.inference_mode():
        together = []
        for i, task in enumerate(tasks):
            if crosses(switch, len(task.ids), len(task.ids) + task.longest_continuation):
                results[i] = run_alone(generator.create_sequence(), task, generator.stop_ids, generator.tokenizer)
            else:
                together.append(i)
        long = switch is not None and any(len(tasks[i].ids) > switch for i in together)
        prefix = _Prefix.read(generator, [tasks[i].ids for i in together], share=not long) if together else None
        decoder = AnswerDecoder(generator)
        started: dict[int, tuple[GreedyAnswer, list[list[float]]]] = {}  # answers and log-probabilities
        for indices in _batches([tasks[i] for i in together], batch_size, switch):
            assert prefix
            chosen = [together[i] for i in indices]
            batch = _Batch(generator, [tasks[i] for i in chosen], prefix)
            answers, logprobs = batch.start()
            started |= zip(chosen, zip(answers, logprobs, strict=True), strict=True)
            is_long = switch is not None and len(tasks[chosen[0]].ids) > switch
            decoder.add(StartedAnswers(answers, batch.cache, batch.mask, batch.lengths, is_long))
            del batch  # with its cache, before the next one is read
        decoder.finish()
    results |= {i: answer.result(values) for i, (answer, values) in started.items()}
    return [results[i] for i in range(len(tasks))]


def _batches(tasks: Sequence[PromptTask], batch_size: int, switch: int | None) -> Iterator[list[int]]:
    """Return indices of tasks of similar length.

    A batch has at most `batch_size` prompts, `_BATCH_TOKENS` with padding, and one set of rotary factors, which the longest
    prompt selects (`switch`).
    """
    lengths = [len(task.ids) for task in tasks]

    def fits(batch: list[int], index: int) -> bool:
        has_other_factors = crosses(switch, lengths[batch[0]], lengths[index])
        tokens = (len(batch) + 1) * (lengths[index] + tasks[index].longest_continuation)
        return not has_other_factors and len(batch) < batch_size and tokens <= _BATCH_TOKENS

    return grouped(sorted(range(len(tasks)), key=lambda i: (lengths[i], tasks[i].longest_continuation)), fits)


@dataclass(frozen=True)
class _Prefix:
    """The tokens that all prompts begin with, in a KV cache of one row.

    Attributes:
        tokens: Number of them.
        cached: Tokens in the cache: with those of a trained prompt.
        cache: The cache; None if it is empty.
    """

    tokens: int
    cached: int
    cache: Any

    @classmethod
    def read(cls, generator: TransformersGenerator, prompts: Sequence[list[int]], *, share: bool) -> _Prefix:
        """Read the common prefix of `prompts`, if they may `share` one.

        A sliding window counts padding, which would be between the prefix and the prompts.
        """
        cache = generator.create_cache()
        tokens = 0
        if share and not any(cache.is_sliding):
            ends = min(prompts), max(prompts)
            tokens = min(common_prefix(*ends), min(map(len, prompts)) - 1)
        if not tokens and not generator.has_trained_prompt:
            return cls(0, 0, None)
        _, cache = generator.forward([prompts[0][:tokens]], None)
        return cls(tokens, cache.get_seq_length(), cache)


class _Batch:
    """Tasks whose prompts are read together.

    The rows of the cache are padded on the left of the prompts, behind the shared prefix, so that all continuations start at
    the same place. If the model can read trees, the completions are read in the same call: behind each prompt, those that begin
    alike once, each token with a mask of the prompt and the tokens of its own completion before it.
    """

    def __init__(self, generator: TransformersGenerator, tasks: Sequence[PromptTask], prefix: _Prefix) -> None:
        import torch

        self.generator, self.tasks = generator, tasks
        rest = [list(task.ids[prefix.tokens :]) for task in tasks]
        longest = max(map(len, rest))
        padding = [longest - len(ids) for ids in rest]
        places = torch.arange(prefix.cached + longest, device=generator.device)  # (K,)
        gaps = torch.tensor(padding, device=generator.device)[:, None]  # (B, 1)
        self.mask = (places < prefix.cached) | (places >= prefix.cached + gaps)  # (B, K)
        self.lengths = torch.tensor([prefix.cached + len(ids) for ids in rest], device=generator.device)  # (B,)
        self.padded = any(padding)
        cache = select_rows(prefix.cache, [0] * len(tasks)) if prefix.cache else None
        positions = (places[prefix.cached :] - gaps).clamp(min=0)  # (B, longest)
        trees = [_inner_paths(task.completions) for task in tasks]
        nodes = max(map(len, trees))
        self.reads_trees = generator.reads_trees(prefix.cached + longest + nodes) and (
            len(tasks) * (nodes + 1) <= _LOGIT_TOKENS
            and len(tasks) * (prefix.cached + longest + nodes) <= _BATCH_TOKENS
        )
        if not self.reads_trees:
            trees, nodes = [[] for _ in tasks], 0
        rows = [
            [generator.pad_id] * count + ids + [path[-1] for path in tree] + [generator.pad_id] * (nodes - len(tree))
            for count, ids, tree in zip(padding, rest, trees, strict=True)
        ]
        placed = self._tree_placed(trees, nodes, positions) if nodes else self._placed(self.mask, positions)
        logits, self.cache = generator.forward(rows, cache, keep=nodes + 1, **placed)
        if nodes:
            self.cache.crop(-nodes)
        self.first = logits[:, 0].float().log_softmax(-1)  # (B, V)
        self.inner = [dict(zip(tree, of_row[1:], strict=False)) for tree, of_row in zip(trees, logits, strict=True)]

    def _tree_placed(self, trees: Sequence[list[Path]], nodes: int, positions: Any) -> dict[str, Any]:
        """Return the attention mask (B, 1, T, K) and the positions (B, T) of prompts with `nodes` tokens of trees after each."""
        import torch

        count, start = self.mask.shape[1], positions.shape[1]
        places = torch.arange(count + nodes, device=positions.device)  # (K,)
        queries = places[count - start :, None]  # (T, 1)
        seen = torch.cat([self.mask, self.mask.new_zeros(len(trees), nodes)], dim=1)
        mask = (places <= queries) & seen[:, None] | (places == queries)  # (B, T, K); padding sees itself, for softmax
        depths = torch.zeros(len(trees), nodes, dtype=torch.long)
        for row, tree in enumerate(trees):
            place = {path: i for i, path in enumerate(tree)}
            for path, i in place.items():  # a path comes after the one that it extends
                if len(path) > 1:
                    mask[row, start + i, count:] |= mask[row, start + place[path[:-1]], count:]
                depths[row, i] = len(path) - 1
        after = self.lengths[:, None] + depths.to(positions.device)
        return {"attention_mask": mask[:, None], "position_ids": torch.cat([positions, after], dim=1)}

    def _placed(self, mask: Any, positions: Any) -> dict[str, Any]:
        """Return the attention mask and the positions, which rows of equal length do not need."""
        return {"attention_mask": mask.long(), "position_ids": positions} if self.padded else {}

    def start(self) -> tuple[list[GreedyAnswer], list[list[list[float]]]]:
        """Return the answers and the log-probabilities of the completions.

        Answers follow the completions, whose next tokens are known, as far as they go.
        """
        likeliest: list[dict[Path, int]] = [{(): int(token)} for token in self.first.argmax(-1)]
        logprobs = self._completions(likeliest)
        answers = [GreedyAnswer(task, self.generator.stop_ids, self.generator.tokenizer) for task in self.tasks]
        for answer, known in zip(answers, likeliest, strict=True):
            while answer.finish is None and (path := tuple(answer.tokens)) in known:
                answer.push(known[path])
        return answers, logprobs

    def _forward(self, rows: Sequence[int], tokens: Sequence[Sequence[int]], cache: Any) -> Any:
        """Run the model on `tokens` (R, T), which follow the prompts `rows`; return the logits (R, T, V)."""
        import torch

        mask, count = self.mask[list(rows)], len(tokens[0])
        mask = torch.cat([mask, mask.new_ones(len(rows), count)], dim=1)
        positions = self.lengths[list(rows)][:, None] + torch.arange(count, device=mask.device)
        logits, _ = self.generator.forward(tokens, cache, keep=count, **self._placed(mask, positions))
        return logits

    # -- completions ---------------------------------------------------------------------------------------------------

    def _completions(self, likeliest: list[dict[Path, int]]) -> list[list[list[float]]]:
        """Return the log-probabilities of the tokens of each completion, and add the likeliest token after each path."""
        found: list[list[list[float]]] = [
            [[float(self.first[row, completion[0]])] if completion else [] for completion in task.completions]
            for row, task in enumerate(self.tasks)
        ]
        if self.reads_trees:
            for row, inner in enumerate(self.inner):
                values = {path: logits.float().log_softmax(-1) for path, logits in inner.items()}
                likeliest[row] |= {path: int(logprobs.argmax()) for path, logprobs in values.items()}
                for number, completion in enumerate(self.tasks[row].completions):
                    paths = [tuple(completion[:i]) for i in range(1, len(completion))]
                    found[row][number] += [float(values[path][completion[len(path)]]) for path in paths]
            return found
        longer = [
            (row, number, completion)
            for row, task in enumerate(self.tasks)
            for number, completion in enumerate(task.completions)
            if len(completion) > 1
        ]
        for chunk in grouped(sorted(longer, key=lambda item: len(item[2])), self._fits):
            rows, longest = [row for row, _, _ in chunk], len(chunk[-1][2]) - 1
            tokens = [ids[:-1] + [self.generator.pad_id] * (longest + 1 - len(ids)) for _, _, ids in chunk]
            logits = self._forward(rows, tokens, select_rows(self.cache, rows))
            for (row, number, ids), of_row in zip(chunk, logits, strict=True):
                values = of_row[: len(ids) - 1].float().log_softmax(-1)  # (tokens - 1, V)
                places = range(len(ids) - 1)
                found[row][number] += values[list(places), ids[1:]].tolist()
                likeliest[row] |= zip((tuple(ids[: i + 1]) for i in places), values.argmax(-1).tolist(), strict=True)
        return found

    def _fits(self, chunk: list[tuple[int, int, list[int]]], item: tuple[int, int, list[int]]) -> bool:
        """Return True if a completion, at least as long as those of `chunk`, can be computed with them."""
        rows, tokens = len(chunk) + 1, len(item[2]) - 1
        return rows * tokens <= _LOGIT_TOKENS and rows * (self.mask.shape[1] + tokens) <= _BATCH_TOKENS


def _inner_paths(completions: Sequence[list[int]]) -> list[Path]:
    """Return the beginnings of completions that are followed by another token, each once, the shorter ones first."""
    paths = {tuple(completion[:i]) for completion in completions for i in range(1, len(completion))}
    return sorted(paths, key=lambda path: (len(path), path))
