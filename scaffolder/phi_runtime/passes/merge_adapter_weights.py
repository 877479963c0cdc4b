"""MergeAdapterWeights: add one adapter, or several together, to the full-precision base, also where the base was in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.pass_graph import sources
from phi_runtime.config.schema.common import Kind, Names
from phi_runtime.config.schema.pass_base import Pass
from phi_runtime.config.schema.registry import register
from phi_runtime.core.errors import WorkFailed
from phi_runtime.models.reference import ModelRef

if TYPE_CHECKING:
    from phi_runtime.context import PassContext

_PROBE = "Any text will do: one plus 1 makes {two}."
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference of the next-token log-probabilities that rounding explains, by the type of the stored weights."""


@register
class MergeAdapterWeights(Pass):
    """Add the adapter to its full-precision base."""

    accepts: ClassVar[Kind] = "adapter"
    produces: ClassVar[Kind] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "tokenizers")

    type: Literal["MergeAdapterWeights"] = Field(description="Merge the adapter into its base.")
    adapters: Names | None = Field(
        None,
        description="Names of passes whose adapters are merged together. Default null: the last adapter before this pass. "
        "Olive ignores this key.",
    )

    def run(self, context: PassContext[MergeAdapterWeights]) -> dict[str, Any]:
        """Write the merged model to `context.out`.

        Raises:
            WorkFailed: the merged model differs from base + adapter by more than rounding explains.
        """
        from phi_runtime.data.chat_template import load_template
        from phi_runtime.models.load import load_tokenizer

        adapters = dict(context.adapters) or {sources(context.workflow.passes)[context.name] or "": context.source}
        first = next(iter(adapters.values()))  # of several, the one whose prompt template the merged model gets
        tokenizer = load_tokenizer(first)
        template = load_template(first.path)
        tuned = with_adapters(adapters)
        dtype = str(tuned.dtype).removeprefix("torch.")
        ids = tokenizer(_PROBE, return_tensors="pt").input_ids  # (1, T)
        expected = _log_probabilities(tuned, ids)  # (1, T, V)
        merged = tuned.merge_and_unload()
        drift = float((_log_probabilities(merged, ids) - expected).abs().max())
        if not drift <= TOLERANCE[dtype]:
            raise WorkFailed(
                f"the merged model differs from base + adapter by {drift:.3g} in log-probability; "
                f"rounding explains {TOLERANCE[dtype]}",
                fix="run again with --force on the training stage; report it if it happens again",
            )
        merged.save_pretrained(context.out)
        tokenizer.save_pretrained(context.out)
        template.save(context.out)
        return {"largest_log_probability_difference": drift, "dtype": dtype, "adapters": list(adapters)}


def with_adapters(adapters: Mapping[str, ModelRef]) -> Any:
    """Return the full-precision base of `adapters` with all of them active, under their names."""
    from phi_runtime.models.load import load_model, put_adapter

    model: Any = None
    for name, adapter in adapters.items():
        assert adapter.base is not None
        model = put_adapter(load_model(adapter.base, "auto") if model is None else model, adapter.path, name)
    if len(adapters) > 1:
        model.base_model.set_adapter(list(adapters))
    return model


def _log_probabilities(model: Any, ids: Any) -> Any:
    """Return the log-probabilities of the next token at every position, (1, T, V) in float32."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), dim=-1)
