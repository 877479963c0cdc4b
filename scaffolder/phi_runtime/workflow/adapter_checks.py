"""Adapters against the model that they are for, and the settings of one adapter against each other."""

from __future__ import annotations

from collections.abc import Iterator

from phi_runtime.suggest import nearest
from phi_runtime.workflow.diagnostics import Finding
from phi_runtime.workflow.parts import Checks
from phi_runtime.workflow.schema import IA3, AdapterPass, LinearAdapter, LoRA, Pass, PromptTuning, QLoRA
from phi_runtime.workflow.source import KeyPath

_MODULES = {
    "target_modules": "linear module",
    "exclude_modules": "linear module",
    "feedforward_modules": "linear module",
    "modules_to_save": "module",
}
USE_AS_IT_IS = (
    "learned tokens cannot be merged into the weights: take this pass out and use the adapter itself "
    "(`phi-scaffold chat --model adapter`)"
)


def cannot_be_merged(step: Pass | None) -> bool:
    """Whether `step` makes an adapter that stays beside its base for ever."""
    return isinstance(step, AdapterPass) and not step.merges


def check_adapter(c: Checks, at: KeyPath, step: AdapterPass) -> Iterator[Finding]:
    """What is wrong with the adapter that `step`, which stands at `at`, describes."""
    if isinstance(step, QLoRA) and step.int4_aware:
        message = "`int4_aware` is for LoRA: the base of a QLoRA has 4 bits already"
        yield c.draft.finding((*at, "int4_aware"), "contradiction", message)
    if isinstance(step, PromptTuning):
        yield from _prompt(c, at, step)
    if isinstance(step, IA3):
        targets = step.target_modules
        for i, name in enumerate(step.feedforward_modules or ()):
            if targets is not None and targets != ["all-linear"] and name not in targets:
                message = f"`{name}` is in feedforward_modules and not in target_modules, where it belongs as well"
                yield c.draft.finding((*at, "feedforward_modules", i), "contradiction", message)
    if isinstance(step, LinearAdapter):
        yield from _modules(c, at, step)


def _prompt(c: Checks, at: KeyPath, step: PromptTuning) -> Iterator[Finding]:
    if step.prompt_tuning_init == "text" and step.prompt_tuning_init_text is None:
        message = "`prompt_tuning_init` is text, and there is none: write prompt_tuning_init_text"
        yield c.draft.finding((*at, "prompt_tuning_init"), "contradiction", message)
    if step.prompt_tuning_init == "random" and step.prompt_tuning_init_text is not None:
        message = "`prompt_tuning_init_text` needs `prompt_tuning_init`: text"
        yield c.draft.finding((*at, "prompt_tuning_init_text"), "contradiction", message)


def _modules(c: Checks, at: KeyPath, step: LinearAdapter) -> Iterator[Finding]:
    """Names of modules against those that the model really has, where its files are here already."""
    named = {key: names for key in _MODULES if isinstance(names := getattr(step, key, None), list)}
    if c.parts.input_model is None or not named:
        return
    from phi_runtime.models.modules import is_embedding, known_modules, last_names, unknown_module
    from phi_runtime.models.stored import stored_config

    one = next((i for i, name in enumerate(step.modules_to_save or ()) if is_embedding(name)), None)
    tied = bool(stored_config(c.parts.input_model, c.path).get("tie_word_embeddings"))
    if one is not None and tied and not isinstance(step, LoRA):
        message = (
            f"`{named['modules_to_save'][one]}` is embedding and output head in one, and this kind of adapter would train them "
            "apart: use the type LoRA, DoRA or QLoRA, or take it out"
        )
        yield c.draft.finding((*at, "modules_to_save", one), "contradiction", message)
    modules = known_modules(c.parts.input_model, c.path)
    if modules is None:
        return
    for key, names in named.items():
        known = modules.all if key == "modules_to_save" else modules.linear
        for i, wanted in enumerate(names):
            if wanted != "all-linear" and (fault := unknown_module(_MODULES[key], wanted, known)):
                yield c.draft.finding((*at, key, i), "target-module", fault, nearest(wanted, last_names(known)))
