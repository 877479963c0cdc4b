"""Fields of other servers' requests: those without effect on an answer are accepted, and all others are refused.

One table for both routes. A field that a route obeys is in the request class of `protocol` instead, and never gets here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.serving.errors import invalid

_MAX_DEPTH = 64  # levels of lists and objects in a field

NO_EFFECT = frozenset(
    {
        # OpenAI: labels, billing, storage, and speed
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction"),
        # vLLM: scheduling, and the choice of a backend
        *("priority", "request_id", "cache_salt", "guided_decoding_backend"),
        # llama.cpp: slots and cache, and what belongs to samplers that are off
        *("cache_prompt", "id_slot", "n_keep", "repeat_last_n", "penalty_last_n", "mirostat_tau", "mirostat_eta"),
        *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold"),
        "dynatemp_exponent",
    }
)
"""Accepted with any value: they change nothing of the answer."""

_GUIDE = "guide the answer with response_format or guided_regex"
_SCHEMA = "pass the schema in response_format"
_STOP = "use stop with texts"
_CHAT = "send it to /v1/chat/completions"

UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    # OpenAI
    "functions": (([],), "use tools"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "logit_bias": (({},), _GUIDE),
    "audio": ((), ""),
    "modalities": ((["text"],), ""),
    "web_search_options": ((), ""),
    "moderation": ((), ""),
    "reasoning_effort": (("none",), ""),
    "verbosity": (("medium",), ""),
    "echo": ((False,), ""),
    "suffix": (("",), ""),
    "best_of": ((1,), "use n"),
    # OpenAI, on the other route
    "messages": (([],), _CHAT),
    "tools": (([],), _CHAT),
    "tool_choice": (("none", "auto"), _CHAT),
    "parallel_tool_calls": ((True, False), _CHAT),
    "top_logprobs": ((), "use logprobs with a number"),
    "prompt": ((), "send it to /v1/completions"),
    "input": ((), "use messages"),
    "instructions": ((), "use a message of role system"),
    "max_output_tokens": ((), "use max_tokens"),
    # vLLM and others
    "min_p": ((0,), ""),
    "typical_p": ((1,), ""),
    "repetition_penalty": ((1,), "use frequency_penalty"),
    "length_penalty": ((1,), ""),
    "use_beam_search": ((False,), ""),
    "stop_token_ids": (([],), _STOP),
    "include_stop_str_in_output": ((False,), ""),
    "ignore_eos": ((False,), ""),
    "min_tokens": ((0,), ""),
    "bad_words": (([],), ""),
    "allowed_token_ids": (([],), _GUIDE),
    "prompt_logprobs": ((0,), ""),
    "skip_special_tokens": ((True,), ""),
    "spaces_between_special_tokens": ((True,), ""),
    "add_special_tokens": ((), ""),
    "truncate_prompt_tokens": ((), ""),
    "add_generation_prompt": ((True,), ""),
    "continue_final_message": ((False,), ""),
    "chat_template": ((), "the template of the training is used"),
    "chat_template_kwargs": (({},), ""),
    "documents": (([],), ""),
    "guided_json": ((), _SCHEMA),
    "guided_choice": ((), "use guided_regex: (one|other)"),
    "guided_grammar": ((), _GUIDE),
    "guided_whitespace_pattern": ((), ""),
    "structured_outputs": ((), _GUIDE),
    "enable_thinking": ((), ""),
    # llama.cpp
    "n_predict": ((-1,), "use max_tokens"),
    "grammar": (("",), _GUIDE),
    "json_schema": ((), _SCHEMA),
    "repeat_penalty": ((1,), "use frequency_penalty"),
    "mirostat": ((0,), ""),
    "tfs_z": ((1,), ""),
    "top_a": ((0,), ""),
    "top_n_sigma": ((-1,), ""),
    "dynatemp_range": ((0,), ""),
    "dry_multiplier": ((0,), ""),
    "xtc_probability": ((0,), ""),
    "samplers": ((), ""),
    "n_probs": ((0,), "use logprobs"),
    "min_keep": ((0,), ""),
}
"""Refused, unless the value is one of these, which have no effect; and what to do instead."""


def check_extra(extra: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise ApiError for the first field of `extra` that a request may not have.

    Args:
        extra: The fields that the request class does not have.
        own: The fields that it has, for suggestions.
    """
    for name, value in extra.items():
        if name in NO_EFFECT:
            continue
        if name not in UNSUPPORTED:
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            near = did_you_mean(name[:60], [*own, *NO_EFFECT, *UNSUPPORTED])
            raise invalid(f"unknown field `{shown}`{near}", shown, "unknown_parameter")
        neutral, instead = UNSUPPORTED[name]
        if not any(_same(value, each) for each in neutral):
            raise invalid(f"{name} is not supported{instead and ': '}{instead}", name, "unsupported_parameter")


def check_depth(value: Any, where: str) -> None:
    """Raise ApiError if the JSON value of the field `where` is nested too deep."""
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            child
            for part in level
            if isinstance(part, list | dict)
            for child in (part.values() if isinstance(part, dict) else part)
        ]
    if level:
        raise invalid(f"{where} is nested more than {_MAX_DEPTH} levels deep", where)


def check_keys(part: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Raise ApiError for a key of the object `where` that is not one of `allowed` and not null."""
    known = list(allowed)
    for key, value in part.items():
        if key not in known and value is not None:
            where = f"{where}.{key[:60]}"
            raise invalid(f"unknown field `{where}`{did_you_mean(key[:60], known)}", where, "unknown_parameter")


def _same(value: Any, neutral: Any) -> bool:
    """Return True for equal values; `true` is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral
