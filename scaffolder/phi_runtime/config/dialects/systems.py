"""Translate the systems of a config: machines, accelerators, execution providers."""

from __future__ import annotations

import typing
from typing import Any

from phi_runtime.config.diagnostics import dotted
from phi_runtime.config.dialects.draft import EMPTY, MISSING, Draft
from phi_runtime.config.dialects.key_table import fix_case
from phi_runtime.config.dialects.keys import OTHER_ENVIRONMENTS, translate_keys
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AnySystem, AzureMLSystem, LocalSystem
from phi_runtime.config.schema.systems import ExecutionProvider

PROVIDER_OF = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_CPU = {"device": "cpu", "execution_providers": [PROVIDER_OF["cpu"]]}


def translate_systems(draft: Draft) -> None:
    """Translate `systems`, `host` and `target`; all of them may be missing in Olive."""
    _inline_systems(draft)
    _systems(draft)
    _host_and_target(draft)


def _inline_systems(draft: Draft) -> None:
    """Name the systems written at `host` and `target` (up to 0.6); add this machine if there is none."""
    systems = draft.get(("systems",))
    if systems is None or systems == {}:
        draft.drop(("systems",), EMPTY)
    elif systems is not MISSING and not isinstance(systems, dict):
        return
    for key in ("host", "target"):
        if isinstance(draft.get((key,)), dict):
            name = next(n for n in (f"{key}_system", f"{key}_system_2") if not draft.has(("systems", n)))
            system = draft.get((key,))
            draft.set_default(("systems", name), system, f"the system of `{key}` has a name now", cause=(key,))
            draft.replace((key,), name, f"`{key}` is now the name of a system")
    if not draft.keys(("systems",)):
        draft.set_default(
            ("systems",), {"local_system": {"type": "LocalSystem"}}, "without systems, everything runs on this machine"
        )


def _systems(draft: Draft) -> None:
    everywhere: KeyPath = ("execution_providers",)
    used = _used(draft)
    for name in draft.keys(("systems",)):
        at = ("systems", name)
        if used and name not in used and not _is_valid(draft, at, everywhere):
            draft.drop(at, "`host` and `target` name other systems")
        else:
            _system(draft, at, everywhere)
    if isinstance(draft.get(everywhere), str | list | None):
        draft.drop(everywhere, "`accelerators` of each system names the execution provider")


def _is_valid(draft: Draft, at: KeyPath, everywhere: KeyPath) -> bool:
    """Return True if the system at `at` is valid once it is translated."""
    alone = Draft(draft.source, {"systems": {at[-1]: draft.get(at)}})
    if draft.has(everywhere):
        alone.value[everywhere[-1]] = draft.get(everywhere)
    _system(alone, at, everywhere)
    return alone.is_valid(at, AnySystem)


def _used(draft: Draft) -> set[str]:
    """Return the systems that passes run on or that the model is built for; empty if the config names none that it has."""
    passes = draft.get(("passes",))
    steps = [step for step in passes.values() if isinstance(step, dict)] if isinstance(passes, dict) else []
    names = [draft.get(("host",)), draft.get(("target",)), *(step.get("host") for step in steps)]
    return {name for name in names if isinstance(name, str) and draft.has(("systems", name))}


def _system(draft: Draft, at: KeyPath, everywhere: KeyPath) -> None:
    if not isinstance(draft.get(at), dict):
        return
    draft.unnest((*at, "config"))
    fix_case(draft, (*at, "type"), ("LocalSystem", "AzureML", *OTHER_ENVIRONMENTS))
    if isinstance(kind := draft.get((*at, "type")), str) and kind in OTHER_ENVIRONMENTS:
        message = f"`{kind}` is now `LocalSystem`: all passes run in the environment of the project"
        draft.replace((*at, "type"), "LocalSystem", message)
    translate_keys(draft, at, AzureMLSystem if draft.get((*at, "type")) == "AzureML" else LocalSystem)
    if draft.has((*at, "azureml_client")):
        draft.rename((*at, "azureml_client"), "azureml_client_config")
    providers = (*at, "execution_providers")
    _accelerators(draft, at, providers if draft.has(providers) else everywhere)
    if isinstance(draft.get(providers), str | list | None):
        draft.drop(providers, "`accelerators` names the execution provider")


def _accelerators(draft: Draft, at: KeyPath, providers_at: KeyPath) -> None:
    path = (*at, "accelerators")
    value, providers = draft.get(path), _listed(draft.get(providers_at))
    if value is None:
        draft.drop(path, EMPTY)
        value = MISSING
    if value is MISSING:
        accelerator = {"device": _device(providers), "execution_providers": providers} if providers else _CPU
        draft.set_default(
            path,
            [dict(accelerator)],
            "the system has no accelerator" if not providers else "the accelerator of the execution provider",
        )
        _one_provider(draft, (*path, 0))
        return
    if isinstance(value, str | dict):
        draft.replace(path, [value], "`accelerators` is now a list")
    if not isinstance(draft.get(path), list):
        return
    for i, item in enumerate(draft.get(path)):
        _accelerator(draft, (*path, i), item, providers_at, providers)
        _one_provider(draft, (*path, i))


def _accelerator(draft: Draft, at: KeyPath, item: Any, providers_at: KeyPath, providers: list[Any] | None) -> None:
    if isinstance(item, str):
        device = item.strip().casefold()
        provider = providers or ([PROVIDER_OF[device]] if device in PROVIDER_OF else None)
        if provider:
            value = {"device": device, "execution_providers": provider}
            draft.replace(at, value, f"accelerator `{device}` is now an object, with {provider[0]}")
        return
    if not isinstance(item, dict):
        return
    own = (*at, "execution_providers")
    if draft.get(own) is None:
        draft.drop(own, EMPTY)
    if isinstance(draft.get(own), str):
        draft.replace(own, [draft.get(own)], "`execution_providers` is now a list")
    fix_case(draft, (*at, "device"), tuple(PROVIDER_OF))
    device = draft.get((*at, "device"))
    if not draft.has(own) and (providers or (isinstance(device, str) and device in PROVIDER_OF)):
        draft.set_default(own, providers or [PROVIDER_OF[device]], "execution provider of the device", cause=at)
    elif draft.has(own) and providers and draft.get(own) != providers:
        message = f"contradicts the execution provider of `{dotted(draft.source_path(at))}`"
        draft.refused.append(draft.finding(providers_at, "contradiction", message))
    listed = _listed(draft.get(own))
    if not draft.has((*at, "device")) and listed:
        draft.set_default((*at, "device"), _device(listed), "device of the execution provider", cause=at)


def _one_provider(draft: Draft, at: KeyPath) -> None:
    """Keep the first of several execution providers that this build has for the device; Olive ran once for each."""
    own = (*at, "execution_providers")
    listed, device = draft.get(own), draft.get((*at, "device"))
    if not isinstance(listed, list) or len(listed) < 2:
        return
    known = [name for name in listed if name in typing.get_args(ExecutionProvider)]
    fitting = [name for name in known if device != "cpu" or name == PROVIDER_OF["cpu"]]
    chosen = (fitting or known or listed)[0]
    others = ", ".join(f"`{name}`" for name in listed if name != chosen)
    message = f"only `{chosen}` is built for, not {others}: use one config for each"
    draft.replace(own, [chosen], message, changes_result=True)


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and value else None


def _device(providers: list[Any]) -> str:
    return "cpu" if providers[0] == "CPUExecutionProvider" else "gpu"


def _host_and_target(draft: Draft) -> None:
    names = draft.keys(("systems",))
    named = {key: draft.get((key,)) for key in ("host", "target") if draft.get((key,)) not in (MISSING, None)}
    for key in ("host", "target"):
        if draft.get((key,)) is None:
            draft.drop((key,), EMPTY)
        if key not in named and (named or len(names) == 1):
            name = next(iter(named.values()), names[0] if names else "")
            draft.set_default((key,), name, "the only system" if len(names) == 1 else "the system of the other")
