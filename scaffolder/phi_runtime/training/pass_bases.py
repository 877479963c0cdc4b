"""Common parts of passes that train: loading the model, and adapters on its linear modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from phi_runtime.config.schema.common import Count, Kind, Names, NamesOrPattern, Whole
from phi_runtime.config.schema.pass_base import FinetunePass, Pass
from phi_runtime.core.errors import ConfigError
from phi_runtime.models.memory import Method, TrainingJob, tokenizer_bytes
from phi_runtime.models.modules import layer_of
from phi_runtime.models.peft_folder import read_peft_folder
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import Linear, Shape
from phi_runtime.training.continued import DROPOUTS, completed

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from phi_runtime.context import PassContext

_ACTIVATION_CACHE_GB = 4
"""Largest activation cache, unless `activation_cache_gb` is set."""
USE_UNMERGED = "remove this pass and use the adapter itself (`phi-scaffold chat --model adapter`)"
MERGE_INSTEAD = "merge it instead: MergeAdapterWeights before its own ModelBuilder"


class TrainingPass(FinetunePass):
    """A pass that trains with `training.finetune`: subclasses load the model and say what of it is trained."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")
    memory_method: ClassVar[Method] = "lora"

    def run(self, context: PassContext[Any]) -> dict[str, Any]:
        """Train, and save model, tokenizer, template and loss log to `context.out`.

        Returns:
            Facts for the manifest; see `training.finetune.finetune`, also for what is raised.
        """
        from phi_runtime.training.finetune import finetune

        return finetune(context)

    @abstractmethod
    def load_trainable(self, context: PassContext[Any]) -> tuple[Any, torch.dtype]:
        """Return the model with its trainable weights, and the number type to compute in."""

    def load_base(self, context: PassContext[Any], stored: torch.dtype | None = None) -> tuple[Any, torch.dtype]:
        """Return the base model, with weights in `stored` (default: the type to compute in), and the type to compute in."""
        from phi_runtime.hardware.device import compute_dtype, pick_device
        from phi_runtime.models.load import load_model
        from phi_runtime.training.placement import placement

        device = pick_device(context.workflow.host_device)
        dtype = compute_dtype(self.compute_type, device)
        base = context.source.full
        kernel = context.workflow.input_model.load_kwargs.attn_implementation
        options = {**({"attn_implementation": kernel} if kernel else {}), **self.quantization(context, dtype)}
        return load_model(base, stored or dtype, **placement(self, base, dtype, device), **options), dtype

    def quantization(self, context: PassContext[Any], dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` that quantize the base, whose products are in `dtype`."""
        return {}

    def memory_job(self, job: TrainingJob, shape: Shape) -> TrainingJob:
        """Return `job` completed with what this method adds: trained weights, kept inputs, rebuilt matrices."""
        return job


class AdapterOutput(Pass):
    """A pass whose output is an adapter, with what later passes can do with that."""

    accepts: ClassVar[Kind] = "hf"
    produces: ClassVar[Kind] = "adapter"

    def why_not_merged(self) -> str:
        """Return why the adapter cannot be added to the weights of its base, and what to do instead; "" if it can."""
        return "" if self.merges else f"it cannot be merged: {USE_UNMERGED}"

    def why_not_graph_input(self) -> str:
        """Return why the adapter cannot be an input of an ONNX graph; "" if it can."""
        return f"only LoRA and QLoRA can; {MERGE_INSTEAD}"

    def why_not_combined(self) -> str:
        """Return why the adapter cannot be merged together with others; "" if it can."""
        return "only the changes of LoRA and QLoRA add up; merge it alone"


class AdapterPass(AdapterOutput, TrainingPass):
    """An adapter in float32 over a frozen base: a new one, or that of the input model trained further."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "tokenizers")
    merges: ClassVar[bool] = True
    ties_embeddings: ClassVar[bool] = False
    """True if an embedding that is also the output head stays tied when it is in modules_to_save."""
    peft_type: ClassVar[str] = ""
    """Type of the adapter in adapter_config.json; "" for one that cannot be trained further."""
    uses_dora: ClassVar[bool] = False
    peft_names: ClassVar[Mapping[str, str]] = {}
    """Keys of the pass that have another name in adapter_config.json."""

    @abstractmethod
    def peft_config(self, base: Any) -> PeftConfig:
        """Return peft's config of the adapter on the model `base`.

        Raises:
            ConfigError: a setting names a module or layer that `base` does not have.
        """

    def load_trainable(self, context: PassContext[Any]) -> tuple[Any, torch.dtype]:
        """Return the base in `torch_dtype` with its adapter on it, and the number type to compute in."""
        base, dtype = self.load_base(context)
        return self.with_adapter(base, context.source), dtype

    def output_bytes(self, shape: Shape, source_bytes: int) -> int:
        job = self.memory_job(TrainingJob(self.memory_method, 1, 1), shape)
        return 4 * (job.adapter + job.saved) + tokenizer_bytes(shape)  # float32

    def with_adapter(self, base: Any, source: ModelRef | None = None) -> Any:
        """Return `base` with the adapter of `source` on it, or with a new one, whose first weights follow from the seed."""
        from phi_runtime.training.adapter import add_adapter, continue_adapter

        seed = self.training_args.seed
        if source is None or source.kind != "adapter":
            return add_adapter(base, self.peft_config(base), seed)
        settings = completed(self, read_peft_folder(source.path))
        return continue_adapter(base, source.path, settings.model_dump(include=set(DROPOUTS)), seed)


class LinearAdapter(AdapterPass):
    """An adapter on linear modules of the model."""

    target_modules: NamesOrPattern = Field(
        None,
        description='Linear modules that get an adapter, by the end of their name, such as ["qkv_proj", "o_proj"], '
        '["all-linear"], or a regular expression for full names. Default null: those of the attention, and others of '
        "the same name, as c_proj in GPT-2. More modules fit more and cost memory in proportion.",
    )
    modules_to_save: Names | None = Field(
        None,
        description='Modules to train fully and save with the adapter, by the end of their name, such as ["embed_tokens"] for new '
        "tokens. Default null: none. Tied embeddings stay tied.",
    )

    def all_linear(self, model_type: str) -> bool:
        """Return True if target_modules null means all linear modules of this architecture, not only the attention."""
        return False

    def module_settings(self, base: Any) -> dict[str, Any]:
        """Return the arguments of a peft config that place the adapter, checked against the modules of `base`.

        Raises:
            ConfigError: a setting names a module that `base` does not have, or would train tied weights separately.
        """
        from phi_runtime.models.describe import embeddings_among, saved_modules, target_modules, ties_embeddings

        saved = saved_modules(base, self.modules_to_save)
        if ties_embeddings(base) and not self.ties_embeddings and (tied := embeddings_among(base, saved)):
            raise ConfigError(
                f"`{tied[0]}` is both embedding and output head; {type(self).__name__} would train them separately",
                fix="use a pass of type LoRA, DoRA or QLoRA, or remove it from modules_to_save",
            )
        all_linear = self.all_linear(base.config.model_type)
        return {
            "target_modules": target_modules(base, self.target_modules, all_linear=all_linear),
            "modules_to_save": saved,
            "task_type": "CAUSAL_LM",
        }

    def memory_job(self, job: TrainingJob, shape: Shape) -> TrainingJob:
        targets = self.placed(shape)
        layers = [layer_of(module.name) for module in targets]
        frozen = 0 if self.modules_to_save else min((layer or 0 for layer in layers), default=0)
        return self.adapter_memory(replace(job, saved=self._saved_weights(shape), frozen_layers=frozen), targets)

    def placed(self, shape: Shape) -> Sequence[Linear]:
        """Return the modules of a model of this `shape` that get an adapter."""
        return shape.targets(self.target_modules, all_linear=self.all_linear("phi3" if shape.fused else ""))

    @abstractmethod
    def adapter_memory(self, job: TrainingJob, targets: Sequence[Linear]) -> TrainingJob:
        """Return `job` with the adapter's weights on the modules `targets`, and what its gradient keeps."""

    def _saved_weights(self, shape: Shape) -> int:
        ends = tuple(self.modules_to_save or ())  # which peft matches without a dot before them (seen in 0.21.2)
        linear = sum(m.inputs * m.outputs for m in shape.linear if ends and m.name.endswith(ends))
        one = shape.vocabulary * shape.hidden
        heads = sum(one for end in ends if end.rpartition(".")[2] in ("embed_tokens", "lm_head", "wte"))
        return linear + (min(heads, one) if shape.tied else heads)


class LayeredAdapter(LinearAdapter):
    """An adapter whose layers, ranks and scales can be chosen layer by layer."""

    layers: Literal["upper-half", "upper-third"] | None = Field(
        None,
        description="Share of the layers that get adapters, counted from the output; adapter_config.json lists them as "
        "layers_to_transform. Default null: all layers. Layers below the first adapted one are computed without a backward "
        "pass, which is faster and takes less memory. With upper-third, use all linear modules. Olive ignores this key.",
    )
    layers_to_transform: Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1)] | None = Field(
        None, description="Indices of the layers that get adapters, from 0. Default null: all layers."
    )
    activation_cache_gb: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Disk space for the activations of the rows below the first adapted layer, in GB, which are computed once "
        "for all epochs, resumed runs and trials. Default null: 4 on a CPU if there is more than one epoch, at most a tenth of "
        "the free disk; 0: none. Rows that do not fit are computed again. Olive ignores this key.",
    )
    layers_pattern: Names | None = Field(
        None,
        description="Name of the list of layers in the model, for layers_to_transform. Default null: the names that peft "
        "knows, such as layers.",
    )
    rank_pattern: dict[str, Count] = Field(
        default_factory=dict,
        description="Ranks that differ from r, by the end of a module's name or a regular expression. Default {}: none.",
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Scales that differ from alpha, by the end of a module's name or a regular expression. Default {}: none.",
    )

    def module_settings(self, base: Any) -> dict[str, Any]:
        layers = base.config.get_text_config().num_hidden_layers
        for layer in self.layers_to_transform or ():
            if layer >= layers:
                raise ConfigError(missing_layer(layer, layers), fix="fix layers_to_transform")
        settings = super().module_settings(base)
        chosen = self.adapted_layers(layers)
        if chosen is not None and isinstance(self.target_modules, str):
            # These are full names, which peft takes in all layers (seen in 0.21.2).
            names = [name for name in settings["target_modules"] if layer_of(name) in chosen]
            if not names:
                raise ConfigError(
                    f"no module that `{self.target_modules}` matches is in the layers {chosen}",
                    fix="fix target_modules",
                )
            settings["target_modules"] = names
        patterns = self.model_dump(include={"layers_pattern", "rank_pattern", "alpha_pattern"})
        return {**patterns, "layers_to_transform": chosen, **settings}

    @property
    def activation_limit_bytes(self) -> int:
        """Largest size of the activation cache."""
        size_gb = self.activation_cache_gb
        return int((_ACTIVATION_CACHE_GB if size_gb is None else size_gb) * 1e9)

    def keeps_activations(self, device: str, epochs: float) -> bool:
        """Return True if the cache is on, as far as settings tell; a GPU computes a batch as fast as the single rows of it."""
        return device == "cpu" and epochs > 1 if self.activation_cache_gb is None else self.activation_cache_gb > 0

    def adapted_layers(self, count: int) -> list[int] | None:
        """Return the indices of the layers of a model of `count` that get adapters; None for all of them."""
        if self.layers is None:
            return self.layers_to_transform
        share = {"upper-half": 2, "upper-third": 3}[self.layers]
        return list(range(count - -(-count // share), count))

    def placed(self, shape: Shape) -> Sequence[Linear]:
        targets, chosen = super().placed(shape), self.adapted_layers(shape.layers)
        return targets if chosen is None else [module for module in targets if layer_of(module.name) in chosen]

    def conflicts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield from super().conflicts()
        if self.layers and self.layers_to_transform:
            yield ("layers",), "`layers` and `layers_to_transform` both choose the layers: remove one"


def missing_layer(layer: int, layers: int) -> str:
    """Return the error for an index in layers_to_transform that a model with this number of layers does not have."""
    return f"layers_to_transform names layer {layer}, but the model has {layers} layers (from 0)"
