"""MergeAdapterWeights: the adapter is added into the full-precision base, also where it was trained over a 4-bit one."""

from __future__ import annotations

from typing import Any

from phi_runtime.errors import WorkFailed
from phi_runtime.passes import PassContext

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")

_PROBE = "Any text will do: one plus 1 makes {two}."
# Largest difference of the next-token log-probabilities that rounding can make, by the type the weights are stored in.
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.data.chat_template import load_template
    from phi_runtime.models.load import load_reference, load_tokenizer

    tokenizer = load_tokenizer(context.source)
    template = load_template(context.source.path)
    tuned = load_reference(context.source, "auto")
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
    return {"largest_log_probability_difference": drift, "dtype": dtype}


def _log_probabilities(model: Any, ids: Any) -> Any:
    """Log-probabilities of the next token at every place, (1, T, V) in float32."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), dim=-1)
