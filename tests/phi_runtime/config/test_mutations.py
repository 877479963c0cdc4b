"""Whatever is done to a config, it is valid or each of its faults is shown in it; nothing is lost."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.json_schema import schema_of
from phi_runtime.config.reading.source import KeyPath, read_source
from phi_runtime.core.errors import ConfigError
from phi_runtime.pipeline.load import LoadedConfig, check_file
from tests.mutations import CASES, damage, mutate, places

# What the models say of the form of one value; other rules look at several, or at files.
FORM = ("unknown-key", "unknown-value", "wrong-type", "out-of-range")


def bases(without: str = "nothing") -> list[Any]:
    paths = sorted(p for p in CASES.iterdir() if p.suffix in (".json", ".yaml") and without not in p.name)
    return [read_source(p).value for p in paths]


@pytest.fixture
def check_text(tmp_path: Path) -> Callable[[str], LoadedConfig | None]:
    """Checks a text; None where it is not even JSON, which was said with a place in it."""
    (tmp_path / "datasets").symlink_to(CASES / "datasets")
    path = tmp_path / "olive-config.json"

    def run(text: str) -> LoadedConfig | None:
        path.write_text(text, encoding="utf-8")
        lines = text.count("\n") + 1
        with contextlib.suppress(ConfigError):
            return inspected(check_file(path), lines)
        with pytest.raises(ConfigError) as caught:
            check_file(path)
        assert caught.value.where is not None
        assert 1 <= caught.value.where.line <= lines
        return None

    return run


def inspected(checked: LoadedConfig, lines: int) -> LoadedConfig:
    """The same, every finding of it standing in the file."""
    for finding in checked.findings:
        assert 1 <= finding.where.line <= lines, finding
        assert finding.where.column >= 1
        assert finding.message
    return checked


def lost(draft: Draft) -> list[KeyPath]:
    """Paths of the file that are neither in the canonical form nor recorded."""
    kept = {draft.source_path(p) for p in places(draft.value)}
    recorded = {t.old for t in draft.translations} | {tuple(f.key.split(".")) for f in draft.refused}

    def is_recorded(path: KeyPath) -> bool:
        return any(path[:n] in recorded or tuple(map(str, path[:n])) in recorded for n in range(1, len(path) + 1))

    return [p for p in places(draft.source.value) if p not in kept and not is_recorded(p)]


@pytest.mark.parametrize("mutations", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutations_are_valid_or_located_and_nothing_is_dropped_silently(
    check_text: Callable[[str], LoadedConfig | None], mutations: int
) -> None:
    chance, valid, invalid = random.Random(3), 0, 0
    configs = bases()
    for number in range(mutations):
        config = mutate(chance.choice(configs), chance)
        text = json.dumps(config, indent=1, ensure_ascii=False)
        if number % 10 == 0:
            text = damage(text, chance)
        checked = check_text(text)
        if checked is None or not checked.valid:
            invalid += 1
        else:
            valid += 1
        if checked is not None:
            assert lost(checked.draft) == [], text
    assert valid > mutations / 10
    assert invalid > mutations * 2 / 5


@pytest.mark.parametrize("mutations", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_the_schema_agrees_with_the_models(check_text: Callable[[str], LoadedConfig | None], mutations: int) -> None:
    chance = random.Random(11)
    validator = Draft202012Validator(schema_of("workflow"))
    # A search with nothing to search is ignored as a whole, and a list of ranks is only right next to a search: no schema says so.
    configs = [c for c in bases(without="search") if "passes" in c]
    caught = 0
    for _ in range(mutations):
        config = mutate(chance.choice(configs), chance)
        text = json.dumps(config, indent=1, ensure_ascii=False)
        checked = check_text(text)
        assert checked is not None
        ignored = [t.old for t in checked.draft.translations if t.new is None and t.old is not None]
        unused = [old for old in ignored if len(old) == 2 and old[0] in ("data_configs", "systems")]
        if unused or any(old[-1] == "search_strategy" for old in ignored):  # no schema says what is used
            continue
        schema_valid = validator.is_valid(config)
        # The settings of a scheduler depend on its name: no schema says so either.
        own = [f for f in checked.findings if ".lr_scheduler_kwargs." not in f.key]
        rules = {f.rule for f in own if f.severity == "error"}
        if checked.valid:
            assert schema_valid, text
        elif rules & set(FORM):
            assert not schema_valid, (rules, [str(f) for f in checked.findings if f.severity == "error"], text)
            caught += 1
    assert caught > mutations / 4
