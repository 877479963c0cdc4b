"""Base class of all parts of the config, and field types that several parts use."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic.fields import FieldInfo

Kind = Literal["hf", "adapter", "onnx"]
Dtype = Literal["bfloat16", "float16", "float32"]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_switch(value: Any) -> Any:
    """Turn a bool into text, since Python accepts True as 1."""
    return str(value).lower() if isinstance(value, bool) else value


NoSwitch = BeforeValidator(_no_switch)
Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer; 3.0 is one too, as it is in JSON."""
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[list[str], Field(min_length=1)]


def list_or_one(value: object) -> str:
    """Return the tag of a list, or of a single value."""
    return "a list" if isinstance(value, list | tuple) else "one"


NamesOrPattern = Annotated[
    Annotated[str, Tag("one"), Field(min_length=1)] | Annotated[Names, Tag("a list")] | Annotated[None, Tag("nothing")],
    Discriminator(lambda value: "nothing" if value is None else list_or_one(value)),
]


class Strict(BaseModel):
    """Unknown keys are errors, nothing is converted, and a loaded value never changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


def no_effect(default: Any, description: str, **limits: Any) -> Any:
    """Return a field that Olive has and that has no effect here; `validate` names those that a config sets."""
    return Field(default, description=description, json_schema_extra={"noEffect": True}, **limits)


def has_effect(field: FieldInfo) -> bool:
    """Return False for a field that `no_effect` created."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("noEffect"))
