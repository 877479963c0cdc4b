"""hooks.py next to the config changes and drops rows; an error in it shows its line."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import DataConfig
from phi_runtime.core.errors import DataError
from phi_runtime.data.hooks import Hooks, hooks_key, load_hooks, script_of
from phi_runtime.data.row import RowError


def data(**pre_process: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
            "pre_process_data_config": pre_process,
        }
    )


def write(folder: Path, code: str, name: str = "hooks.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def hooks(folder: Path, code: str = "", **pre_process: Any) -> Hooks:
    if code:
        write(folder, code)
    return load_hooks(folder / "config.json", data(**pre_process))


ROW = {"q": "Hi", "a": "Ho"}


def test_without_a_file_rows_stay_as_they_are(tmp_path: Path) -> None:
    assert hooks(tmp_path) == Hooks()
    assert hooks(tmp_path)(ROW) == ROW
    assert (hooks_key(tmp_path / "config.json"), hooks(tmp_path).key) == ("", "")


def test_transform_makes_the_row_and_none_leaves_it_out(tmp_path: Path) -> None:
    found = hooks(tmp_path, "def transform(row):\n    return {'q': row['q'].upper()} if row['a'] else None\n")
    assert found(ROW) == {"q": "HI"}
    assert found(ROW | {"a": ""}) is None


def test_filter_keeps_the_rows_for_which_it_says_true_and_sees_what_transform_made(tmp_path: Path) -> None:
    found = hooks(tmp_path, "def transform(row):\n    return {'n': 3}\ndef filter(row):\n    return row['n'] == 3\n")
    assert found(ROW) == {"n": 3}
    found = hooks(tmp_path, "def filter(row):\n    return len(row['q']) > 2\n")
    assert found(ROW) is None
    assert found(ROW | {"q": "Hello"}) == ROW | {"q": "Hello"}


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    import not_there_at_all\nexcept ImportError:\n    def transform(row):\n        return {'n': 1}\n",
        "transform: object = lambda row: {'n': 1}\n",
        "from another_helper_of_hooks import change as transform\n",
        "from another_helper_of_hooks import *\n",
    ],
)
def test_a_function_is_found_however_it_got_its_name(tmp_path: Path, code: str) -> None:
    write(tmp_path, "def change(row):\n    return {'n': 1}\ntransform = change\n", "another_helper_of_hooks.py")
    assert hooks(tmp_path, code)(ROW) == {"n": 1}
    sys.modules.pop("another_helper_of_hooks", None)


def test_a_file_that_names_neither_function_is_not_run_and_changes_no_key(tmp_path: Path) -> None:
    assert hooks(tmp_path, "# def transform(row): ...\ndef helper(row):\n    return None\n1 / 0\n") == Hooks()
    assert hooks_key(tmp_path / "config.json") == ""


def test_a_function_that_changes_its_row_changes_no_other(tmp_path: Path) -> None:
    row = dict(ROW)
    assert hooks(tmp_path, "def transform(row):\n    row['q'] = 1\n    return row\n")(row) == {"q": 1, "a": "Ho"}
    assert row == ROW


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def transform(row):\n    return 'text'\n", "transform returned str"),
        ("def transform(row):\n    return [row]\n", "transform returned list"),
        ("def filter(row):\n    return row['q']\n", "filter returned str"),
        ("def filter(row):\n    pass\n", "filter returned NoneType"),
    ],
)
def test_what_a_function_may_not_return_is_said_with_what_it_may(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(RowError, match=says) as caught:
        hooks(tmp_path, code)(ROW)
    assert "hooks.py" in caught.value.fix


def test_a_function_that_fails_is_shown_with_its_line(tmp_path: Path) -> None:
    found = hooks(tmp_path, "def deeper(row):\n    return row['b']\n\ndef transform(row):\n    return deeper(row)\n")
    with pytest.raises(RowError, match=r"transform failed at .*hooks\.py:5:1: KeyError: 'b'"):
        found(ROW)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\ndef transform(row)\n    return row\n", r"hooks\.py:2:\d+: error: hooks\.py is not valid Python"),
        ("def transform(row):\nreturn row\n", r"hooks\.py:2:\d+: error: hooks\.py is not valid Python"),
        ("filter = 1\n\n1 / 0\n", r"hooks\.py:3:1: error: hooks\.py cannot be imported: ZeroDivisionError"),
        ("from not_there_at_all import filter\n", r"hooks\.py:1:1: error: .*No module named 'not_there_at_all'"),
        ("transform = 3\n", r"hooks\.py: error: `transform` in hooks\.py is not a function"),
    ],
)
def test_a_file_that_cannot_be_used_is_shown_with_its_line(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        hooks(tmp_path, code)
    assert caught.value.fix


def test_a_fault_in_a_module_that_is_imported_is_shown_there(tmp_path: Path) -> None:
    write(tmp_path, "def f(:\n", "broken_helper_of_hooks.py")
    with pytest.raises(DataError, match=r"broken_helper_of_hooks\.py:1:\d+: error"):
        hooks(tmp_path, "from broken_helper_of_hooks import *\n")


def test_modules_beside_it_can_be_imported_and_the_path_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, "def loud(text):\n    return text.upper()\n", "helper_of_hooks.py")
    before = list(sys.path)
    found = hooks(
        tmp_path, "import helper_of_hooks\ndef transform(row):\n    return {'q': helper_of_hooks.loud(row['q'])}\n"
    )
    assert sys.path == before
    assert found(ROW) == {"q": "HI"}


def test_dataclasses_work_as_in_any_module(tmp_path: Path) -> None:
    found = hooks(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import asdict, dataclass

        @dataclass
        class Pair:
            q: str
            a: str

        def transform(row):
            return asdict(Pair(row["a"], row["q"]))
        """,
    )
    assert found(ROW) == {"q": "Ho", "a": "Hi"}


def test_the_file_is_read_anew_each_time_and_known_by_its_content(tmp_path: Path) -> None:
    config, keys = tmp_path / "config.json", set()
    for text in ("one", "two"):
        found = hooks(tmp_path, f"def transform(row):\n    return {{'q': '{text}'}}\n")
        assert found(ROW) == {"q": text}
        keys |= {found.key, hooks_key(config)}
    assert len(keys) == 4


# -- Olive's user_script ------------------------------------------------------------------------------------------------------

SCRIPT = {"user_script": "scripts/format.py", "text_formatting_func": "make"}


def test_a_user_script_makes_the_text_of_a_row_after_the_hooks(tmp_path: Path) -> None:
    write(tmp_path, "def make(row):\n    return f\"{row['q']} -> {row['a']}\"\n", "scripts/format.py")
    found = hooks(tmp_path, "def transform(row):\n    return row | {'a': 'Ha'} if row['q'] else None\n", **SCRIPT)
    assert found(ROW) == {"text": "Hi -> Ha"}
    assert found(ROW | {"q": ""}) is None


def test_a_user_script_imports_from_its_own_folder_and_its_script_dir(tmp_path: Path) -> None:
    write(tmp_path, "A = 'beside'\n", "scripts/own_module_of_script.py")
    write(tmp_path, "B = 'apart'\n", "modules/far_module_of_script.py")
    write(
        tmp_path,
        """
        from own_module_of_script import A
        from far_module_of_script import B

        def make(row):
            return A + B
        """,
        "scripts/format.py",
    )
    assert hooks(tmp_path, **SCRIPT, script_dir="modules")(ROW) == {"text": "besideapart"}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def other(row): ...\n", "format.py has no function `make`"),
        ("make = 'text'\n", "`make` in format.py is not a function"),
    ],
)
def test_a_user_script_without_the_function_is_refused(tmp_path: Path, code: str, says: str) -> None:
    write(tmp_path, code, "scripts/format.py")
    with pytest.raises(DataError, match=says):
        hooks(tmp_path, **SCRIPT)


def test_a_user_script_that_is_not_there_or_returns_no_text_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the script .* does not exist"):
        hooks(tmp_path, **SCRIPT)
    write(tmp_path, "def make(row):\n    return row\n", "scripts/format.py")
    with pytest.raises(RowError, match="make returned dict"):
        hooks(tmp_path, **SCRIPT)(ROW)


def test_a_user_script_is_known_by_its_content_and_its_function_without_being_run(tmp_path: Path) -> None:
    path = write(tmp_path, "raise SystemExit\n", "scripts/format.py")
    config = tmp_path / "config.json"
    assert script_of(data(), config) == (None, "")
    first = script_of(data(**SCRIPT), config)
    assert first[0] == path
    other_function = script_of(data(**SCRIPT | {"text_formatting_func": "other"}), config)
    write(tmp_path, "raise KeyboardInterrupt\n", "scripts/format.py")
    assert len({first[1], other_function[1], script_of(data(**SCRIPT), config)[1]}) == 3
