"""Check the settings of an export against each other, its target and the base model.

Reports what the builder would build and nothing could run, and what it would ignore.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.pass_graph import training_of
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import ExportPass
from phi_runtime.config.schema.export import ROUNDING_OPTIONS
from phi_runtime.config.supported_precisions import SUPPORTED_PRECISIONS
from phi_runtime.models.exportable import why_not_exportable

_CPU, _CUDA, _DML, _WEBGPU = SUPPORTED_PRECISIONS

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
"""Options that only some execution providers read."""

_Conflict = tuple[tuple[str, ...], str, str]
"""Key path below the pass, message, and the value to set instead, if there is one."""


def check_export(c: Checks, at: KeyPath, step: ExportPass) -> Iterator[Finding]:
    """Yield what is wrong with `step`, the export at `at`, for this target and base model; at most one finding a key."""
    stored = c.stored
    tied = bool(stored.get("tie_word_embeddings")) if stored else None
    provider = c.provider
    if refusal := why_not_exportable(stored):
        what, fix = refusal
        yield c.error((*at, "type"), "not-exportable", what, fix=fix)
    if provider and step.precision not in SUPPORTED_PRECISIONS[provider]:
        supported = SUPPORTED_PRECISIONS[provider]
        message = f"`{step.precision}` does not run on {provider} (supported: {', '.join(supported)})"
        fix = "set `precision` to one of these, or `target` to a system with another execution provider"
        cause = c.draft.source_path((*at, "precision"))[-1]
        if cause in ("float16", "torch_dtype"):  # of an older export
            message = f"`{cause}` makes an {step.precision} model, which does not run on {provider}"
            fix = f"remove `{cause}`, or set `target` to a system with another execution provider"
        yield c.error((*at, "precision"), "precision", message, fix=fix)
    reported: set[tuple[str, ...]] = set()
    for place, message, suggestion in (
        *_excluded(step, provider),
        *_rounding(step),
        *_calibration(step, has_rows=_has_training_rows(c, str(at[-1]))),
        *_tied(step, tied),
        *_blocks(step, stored),
        *_caches(step, provider),
    ):
        if place not in reported:
            reported.add(place)
            yield c.error((*at, *place), "contradiction", message, suggestion)
    for place, reason in _ignored(step, provider):
        if place not in reported:
            reported.add(place)
            yield c.warning((*at, *place), "no-effect", f"`{place[-1]}` has no effect: {reason}")


def _value(step: ExportPass, place: tuple[str, ...]) -> Any:
    return getattr(step.extra_options if len(place) == 2 else step, place[-1])


def _ignored(step: ExportPass, provider: str | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the options that the builder ignores, often left over from another precision or target, and the reason."""
    for place, providers in _PROVIDERS.items():
        if provider and provider not in providers and _value(step, place) is not None:
            yield place, f"it is for {' and '.join(providers)}, and the target has {provider}"
    if not step.quantizes:
        for place in (tuple(key.split(".")) for key in ROUNDING_OPTIONS):
            if _value(step, place) is not None:
                yield place, f"it is for weights of 4 or 8 bits, and the precision is {step.precision}"
        return
    if step.int4_calibration and not step.is_calibrated:
        other = 'it is for `"int4_algo_config": "gptq"`' if step.precision == "int4" else "the precision is int8"
        yield ("int4_calibration",), other
    if same := [name for name, bits in step.other_bits.items() if bits == step.precision]:
        yield _place_of_bits(step), f"{same[0]} has {step.precision[3:]} bits like all other weights"


def _excluded(step: ExportPass, provider: str | None) -> Iterator[_Conflict]:
    experts = step.extra_options.moe_quant_type
    if provider not in (None, _CUDA) and experts in ("int2", "mxfp4", "nvfp4"):
        message = f"`{experts}` is for {_CUDA}, and the target has {provider}"
        yield ("extra_options", "moe_quant_type"), message, "int4"
    if step.use_8bits_moe is not None and experts is not None:
        message = "`use_8bits_moe` and `moe_quant_type` both set the bits of the experts: remove one"
        yield ("use_8bits_moe",), message, ""
    if step.extra_options.prune_lm_head and step.include_hidden_states:
        message = (
            "`prune_lm_head` computes the last token's logits alone and excludes `include_hidden_states`: remove one"
        )
        yield ("extra_options", "prune_lm_head"), message, "false"


def _rounding(step: ExportPass) -> Iterator[_Conflict]:
    if step.use_qdq and step.precision == "int8":
        message = "int8 has no form with standard operators: remove `use_qdq`, or set precision int4"
        yield ("use_qdq",), message, "false"
    elif step.use_qdq and step.quantizes and "int8" in step.other_bits.values():
        message = f"`use_qdq` has no 8-bit weights, which `{_key_of_bits(step)}` sets: remove one"
        yield ("use_qdq",), message, "false"


def _calibration(step: ExportPass, *, has_rows: bool) -> Iterator[_Conflict]:
    """Yield what excludes a calibration of the 4-bit weights."""
    key = "int4_algo_config" if step.int4_algo_config else "int4_calibration"
    place, name, instead = (key,), key, "null"
    if step.int4_algo_config:
        name, instead = "gptq", "k_quant_mixed"
    if step.base_algorithm != "gptq" or not step.quantizes:
        return
    if step.precision == "int8":
        yield place, "`gptq` calibrates weights of 4 bits, and the precision is int8", "default"
    elif step.adapters:
        yield (
            place,
            f"`{name}` calibrates a merged model, and `adapters` exports a base model with adapters: remove one",
            "",
        )
    elif not has_rows:
        yield place, f"`{name}` calibrates on training rows, and no pass before this one trains", instead
    elif step.int4_is_symmetric is False:
        yield ("int4_is_symmetric",), f"`{name}` has no zero points: remove `int4_is_symmetric`", "true"


def _has_training_rows(c: Checks, name: str) -> bool:
    """Return True if the model that the pass `name` exports was trained on rows of this config, or if that cannot be known."""
    try:
        training = training_of(c.steps, name)
    except KeyError:  # a pass before it does not exist or is not valid, which has its own error
        return True
    return training is not None and training in c.steps and c.steps[training].rows is not None


def _key_of_bits(step: ExportPass) -> str:
    return "matmul_mixed_precision" if step.extra_options.matmul_mixed_precision else "int4_algo_config"


def _place_of_bits(step: ExportPass) -> tuple[str, ...]:
    key = _key_of_bits(step)
    return ("extra_options", key) if key == "matmul_mixed_precision" else (key,)


def _tied(step: ExportPass, tied: bool | None) -> Iterator[_Conflict]:
    """Yield the options that fail where one matrix is embedding and output head (seen in onnxruntime-genai 0.18)."""
    shared = step.extra_options.shared_embeddings
    if shared and tied is False:
        message = "this model does not share its embedding with the output head"
        yield ("extra_options", "shared_embeddings"), message, "false"
    if not (shared if shared is not None else tied) or step.precision != "int4":
        return
    separate = 'set "shared_embeddings": false in extra_options (a larger file)'
    if step.use_qdq:
        message = f"`use_qdq` cannot share the embedding with the output head, as this model does; {separate}"
        yield ("use_qdq",), message, ""
    elif step.int4_is_symmetric is False and step.base_algorithm == "default":
        message = (
            "this model shares the embedding with the output head and would not load; "
            f'set "int4_algo_config": "rtn", or {separate}'
        )
        yield ("int4_is_symmetric",), message, ""


def _blocks(step: ExportPass, stored: Mapping[str, Any]) -> Iterator[_Conflict]:
    """Yield a block size that leaves an odd number of blocks in a row.

    4-bit zero points, which k_quant always has, are packed in pairs: the builder fails on an odd number (seen in
    onnxruntime-genai 0.18).
    """
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
    fix = "use smaller blocks" if fits else 'set "int4_algo_config": "default"'
    message = (
        f"blocks of {block} leave an odd number of them in a row of {odd} weights, whose zero points the builder "
        f"cannot pack: {fix}"
    )
    place = "int4_block_size" if step.int4_block_size else "int4_algo_config"
    yield (place,), message, str(fits[0]) if fits and step.int4_block_size else ""


def _caches(step: ExportPass, provider: str | None) -> Iterator[_Conflict]:
    scheme = step.extra_options.kv_cache_quant_scheme
    if scheme in (None, "none") or provider is None:
        return
    place = ("extra_options", "kv_cache_quant_scheme")
    if provider not in (_CPU, _CUDA):
        yield place, f"{provider} does not quantize its key-value cache: remove `kv_cache_quant_scheme`", "none"
    elif provider == _CPU and scheme.startswith("fp8"):
        yield place, f"`{scheme}` is for {_CUDA}", "int8_per_channel"
