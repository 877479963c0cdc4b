"""The schema that editors use says what the models say, and the template carries it.

python -m tests.phi_runtime.config.test_json_schema        regenerates the copies in the template
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phi_runtime.config.dialects.json_schema import FILES, MODELS, Name, schema_of
from phi_runtime.config.reading.source import read_source

TEMPLATE = Path(__file__).resolve().parents[3] / "template" / ".vscode"
CASES = Path(__file__).parent / "dialects"


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


if __name__ == "__main__":
    for schema_name, file_name in FILES.items():
        (TEMPLATE / file_name).write_text(text_of(schema_name), encoding="utf-8", newline="\n")
