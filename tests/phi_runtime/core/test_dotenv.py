"""The .env of a project, which may come from anyone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.errors import ConfigError

VARIABLES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "WANDB_API_KEY", "WANDB_BASE_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without these variables, as it was before after the test."""
    before = dict(os.environ)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


def read(folder: Path, text: str | bytes) -> list[str]:
    """Read a .env with `text`; return the warnings."""
    warnings: list[str] = []
    (folder / ".env").write_bytes(text if isinstance(text, bytes) else text.encode())
    read_dotenv(folder, warnings.append)
    return warnings


def test_values_are_read_and_those_of_the_shell_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    text = "# comment\nexport HF_TOKEN='hf_project'\nWANDB_PROJECT=other\nWANDB_ENTITY=\n"
    assert read(tmp_path, text) == []
    assert (os.environ["HF_TOKEN"], os.environ["WANDB_PROJECT"]) == ("hf_project", "mine")
    assert "WANDB_ENTITY" not in os.environ


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("hf_x # mine", "hf_x"),
        ("hf_x\t#mine", "hf_x"),
        ("'hf_x' # mine", "hf_x"),
        ('"hf_x" # of "me"', "hf_x"),
        ('"hf # x"', "hf # x"),
        ('"hf"x"', 'hf"x'),
        ("hf#x", "hf#x"),
        ('"hf_x', '"hf_x'),
    ],
)
def test_a_comment_after_a_value_is_no_part_of_it(tmp_path: Path, written: str, value: str) -> None:
    assert read(tmp_path, f"HF_TOKEN={written}\nWANDB_API_KEY= # none\n") == []
    assert os.environ["HF_TOKEN"] == value
    assert "WANDB_API_KEY" not in os.environ


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "LD_PRELOAD",
        "PATH",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "HF_HOME",
    ],
)
def test_variables_that_run_code_or_redirect_are_ignored(tmp_path: Path, name: str) -> None:
    before = os.environ.get(name)
    (warning,) = read(tmp_path, f"{name}=/evil\n")
    assert os.environ.get(name) == before
    assert f"`{name}`" in warning


@pytest.mark.parametrize(("server", "token"), [("HF_ENDPOINT", "HF_TOKEN"), ("WANDB_BASE_URL", "WANDB_API_KEY")])
def test_the_token_of_the_user_is_not_sent_to_a_server_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, token: str
) -> None:
    monkeypatch.setenv(token, "of-the-user")
    (warning,) = read(tmp_path, f"{server}=https://collector.example\n")
    assert token not in os.environ
    assert server in warning
    assert token in warning


def test_the_token_of_the_login_is_not_sent_either(tmp_path: Path) -> None:
    read(tmp_path, "HF_ENDPOINT=https://collector.example\n")
    assert os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


def test_a_server_gets_the_token_that_came_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-the-user")
    assert read(tmp_path, "HF_ENDPOINT=https://mirror.example\nHF_TOKEN=of-the-mirror\n") == []
    assert os.environ["HF_TOKEN"] == "of-the-mirror"
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in os.environ


def test_a_server_of_the_shell_keeps_the_token_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "of-the-user")
    read(tmp_path, "HF_ENDPOINT=https://collector.example\n")
    assert (os.environ["HF_ENDPOINT"], os.environ["HF_TOKEN"]) == ("https://mirror.example", "of-the-user")


@pytest.mark.parametrize(
    "url", ["http://hub.example", "http://127.0.0.1.hub.example", "ftp://hub.example", "hub.example"]
)
def test_a_server_without_encryption_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="https") as refused:
        read(tmp_path, f"\nHF_ENDPOINT={url}\n")
    assert str(refused.value.where) == f"{tmp_path / '.env'}:2:1"
    assert "HF_ENDPOINT" not in os.environ


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://hub.example"])
def test_this_machine_needs_no_encryption(tmp_path: Path, url: str) -> None:
    read(tmp_path, f"HF_ENDPOINT={url}\n")
    assert os.environ["HF_ENDPOINT"] == url


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_files_of_windows_editors_are_read(tmp_path: Path, encoding: str) -> None:
    read(tmp_path, "HF_TOKEN=hf_1\r\n".encode(encoding))
    assert os.environ["HF_TOKEN"] == "hf_1"


@pytest.mark.parametrize("data", [b"HF_TOKEN=\xff\xfe\xff", b"HF_TOKEN=a\0b"])
def test_a_file_that_is_not_text_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match="not UTF-8") as refused:
        read(tmp_path, data)
    assert str(refused.value.where) == str(tmp_path / ".env")
