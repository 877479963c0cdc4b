"""What all parts of the config share: strict, frozen models, and the types that several of them use."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Kind = Literal["hf", "adapter", "onnx"]
Dtype = Literal["bfloat16", "float16", "float32"]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_switch(value: Any) -> Any:
    """Python takes True for 1."""
    return str(value).lower() if isinstance(value, bool) else value


NoSwitch = BeforeValidator(_no_switch)
Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer; 3.0 is one too, as it is in JSON."""
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Unknown keys are errors, nothing is converted, and a loaded value never changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
