"""JSON and YAML as values that know their places."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from phi_runtime.config.reading.comments import Comments, attach
from phi_runtime.config.reading.source import Comment, Source, read_source
from phi_runtime.core.errors import ConfigError, Location


def write(tmp_path: Path, text: str, name: str = "c.json") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def read_yaml(tmp_path: Path, text: str) -> Source:
    return read_source(write(tmp_path, text, "c.yaml"))


def fault(path: Path) -> tuple[str, str, str]:
    """Return location, message and fix of the error."""
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    assert caught.value.exit_code == 3
    assert caught.value.where is not None
    return str(caught.value.where).removeprefix(str(path)), caught.value.what, caught.value.fix


def test_comments_and_trailing_commas_are_taken_in_json(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, '{ // one\n "a": [1, 2,], /* two\n lines */ "b": {"c": "// text",},\n}'))
    assert source.value == {"a": [1, 2], "b": {"c": "// text"}}


def test_each_key_of_json_knows_its_line_and_column(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, '{\n  "a": [1,\n    {"b": 2}],\n  "c": 3\n}'))
    places = {
        p: (source.locate(p).line, source.locate(p).column)
        for p in [("a",), ("a", 1), ("a", 1, "b"), ("c",), ("c", "no")]
    }
    assert places == {("a",): (2, 3), ("a", 1): (3, 5), ("a", 1, "b"): (3, 6), ("c",): (4, 3), ("c", "no"): (4, 3)}


def test_each_key_of_yaml_knows_its_line_and_column(tmp_path: Path) -> None:
    source = read_yaml(tmp_path, "# about\na:\n  - 1\n  - b: 2\n'c': {d: [3]}\n")
    places = {p: (source.locate(p).line, source.locate(p).column) for p in source.places}
    assert places == {
        (): (2, 1),
        ("a",): (2, 1),
        ("a", 0): (3, 5),
        ("a", 1): (4, 5),
        ("a", 1, "b"): (4, 5),
        ("c",): (5, 1),
        ("c", "d"): (5, 7),
        ("c", "d", 0): (5, 11),
    }


def test_the_ending_of_the_name_decides_how_it_is_read(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.YML"):
        assert read_source(write(tmp_path, "a: 1", name)).value == {"a": 1}
    assert fault(write(tmp_path, "a: 1", "a.jsonc"))[0] == ":1:1"


def test_yaml_is_imported_only_when_a_yaml_file_is_read(tmp_path: Path) -> None:
    write(tmp_path, "{}")
    code = "import sys, pathlib; from phi_runtime.config.reading.source import read_source; import phi_runtime.config.reading.write;"
    code += "read_source(pathlib.Path('c.json')); sys.exit('ruamel.yaml' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', ":2:9", "a `,` is missing"),
        ('{"a": 1, "a": 2}', ":1:10", "duplicate key `a`"),
        ('{"a": [1, 2}', ":1:12", "`,` or `]`"),
        ('{"a": tru}', ":1:7", "not a JSON value"),
        ('{"a": NaN}', ":1:7", "`NaN` is not a JSON value"),
        ('{"a": -Infinity}', ":1:7", "`-Infinity` is not a JSON value"),
        ('{"a": 01}', ":1:7", "`01` is not a JSON value"),
        ('{"a": "x\n"}', ":1:7", "does not end"),
        ('{"a": "\\x"}', ":1:7", "escape"),
        ('{"a": "\\ud800"}', ":1:7", "half of a surrogate pair"),
        ('{"a"', ":1:5", "`:`"),
        ('{"a": 1', ":1:1", "never closed"),
        ('{"a":\n[1,', ":2:1", "this `[` is never closed"),
        ('{"a": 1, /* b', ":1:10", "comment is never closed"),
        ("", ":1:1", "the file is empty"),
        ("\n// only this\n", ":1:1", "the file is empty"),
        ("{} {}", ":1:4", "after the end"),
        ("[" * 200, ":1:102", "more than 100 levels deep"),
        ("[" + "1," * 30_000, ":1:60000", "more than 30,000 values"),
    ],
)
def test_a_syntax_error_of_json_is_shown_where_it_stands(tmp_path: Path, text: str, place: str, says: str) -> None:
    where, what, fix = fault(write(tmp_path, text))
    assert where == place
    assert says in what
    assert fix


@pytest.mark.parametrize(
    ("text", "place", "fixes"),
    [
        ('{"a": True}', ":1:7", "`true`"),
        ('{"a": None}', ":1:7", "`null`"),
        ('{"a": fales}', ":1:7", "`false`"),
        ('{"a": yes}', ":1:7", "`true`"),
        ('{"a": NaN}', ":1:7", "finite number"),
        ('{"a": .5}', ":1:7", "`0.5`"),
        ('{"a": +1}', ":1:7", "`1`"),
        ('{"a": 0x10}', ":1:7", "`16`"),
        ('{"a": 1_000}', ":1:7", "`1000`"),
        ('{"a": 10,000}', ":1:10", "without `,`"),
        ('{"a": cpu}', ":1:7", '`"cpu"`'),
        ("{\"a\": 'x'}", ":1:7", '`"x"`'),
        ("{'a': 1}", ":1:2", '`"a"`'),
        ("{a: 1}", ":1:2", '`"a"`'),
        ("{“a”: 1}", ":1:2", "straight"),
        ('{"a": "x" // c\n "b": 2}', ":1:10", "add a `,`"),
        ('{"a": [1 2]}', ":1:9", "add a `,`"),
        ('{"a": [1, 2}', ":1:12", "close the `[` of line 1"),
        ('{"a": [1, 2], ]}', ":1:15", "`}`"),
        ('{"a": 1; "b": 2}', ":1:7", "`,`"),
        ('{"a": 1,, "b": 2}', ":1:9", "remove this `,`"),
        ('{"a": "say "hi" now"}', ":1:12", '`\\"`'),
        ('{"a": "C:\\Users"}', ":1:7", "`\\\\` for a backslash"),
        ('{"a": "x\ty"}', ":1:7", "`\\t`"),
        ('{"a": "x}', ":1:7", "closing"),
        ('{"a" = 1}', ":1:6", "`:`"),
        ('{"a" 1}', ":1:5", "add a `:`"),
        ('{"a": }', ":1:7", "write a value"),
        ('{"a": 1 # c\n}', ":1:9", "`//`"),
        ('{"a": 1}}', ":1:9", "remove it"),
        ('{"a": 1} x', ":1:10", "remove it"),
        ('{"a": 1} # x', ":1:10", "`//`"),
        ('{"a": 1', ":1:1", "`}`"),
        ('{\n<<<<<<< HEAD\n"a": 1}', ":2:1", "keep one side"),
        ('{"a": <your model>}', ":1:7", "placeholder"),
        ('{"a": 1, ...}', ":1:10", "remove it"),
        ("<!DOCTYPE html>", ":1:1", "raw file"),
        ("a:\n  b: 1", ":1:1", ".yaml"),
    ],
)
def test_a_syntax_error_of_json_comes_with_its_fix(tmp_path: Path, text: str, place: str, fixes: str) -> None:
    where, _, fix = fault(write(tmp_path, text))
    assert where == place
    assert fixes in fix


@pytest.mark.parametrize(
    ("text", "place", "says", "fixes"),
    [
        ("a: 1\n// c\nb: 2", ":2:1", "a comment begins with `#`", "instead of `//`"),
        ("a:\n  /* c */\n  b: 1", ":2:3", "a comment begins with `#`", "instead of `/*`"),
        ("a: 1\n  b: 2", ":2:4", "a `:` is not allowed here", "indentation"),
        ("a:\n   x: 1\n  y: 2", ":3:3", "inconsistent indentation", "indent"),
        ('a: "x" y', ":1:8", "unexpected text after the value", "quotes"),
        ("a: [1, 2\nb: 3", ":2:2", "`,` or `]` is expected", "fix"),
        ("a: [1, 2", ":1:4", "never closed", "fix"),
        ("a: [1, , 2]", ":1:8", "a value is expected", "quotes"),
        ("a: 'x\nb: 1", ":1:4", "quote is never closed", "fix"),
        ("a\nb: 1\n", ":2:2", "`:` is not allowed here", "indentation"),
        ("a: 1\nb\n", ":2:1", "a `:` is expected after this key", "fix"),
        ('a: "\\q"', ":1:4", "bad escape", "backslash"),
        ('a: "\\UFFFFFFFF"', ":1:7", "bad escape", "fix"),
        ('- "\\UFFFFFFFF"', ":1:6", "bad escape", "fix"),
        ('a: "\\ud83d"', ":1:4", "half of a surrogate pair", "character itself"),
        ("a:\n\tb: 1", ":2:1", "a tab", "spaces"),
        ("a: @x", ":1:4", "`@` cannot begin a value", "quotes"),
        ("a: *.txt", ":1:4", "unknown anchor `&.txt`", "quotes"),
        ("a: x\x07", ":1:5", "control characters", "remove"),
        ("a: 1\na: 2", ":2:1", "duplicate key `a`", "remove"),
        ("a: {b: 1, b: 2}", ":1:11", "duplicate key `b`", "remove"),
        ("1: x", ":1:1", "the key `1` is a number", 'put it in quotes: "1"'),
        ("a: {on: x}", ":1:5", "the key `on` is true", 'put it in quotes: "on"'),
        ("~: x", ":1:1", "the key `~` is null", 'put it in quotes: "~"'),
        ("? [a]\n: 1", ":1:3", "a key must be a string", "fix"),
        ("a: 1\n---\nb: 2", ":2:1", "second document", "one document"),
        ("", ":1:1", "the file is empty", "write"),
        ("# only this\n", ":1:1", "the file is empty", "write"),
        ("---\n", ":1:1", "the file is empty", "write"),
        ("a: !foo 1", ":1:4", "the tag `!foo`", "remove the tag"),
        ("a: !!python/name:os.system x", ":1:4", "the tag `!!python/name:os.system`", "remove the tag"),
        ("a: !!set {b, c}", ":1:4", "the tag `!!set`", "remove the tag"),
        ("a: !!int x", ":1:4", "`x` is not a valid `!!int`", "fix"),
        ("a: " + "9" * 5000, ":1:4", "too many digits", "fix"),
        ("a: *b", ":1:4", "unknown anchor `&b`", "quotes"),
        ("a: &b 1\nc: &b 2", ":2:4", "duplicate anchor `&b`", "rename"),
        ("a: &b\n  - *b", ":2:5", "never ends", "remove"),
        ("a: 1\n<<: 5", ":2:1", "needs a mapping", "fix"),
        ("- " * 200, ":1:203", "more than 100 levels deep", "fix"),
    ],
)
def test_a_fault_of_yaml_is_shown_where_it_stands(tmp_path: Path, text: str, place: str, says: str, fixes: str) -> None:
    where, what, fix = fault(write(tmp_path, text, "c.yaml"))
    assert where == place
    assert says in what
    assert fixes in fix
    assert len(what) < 100


def test_aliases_of_aliases_end_at_the_limit_instead_of_filling_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    merges = ["m0: &m0 {x: 1}"] + [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    began = time.perf_counter()
    assert fault(write(tmp_path, "\n".join(lines), "c.yaml"))[:2] == (
        ":5:15",
        "the file has more than 30,000 values",
    )
    read_yaml(tmp_path, "\n".join(merges))  # ten times the same key is the key once
    assert time.perf_counter() - began < 5


def test_numbers_of_yaml_are_those_of_its_version_1_2(tmp_path: Path) -> None:
    text = "[1e-6, 2E5, 1.5e3, .5, 1., 012, 08, 0x1F, 0o17, 0b11, 1_000, -3, +4.5, -.inf, .inf]"
    value = read_yaml(tmp_path, text).value
    assert value == [1e-6, 2e5, 1500.0, 0.5, 1.0, 12, 8, 31, 15, 3, 1000, -3, 4.5, float("-inf"), float("inf")]
    assert [type(v) for v in value[4:7]] == [float, int, int]
    assert read_yaml(tmp_path, ".nan").value != read_yaml(tmp_path, ".nan").value


def test_what_only_resembles_a_number_in_yaml_is_text(tmp_path: Path) -> None:
    texts = ["1:30", "2024-05-01", "2024-05-01 10:00:00", "1.2.3", "1__0", "0o9", "e5", ".", "1e", "=", "v1"]
    assert read_yaml(tmp_path, "".join(f"- {text}\n" for text in texts)).value == texts


def test_the_words_of_yaml_are_those_that_olive_reads(tmp_path: Path) -> None:
    words = ["yes", "No", "on", "OFF", "true", "False", "null", "~", "", "y", "n", "None", "nan", '"yes"', "'null'"]
    text = "".join(f"- {word}\n" for word in words)
    assert read_yaml(tmp_path, text).value == yaml.safe_load(text)


def test_the_tags_of_json_values_are_taken_and_dates_and_bytes_are_their_text(tmp_path: Path) -> None:
    text = '[!!str 12, !!int "12", !!float 1, !!bool "no", !!null "", !!binary aGk=, !!timestamp 2024-05-01, !!map {}]'
    assert read_yaml(tmp_path, text).value == ["12", 12, 1.0, False, None, "aGk=", "2024-05-01", {}]


def test_all_the_styles_of_yaml_are_taken(tmp_path: Path) -> None:
    text = """%YAML 1.2
---
plain: several
  lines
folded: >-
  one
  line

  two
literal: |
  # no comment
    indented
? explicit
: [a: 1, 'it''s', "\\u00e9\\n\\
   b"]
list:
- - 1
- x: 1
  y:
...
"""
    assert read_yaml(tmp_path, text).value == yaml.safe_load(text)


def test_anchors_aliases_and_merges_work_as_in_pyyaml(tmp_path: Path) -> None:
    text = """
base: &base {r: 8, names: &names [q, v]}
more: &more {alpha: 1, r: 9}
lora:
  alpha: 16
  <<: [*base, *more]
same: *base
names: [*names, {<<: *more, alpha: 2}]
? &key word
: *key
"""
    source = read_yaml(tmp_path, text)
    assert source.value == yaml.safe_load(text)
    assert list(source.value["lora"]) == list(yaml.safe_load(text)["lora"])


def test_what_an_alias_brings_stands_where_the_anchor_wrote_it(tmp_path: Path) -> None:
    source = read_yaml(tmp_path, "base: &base\n  r: 8\n  l: [1, 2]\na:\n  <<: *base\n  r: 9\nb: *base\n")
    assert str(source.locate(("a", "r"))).endswith(":6:3")
    assert str(source.locate(("a", "l", 1))).endswith(":3:10")
    assert str(source.locate(("b",))).endswith(":7:1")
    assert str(source.locate(("b", "r"))).endswith(":2:3")


def test_a_value_that_came_from_an_alias_is_nobodys_twin(tmp_path: Path) -> None:
    value = read_yaml(tmp_path, "a: &a [1]\nb: *a\n").value
    value["a"].append(2)
    assert value["b"] == [1]


def test_comments_are_found_in_json(tmp_path: Path) -> None:
    text = '// top\n{"a": "// no", // inline\n  /* two\n   * lines */ "b": 1 /**/ }\n//end'
    assert read_source(write(tmp_path, text)).comments == (
        Comment("top", 0, own_line=True),
        Comment("inline", 22, own_line=False),
        Comment("two\nlines", 34, own_line=True),
        Comment("", 62, own_line=False),
        Comment("end", 69, own_line=True),
    )


def test_comments_are_found_in_yaml_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    text = """# top
a: 'x # no'  #  inline
b: |  # header
  # no
  text
# after
c: x#no # plain
d: [1, # in brackets
  "#no"]
e: >
 folded

 # no
#end"""
    comments = read_yaml(tmp_path, text).comments
    assert [(c.text, c.own_line) for c in comments] == [
        ("top", True),
        ("inline", False),
        ("header", False),
        ("after", True),
        ("plain", False),
        ("in brackets", False),
        ("end", True),
    ]
    assert all(text[c.offset] == "#" for c in comments)


def random_value(chooser: random.Random, depth: int = 0) -> Any:
    kind = chooser.choice(["atom", "text", "list", "dict"] if depth < 4 else ["atom", "text"])
    if kind == "atom":
        return chooser.choice([None, True, False, 0, -3, 1.5, 2e-7, 10**20])
    if kind == "text":
        return "".join(chooser.choice('ab"\\/{}[],:é\n\t\u2028😀') for _ in range(chooser.randint(0, 8)))
    if kind == "list":
        return [random_value(chooser, depth + 1) for _ in range(chooser.randint(0, 4))]
    return {f"k{i}": random_value(chooser, depth + 1) for i in range(chooser.randint(0, 4))}


def test_it_reads_whatever_json_itself_writes(tmp_path: Path) -> None:
    chooser = random.Random(0)
    for _ in range(300):
        value = random_value(chooser)
        text = json.dumps(value, indent=chooser.choice([None, 2]), ensure_ascii=chooser.random() < 0.5)
        assert read_source(write(tmp_path, text)).value == value


def test_it_reads_whatever_pyyaml_itself_writes(tmp_path: Path) -> None:
    chooser = random.Random(0)
    for _ in range(300):
        value = random_value(chooser)
        text = yaml.safe_dump(
            value, default_flow_style=chooser.choice([None, True, False]), allow_unicode=chooser.random() < 0.5
        )
        assert read_yaml(tmp_path, text).value == value


JSON = """// header
{ "a": [1, 2.5e-3, "t\\u00e9\\n"], /* b */ "b": {"c": null, "d": [{"e": true}, {}]}, // inline
  "f": "long text, with: everything # in it"
  // after
}
"""
YAML = """%YAML 1.1
--- # start
base: &b {x: 1, "y": [1, 'it''s', null]} # inline
c: &l
  <<: *b
  z: |  # header
    text
    # text
l:
- *b
- ? long
  : 1e-6
-
  - "a\\u00e9\\x41 \\
     b"
  - !!str 12
# end
"""


@pytest.mark.parametrize(("text", "name"), [(JSON, "c.json"), (YAML, "c.yaml")])
def test_a_damaged_file_is_a_fault_at_a_place_within_it_and_never_a_crash(tmp_path: Path, text: str, name: str) -> None:
    read_source(write(tmp_path, text, name))
    chooser = random.Random(0)
    alphabet = text + "&*!|>%@`{}[],:#-?\t\n\"'\\<\x85\u2028\ufeff\x00😀"
    for _ in range(500):
        damaged = text[: chooser.randrange(len(text))] if chooser.random() < 0.3 else text
        for _ in range(chooser.randint(0, 3)):
            at, gone = chooser.randrange(len(damaged) + 1), chooser.choice([0, 1, 5])
            inserted = "".join(chooser.choice(alphabet) for _ in range(chooser.randint(0, 3)))
            damaged = damaged[:at] + inserted + damaged[at + gone :]
        path = write(tmp_path, damaged, name)
        began = time.perf_counter()
        where = place_of_fault(path)
        assert time.perf_counter() - began < 1
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        assert where is None or 1 <= where.line <= len(lines)
        assert where is None or 1 <= where.column <= len(lines[where.line - 1]) + 1


def place_of_fault(path: Path) -> Location | None:
    try:
        read_source(path)
    except ConfigError as e:
        return e.where
    return None


def test_three_hundred_lines_of_json_are_read_in_a_few_milliseconds(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({f"key{i}": {"a": [i, "text"], "b": 1.5} for i in range(45)}, indent=4))
    assert len(path.read_text().splitlines()) > 300
    fastest = 1.0
    for _ in range(5):
        began = time.perf_counter()
        read_source(path)
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.01


def test_a_hundred_thousand_comments_on_one_line_are_read_in_linear_time(tmp_path: Path) -> None:
    """The steps are counted, not the time: each comment may look at the text since the last one only."""
    path = write(tmp_path, "{" + "/**/" * 100_000 + '"a": 1 /* trailing */\n/* own */}')
    source = read_source(path)
    assert len(source.comments) == 100_002
    assert [comment.own_line for comment in source.comments[-3:]] == [False, False, True]
    assert attach(source)[("a",)] == Comments(trailing="trailing", after=("own",))


def test_a_file_that_is_no_config_is_refused_by_its_size(tmp_path: Path) -> None:
    where, what, _ = fault(write(tmp_path, " " * 4_000_001))
    assert where == ""
    assert what.startswith("the file has 4.0 MB")
