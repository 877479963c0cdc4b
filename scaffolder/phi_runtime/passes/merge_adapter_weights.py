"""MergeAdapterWeights: the adapter, or several together, are added into the full-precision base, also where they were trained over a
4-bit one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phi_runtime.config.pass_graph import sources
from phi_runtime.context import PassContext
from phi_runtime.core.errors import WorkFailed
from phi_runtime.models.reference import ModelRef

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")

_PROBE = "Any text will do: one plus 1 makes {two}."
# Largest difference of the next-token log-probabilities that rounding can make, by the type the weights are stored in.
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.data.chat_template import load_template
    from phi_runtime.models.load import load_tokenizer

    adapters = dict(context.adapters) or {sources(context.workflow.passes)[context.name] or "": context.source}
    first = next(
        iter(adapters.values())
    )  # of several, the one whose prompts the merged model is asked with unless told otherwise
    tokenizer = load_tokenizer(first)
    template = load_template(first.path)
    tuned = with_adapters(adapters)
    dtype = str(tuned.dtype).removeprefix("torch.")
    ids = tokenizer(_PROBE, return_tensors="pt").input_ids  # (1, T)
    before = _log_probabilities(tuned, ids)
    merged = tuned.merge_and_unload()
    drift = float((_log_probabilities(merged, ids) - before).abs().max())
    if not drift <= TOLERANCE[dtype]:
        raise WorkFailed(
            f"the merged model differs from base + adapter by {drift:.3g} in log-probability; rounding explains {TOLERANCE[dtype]}",
            fix="run again with --force on the training stage; report it if it stays",
        )
    merged.save_pretrained(context.out)
    tokenizer.save_pretrained(context.out)
    template.save(context.out)
    return {"largest_log_probability_difference": drift, "dtype": dtype, "adapters": list(adapters)}


def with_adapters(adapters: Mapping[str, ModelRef]) -> Any:
    """The base that all `adapters` share, in full precision, with all of them active at once, by these names."""
    from phi_runtime.models.load import load_model, put_adapter

    model: Any = None
    for name, adapter in adapters.items():
        assert adapter.base is not None
        model = put_adapter(load_model(adapter.base, "auto") if model is None else model, adapter.path, name)
    if len(adapters) > 1:
        model.base_model.set_adapter(list(adapters))
    return model


def _log_probabilities(model: Any, ids: Any) -> Any:
    """Log-probabilities of the next token at every place, (1, T, V) in float32."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), dim=-1)
