"""The schema that editors use says what the models say, and the template carries it.

python -m tests.phi_runtime.config.test_json_schema        regenerates the copies in the template
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phi_runtime.config.dialects import json_schema
from phi_runtime.config.dialects.json_schema import MODELS, Name
from phi_runtime.config.dialects.json_schema_completion import enums
from phi_runtime.config.dialects.json_schema_forms import Schema
from phi_runtime.config.dialects.json_schema_values import VALUES
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import BuilderOptions
from phi_runtime.config.schema.registry import pass_types

TEMPLATE = Path(__file__).resolve().parents[3] / "template" / ".vscode"
CASES = Path(__file__).parent / "dialects"
FILES: dict[Name, str] = {
    "workflow": "olive-config.schema.json",
    "evaluation": "evaluation.schema.json",
    "sweep": "sweep.schema.json",
}

schema_of = functools.cache(json_schema.schema_of)


def text_of(name: Name) -> str:
    return json.dumps(schema_of(name), ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = schema_of("workflow")
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", MODELS)
def test_the_template_carries_the_schema_of_the_models(name: Name) -> None:
    assert (TEMPLATE / FILES[name]).read_text(encoding="utf-8") == text_of(name), "run this module to regenerate it"


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_explained(name: Name) -> None:
    schema = schema_of(name)
    parts = {"": schema, **schema["$defs"]}
    for part, definition in parts.items():
        for key, value in definition.get("properties", {}).items():
            assert value.get("description") or "$ref" in json.dumps(value), f"{part}.{key} says nothing on hover"


@pytest.mark.parametrize(
    "path", sorted(p for p in CASES.iterdir() if p.suffix in (".json", ".yaml")), ids=lambda p: p.name
)
def test_every_form_that_the_door_takes_passes_the_schema(path: Path, validator: Draft202012Validator) -> None:
    errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(read_source(path).value)]
    assert not errors


def test_older_spellings_are_marked_and_never_proposed() -> None:
    lora = schema_of("workflow")["$defs"]["LoRA"]["properties"]
    for old, now in (("lora_r", "r"), ("lora_alpha", "alpha")):
        marked: dict[str, Any] = lora[old]
        assert marked["deprecated"]
        assert marked["doNotSuggest"]
        assert f"`{now}`" in marked["deprecationMessage"]
    assert "deprecated" not in lora["r"]
    assert lora["r"]["default"] == 64


def _properties(name: Name) -> Iterator[tuple[str, str, Schema]]:
    schema = schema_of(name)
    for part, definition in {"": schema, **schema["$defs"]}.items():
        for key, value in definition.get("properties", {}).items():
            yield part, key, value


def test_keys_that_are_refused_or_ignored_are_never_proposed() -> None:
    proposed = {key for part, key, value in _properties("workflow") if part == "BuilderOptions" and _is_proposed(value)}
    assert proposed == set(BuilderOptions.model_fields)
    for part, key, value in _properties("workflow"):
        assert not (value.get("noEffect") and _is_proposed(value)), f"{part}.{key} has no effect"


def _is_proposed(value: Schema) -> bool:
    return not value.get("doNotSuggest")


def test_all_types_are_offered_whatever_else_a_pass_has() -> None:
    schema = schema_of("workflow")
    passes = schema["properties"]["passes"]["additionalProperties"]
    assert passes["properties"]["type"]["anyOf"][0]["enum"] == list(pass_types())
    systems = schema["properties"]["systems"]["anyOf"][0]["additionalProperties"]
    assert systems["properties"]["type"]["anyOf"][0]["enum"] == ["LocalSystem", "AzureML"]


@pytest.mark.parametrize("name", MODELS)
def test_every_value_of_today_is_described(name: Name) -> None:
    for part, key, value in _properties(name):
        for schema in enums(value):
            today = "description" not in schema and not value.get("deprecated")
            codes = key in VALUES or not all(isinstance(v, int) for v in schema["enum"])
            if today and codes:
                assert len(schema["enumDescriptions"]) == len(schema["enum"]), f"{part}.{key}"


def test_every_description_of_a_value_is_used() -> None:
    used = {
        (key, v) for name in MODELS for _, key, value in _properties(name) for s in enums(value) for v in _values(s)
    }
    assert {(key, value) for key, values in VALUES.items() for value in values} <= used


def _values(schema: Schema) -> list[str | int]:
    return [value for value in schema["enum"] if isinstance(value, str | int)]


def test_each_pass_has_a_snippet_that_is_valid_as_it_is_inserted(validator: Draft202012Validator) -> None:
    snippets = validator.schema["properties"]["passes"]["additionalProperties"]["defaultSnippets"]
    assert [s["label"] for s in snippets] == list(pass_types())
    for snippet in snippets:
        text = re.sub(r'"\^\$\{\d+:([^}]*)\}"', r"\1", json.dumps(snippet["body"]))
        text = re.sub(r"\$\{\d+[:|]([^,|}]*)[^}]*\}", r"\1", text)
        body = json.loads(text)
        pass_types()[snippet["label"]].model_validate(body)
        workflow = {"input_model": {"type": "HfModel", "model_path": "a/b"}, "passes": {"one": body}}
        assert not list(validator.iter_errors(workflow)), body


if __name__ == "__main__":
    for schema_name, file_name in FILES.items():
        (TEMPLATE / file_name).write_text(text_of(schema_name), encoding="utf-8", newline="\n")
