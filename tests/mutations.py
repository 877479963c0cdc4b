"""Mutations of configs and of data files, by kinds: the tests take a few, `bench/fuzz.py` tens of thousands."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import openpyxl

from phi_runtime.config.reading.source import KeyPath

CASES = Path(__file__).parent / "phi_runtime" / "config" / "dialects"
VALUES: list[Any] = [None, True, False, -1, 0, 1, 2.5, 1e9, "", "x", "16", [], ["x"], {}, {"x": 1}, [{}]]
KEYS = ["config", "params", "type", "alpha", "engine", "lora_r", "x", "", "ä", "model_path", "training_args", "sweep"]
# Values that tests of a few hundred mutations need not have.
HOSTILE: list[Any] = [
    float("inf"),
    float("nan"),
    1e308,
    -1e-320,
    10**30,
    2**63,
    "\ud800",
    "\x1b[2J",
    "\0",
    "a" * 100_000,
    "{}",
    "{0.__class__}",
    "%n" * 50,
    "../" * 40 + "etc/passwd",
    "/dev/zero",
    "/",
    "~",
    "C:\\x",
    "con",
    "https://example.invalid/x",
    "**/*",
    "[" * 500,
    "${HOME}",
    "{{ 1 }}",
    [[]] * 3,
    [[[[[[]]]]]],
    {"": ""},
    {"a": {"a": {"a": {}}}},
    list(range(3000)),
    ["x"] * 3000,
    [None],
    {str(i): i for i in range(2000)},
]
TEXTS = [
    "\ufeff",
    "\0",
    "/*",
    "*/",
    "//",
    "#",
    "\\",
    '"',
    "'",
    "\u2028",
    "\ud83d",
    "&a ",
    "*a",
    "!!python/object:os.system",
    "<<: ",
    "- " * 300,
    "[" * 3000,
    "{" * 3000,
    '{"a":' * 2000,
    "9" * 5000,
    "1e999",
    "NaN",
    "\r",
    "\t",
    "? ",
    "|2\n",
    "---\n",
    "...\n",
    "/**/" * 5000,
    "\u202e",
]


def places(value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in inner:
        yield from places(member, (*at, key))


def mutate(value: Any, chance: random.Random, values: list[Any] = VALUES) -> Any:
    """One change: a member dropped, renamed or doubled under another name, or a value of another type."""
    value = copy.deepcopy(value)
    path = chance.choice([p for p in places(value) if p])
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind = chance.choice(["drop", "rename", "double", "retype", "retype"])
    if kind == "drop":
        del parent[path[-1]]
    elif kind == "retype" or isinstance(parent, list):
        parent[path[-1]] = chance.choice(values)
    else:
        name = chance.choice([*KEYS, f"{path[-1]}s", str(path[-1])[:-1], str(path[-1]).upper()])
        parent[name] = parent.pop(path[-1]) if kind == "rename" else copy.deepcopy(parent[path[-1]])
    return value


def damage(text: str, chance: random.Random) -> str:
    """A change to the text itself: the end lost, a line lost, a line twice."""
    kind, lines = chance.choice(["truncate", "lose", "repeat"]), text.split("\n")
    if kind == "truncate":
        return text[: chance.randrange(len(text))]
    i = chance.randrange(len(lines))
    return "\n".join(lines[:i] + ([lines[i]] * 2 if kind == "repeat" else []) + lines[i + 1 :])


def wrecked(text: str, chance: random.Random) -> str:
    """A change to the text of a config or sidecar that need not be a file of that form any more."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 0, 1, 20)))
        text = text[:start] + chance.choice((*TEXTS, text[start:end] * 2, "")) + text[end:]
    return text


LINES = [
    ("text", "label"),
    ("it rains, a lot", "cold"),
    ("the «sun» é", "warm"),
    ("猫 at home", "warm"),
    ("frost", "cold"),
]
RECORDS = [dict(zip(LINES[0], line, strict=True)) for line in LINES[1:]]


def _workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for line in [*LINES, ("=1+1", 3)]:
        book.active.append(line)
    book.save(file)
    return file.getvalue()


FILES = {
    "a.csv": "\n".join(";".join(line) for line in LINES).encode(),
    "b.csv": "\r\n".join("\t".join(line) for line in LINES).encode("utf-16"),
    "c.csv": b'sep=|\na|b\n"x\ny"|"1 ""2"""\n',
    "d.tsv": "\n".join("\t".join(line) for line in LINES).encode("cp1252", "replace"),
    "a.jsonl": "\n".join(map(json.dumps, RECORDS)).encode(),
    "b.jsonl": "\n".join(json.dumps(record, indent=1) for record in RECORDS).encode(),
    "a.json": json.dumps(RECORDS, indent=1).encode(),
    "b.json": json.dumps({"v": {"x": 1}, "rows": RECORDS}).encode(),
    "c.json": json.dumps({key: {str(i): r[key] for i, r in enumerate(RECORDS)} for key in LINES[0]}).encode(),
    "a.txt": "Größe\n\nnaïve\n".encode("cp1252"),
    "a.jsonl.gz": gzip.compress(b'{"a": 1}\n' * 5, mtime=0),
    "a.xlsx": _workbook(),
}
PIECES = [
    b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"'", b"\\", b"\n", b"\r", b",", b";", b"{", b"}", b"[", b"]",
    b":", b"NaN", b"1e999", b"9" * 5000, b"\\ud800", b"\\N", b"[" * 100_000, b'{"a":' * 1000, b"sep=,\n", b"<f>1</f>", b"null",
]  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "cp1252", "gbk", "utf-8-sig")


def damaged(random: Random, content: bytes) -> bytes:
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((0, 1, 5, 100)))
        piece = random.choice((b"", random.choice(PIECES), random.randbytes(end - start), content[start:end] * 3))
        content = random.choice((content[:start], content[start:], content[:start] + piece + content[end:]))
        if random.random() < 0.1:
            content = content.decode("utf-8", "replace").encode(random.choice(ENCODINGS), "replace")
    return content


def damaged_archive(random: Random, content: bytes) -> bytes:
    """Damage one file inside a workbook."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, damaged(random, old.read(name)) if name == chosen else old.read(name))
    return changed.getvalue()
