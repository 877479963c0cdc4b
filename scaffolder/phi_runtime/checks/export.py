"""The settings of an export against each other, its target and the base model: what the builder would build and nothing could run,
and what it would pass over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from phi_runtime.checks.sections import Checks, warned
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import ExportPass
from phi_runtime.config.supported_precisions import RUNNABLE
from phi_runtime.models.exportable import why_not_exportable
from phi_runtime.models.stored import stored_config

_CPU, _CUDA, _DML, _WEBGPU = RUNNABLE

# Options that only some execution providers look at.
_PROVIDERS = {
    ("enable_cuda_graph",): (_CUDA,),
    ("use_cuda_bf16",): (_CUDA,),
    ("use_webgpu_fp32",): (_WEBGPU,),
    ("extra_options", "enable_cuda_fpa_intb_gemm"): (_CUDA,),
    ("extra_options", "matmulnbits_weights_prepacked"): (_CUDA,),
    ("extra_options", "qmoe_weights_prepacked"): (_CUDA,),
    ("extra_options", "enable_dml_graph"): (_DML,),
    ("extra_options", "enable_webgpu_graph"): (_WEBGPU,),
    ("extra_options", "fuse_qk_norm_gqa"): (_CUDA, _WEBGPU),
}
# Options about weights of 4 or 8 bits.
_ROUNDING = [
    (name,)
    for name in (
        "int4_block_size",
        "int4_accuracy_level",
        "int4_is_symmetric",
        "int4_op_types_to_quantize",
        "int4_nodes_to_exclude",
        "int4_algo_config",
        "use_qdq",
        "use_cuda_bf16",
    )
] + [
    ("extra_options", name)
    for name in ("matmul_mixed_precision", "matmulnbits_weights_prepacked", "enable_cuda_fpa_intb_gemm")
]

_Fault = tuple[tuple[str, ...], str, str]
"""Where in the pass, what is wrong, and what to write instead if that is one value."""


def check_export(c: Checks, at: KeyPath, step: ExportPass, provider: str | None) -> Iterator[Finding]:
    """What is wrong with the export `step`, which stands at `at`, for a target with this execution provider."""
    stored = stored_config(c.parts.input_model, c.path) if c.parts.input_model else {}
    tied = stored.get("tie_word_embeddings")
    if reason := why_not_exportable(stored):
        yield c.draft.finding((*at, "type"), "not-exportable", reason)
    if provider and step.precision not in RUNNABLE[provider]:
        runnable = RUNNABLE[provider]
        message = f"`{step.precision}` does not run on {provider}; {', '.join(runnable)} do"
        yield c.draft.finding((*at, "precision"), "precision", message, runnable[-1])
    told: set[tuple[str, ...]] = set()
    for place, message, suggestion in (
        *_wrong_place(step, provider),
        *_rounding(step),
        *_tied(step, bool(tied) if stored else None),
        *_blocks(step, stored),
        *_caches(step, provider),
    ):
        if place not in told:  # one at a place
            told.add(place)
            yield c.draft.finding((*at, *place), "contradiction", message, suggestion)
    for place, why in _without_effect(step, provider):
        if place not in told:
            told.add(place)
            yield warned(c, (*at, *place), "no-effect", f"`{place[-1]}` has no effect: {why}")


def _value(step: ExportPass, place: tuple[str, ...]) -> Any:
    return getattr(step.extra_options if len(place) == 2 else step, place[-1])


def _without_effect(step: ExportPass, provider: str | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Options that the builder passes over, such as those that are left when another precision or target is written, and why."""
    for place, providers in _PROVIDERS.items():
        if provider and provider not in providers and _value(step, place) is not None:
            yield place, f"it is for {' and '.join(providers)}, and the target has {provider}"
    if not step.quantises:
        for place in _ROUNDING:
            if _value(step, place) is not None:
                yield place, f"it is about weights of 4 or 8 bits, and the precision is {step.precision}"
    elif same := [name for name, bits in step.other_bits.items() if bits == step.precision]:
        yield _place_of_bits(step), f"{same[0]} has {step.precision[3:]} bits anyway, as all weights do"


def _wrong_place(step: ExportPass, provider: str | None) -> Iterator[_Fault]:
    kind = step.extra_options.moe_quant_type
    if provider not in (None, _CUDA) and kind in ("int2", "mxfp4", "nvfp4"):
        yield ("extra_options", "moe_quant_type"), f"`{kind}` is for {_CUDA}, and the target has {provider}", "int4"
    if step.use_8bits_moe is not None and kind is not None:
        yield (
            ("use_8bits_moe",),
            "`use_8bits_moe` and `moe_quant_type` both say the bits of the experts; take one out",
            "",
        )
    if step.extra_options.prune_lm_head and step.include_hidden_states:
        message = "`prune_lm_head` computes the last token's logits alone; with `include_hidden_states` take it out"
        yield ("extra_options", "prune_lm_head"), message, "false"


def _rounding(step: ExportPass) -> Iterator[_Fault]:
    if step.use_qdq and step.precision == "int8":
        yield (
            ("use_qdq",),
            "int8 has no form with standard operators; take `use_qdq` out, or take precision int4",
            "false",
        )
    elif step.use_qdq and step.quantises and "int8" in step.other_bits.values():
        yield (
            ("use_qdq",),
            f"`use_qdq` has no 8-bit weights, which `{_named_bits(step)}` asks for; take one of them out",
            "false",
        )


def _named_bits(step: ExportPass) -> str:
    return "matmul_mixed_precision" if step.extra_options.matmul_mixed_precision else "int4_algo_config"


def _place_of_bits(step: ExportPass) -> tuple[str, ...]:
    name = _named_bits(step)
    return ("extra_options", name) if name == "matmul_mixed_precision" else (name,)


def _tied(step: ExportPass, tied: bool | None) -> Iterator[_Fault]:
    """What goes wrong where one matrix is embedding and output head (all seen in 0.18)."""
    shared = step.extra_options.shared_embeddings
    if shared and tied is False:
        yield (
            ("extra_options", "shared_embeddings"),
            "this model has an embedding and an output head of its own each",
            "false",
        )
    if not (shared if shared is not None else tied) or step.precision != "int4":
        return
    apart = 'set "shared_embeddings": false in extra_options (a larger file)'
    if step.use_qdq:
        message = f"`use_qdq` cannot share the embedding with the output head, as this model does; {apart}"
        yield ("use_qdq",), message, ""
    elif step.int4_is_symmetric is False and step.base_algorithm == "default":
        message = f'this model shares the embedding with the output head, and would not load; "int4_algo_config": "rtn", or {apart}'
        yield ("int4_is_symmetric",), message, ""


def _blocks(step: ExportPass, stored: Mapping[str, Any]) -> Iterator[_Fault]:
    """4-bit zero points, which k_quant always has, are packed in pairs: the builder fails where a row has an odd number (0.18)."""
    points = step.base_algorithm == "k_quant" or (step.base_algorithm == "rtn" and step.int4_is_symmetric is False)
    if step.precision != "int4" or not points:
        return
    hidden, heads = stored.get("hidden_size"), stored.get("num_attention_heads")
    head = stored.get("head_dim") or (hidden // heads if isinstance(hidden, int) and heads else None)
    sizes = [hidden, stored.get("intermediate_size"), head * heads if head and heads else None]
    inputs = [size for size in sizes if isinstance(size, int)]
    block = step.int4_block_size or 32
    odd = next((size for size in inputs if -(-size // block) % 2), None)
    if odd is None:
        return
    fits = [size for size in (128, 64, 32, 16) if size < block and not any(-(-n // size) % 2 for n in inputs)]
    message = (
        f"blocks of {block} leave an odd number of them in a row of {odd} weights, whose zero points the builder cannot pack; "
        + ("take smaller ones" if fits else 'take "int4_algo_config": "default"')
    )
    place = "int4_block_size" if step.int4_block_size else "int4_algo_config"
    yield (place,), message, str(fits[0]) if fits and step.int4_block_size else ""


def _caches(step: ExportPass, provider: str | None) -> Iterator[_Fault]:
    scheme = step.extra_options.kv_cache_quant_scheme
    if scheme in (None, "none") or provider is None:
        return
    place = ("extra_options", "kv_cache_quant_scheme")
    if provider not in (_CPU, _CUDA):
        yield place, f"{provider} keeps its cache as it is; take `kv_cache_quant_scheme` out", "none"
    elif provider == _CPU and scheme.startswith("fp8"):
        yield place, f"`{scheme}` is for {_CUDA}", "int8_per_channel"
