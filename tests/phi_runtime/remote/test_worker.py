"""The program of a job places models as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.remote.worker import place_input

FILES = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}


def written(source: Path, folders: dict[str, str]) -> Path:
    for part, folder in folders.items():
        (source / folder).mkdir(parents=True, exist_ok=True)
        (source / folder / FILES[part]).write_text(part)
    return source


@pytest.mark.parametrize("around", ["", "mlflow_model_folder"])
@pytest.mark.parametrize(
    ("weights", "config", "tokenizer"),
    [("model", "model", "components/tokenizer"), ("data/model", "data/config", "data/tokenizer"), ("model",) * 3],
    ids=["transformers", "hftransformersv2", "one folder"],
)
def test_a_model_in_the_format_of_mlflow_becomes_one_folder(
    weights: str, config: str, tokenizer: str, around: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    written(source / around, {"weights": weights, "config": config, "tokenizer": tokenizer})
    (source / around / "MLmodel").write_text("flavors: {}")
    place_input(tmp_path / "model-cache" / "phi", source)
    assert {path.name: path.read_text() for path in (tmp_path / "model-cache" / "phi").iterdir()} == {
        name: part for part, name in FILES.items()
    }


def test_a_model_as_files_is_one_link(tmp_path: Path) -> None:
    source = written(tmp_path / "source", dict.fromkeys(FILES, "."))
    place_input(tmp_path / "model-cache" / "phi", source)
    assert (tmp_path / "model-cache" / "phi").readlink() == source
