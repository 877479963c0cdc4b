"""The work of a chat template, counted: a template is a program from elsewhere, and Jinja's sandbox bounds neither time nor memory.

A `Meter` counts syntax nodes that run, items, and characters that are read or written. Counting costs little where a template only
fills in text: `count_work` adds a step to the bodies of loops, macros and blocks, and wraps the operands whose size is not known
when it is compiled. Filters, methods and operators are counted where they run, before those that enlarge their operands.

Three invariants bound what a single uncounted operation can do. Whatever a template creates is counted as if it were printed, so
that no list shares its parts a billion times; nesting ends at `MAX_DEPTH`; an integer has at most `MAX_BITS` bits.
"""

# ruff: noqa: N802, N815 (a visitor's methods have the names of the nodes)
from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import GeneratorType
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.visitor import NodeTransformer

MAX_DEPTH = 100
MAX_BITS = 64
MAX_NUMBER = 100_000  # as a width, a count or a precision; also the sandbox's longest range
MAX_SLOW = 20_000  # characters for filters whose time grows faster than their text

CALL = 8  # work of calling a function
ITEM = 4  # work of printing an item of a list
_CHARACTERS = 8  # of a text, for one unit of work
_NUMBERS = re.compile(r"\d+")
_SCALARS = (int, float, bool, type(None))
_CONTAINERS: tuple[type[Any], ...] = (
    list,
    tuple,
    dict,
    set,
    frozenset,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_SIZED: tuple[type[Any], ...] = (*_CONTAINERS, range)

STEP, READ, CREATED, PART, ADD = "meter step", "meter read", "meter created", "meter part", "meter add"
"""Names of filters that no template can write."""


class TooMuchWork(Exception):
    """A template did more work than it may for one conversation."""


class Meter:
    """Work that is left to a template."""

    def __init__(self) -> None:
        self.left = 0

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise TooMuchWork

    def text(self, characters: int) -> None:
        """Count characters that are read or written."""
        self.spend(1 + characters // _CHARACTERS)

    def read(self, value: Any) -> Any:
        """Count a value that is printed, joined or compared, and return it."""
        if type(value) is str:
            self.left -= 1 + len(value) // _CHARACTERS
            if self.left < 0:
                raise TooMuchWork
        elif type(value) not in _SCALARS:
            self.spend(self.weight(value))
        return value

    def weight(self, value: Any, depth: int = 0) -> int:
        """Return the work of printing a value, with everything that is in it.

        Raises:
            TooMuchWork: It is more than what is left, or is nested too deeply.
        """
        if isinstance(value, (str, bytes)):
            return 1 + len(value) // _CHARACTERS
        if not isinstance(value, _CONTAINERS):
            return 1
        total = ITEM
        for item in _items(value):
            total += ITEM if type(item) in _SCALARS else self.weight(item, depth + 1)
            if total > self.left or depth > MAX_DEPTH:
                raise TooMuchWork
        return total

    def result(self, value: Any) -> Any:
        """Count a value that a function returned, whose parts are those of its arguments, and return it."""
        if type(value) is str:
            self.left -= len(value) // _CHARACTERS
            if self.left < 0:
                raise TooMuchWork
        elif isinstance(value, (str, bytes)):
            self.text(len(value))
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise TooMuchWork
        elif isinstance(value, _CONTAINERS):
            self.spend(len(value))
        return value

    def argument(self, value: Any) -> Any:
        """Count an argument of a function as far as it is read by itself; return it, or a generator that is counted."""
        if isinstance(value, (str, bytes)):
            self.text(len(value))
        elif isinstance(value, _SIZED):
            self.spend(1 + 2 * len(value))
        elif isinstance(value, GeneratorType):
            return self._counted(value)
        return value

    def _counted(self, values: Generator[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(2)
            yield value

    def operate(self, operator: str, left: Any, right: Any) -> None:
        """Count an operation before it runs. Raises TooMuchWork."""
        if operator == "%":
            if isinstance(left, (str, bytes)):
                self.percent(left, right)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > 2 * MAX_BITS:
                raise TooMuchWork
        elif operator == "*":
            times, sequence = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(times, int) and times > 0:
                self.repeat(sequence, times)

    def repeat(self, value: Any, times: int) -> None:
        self.spend(times + self.weight(value) * times)

    def percent(self, pattern: str | bytes, values: Any) -> None:
        """Count `pattern % values` before it runs."""
        pattern = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
        if "*" in pattern:  # the width is a value
            raise TooMuchWork
        self.fill(pattern, "%", values)

    def fill(self, pattern: str, mark: str, *values: Any) -> None:
        """Count `pattern` with `values` in the places of `mark` before it is formed."""
        widest = max((min(len(digits), 9) and int(digits[:9]) for digits in _NUMBERS.findall(pattern)), default=0)
        if widest > MAX_NUMBER:
            raise TooMuchWork
        self.text(
            len(pattern) + pattern.count(mark) * (widest + max(map(self.weight, values), default=0) * _CHARACTERS)
        )

    def substitute(self, text: Any, old: Any = None, new: Any = None) -> None:
        """Count `text.replace(old, new)` before it runs."""
        if isinstance(text, (str, bytes)) and isinstance(old, (str, bytes)) and isinstance(new, (str, bytes)):
            matches = len(text) if not old else len(text) // len(old)
            self.text(len(text) + (matches + 1) * len(new))

    def joined(self, separator: Any, values: Any) -> Any:
        """Count `separator.join(values)` before it runs; return the values."""
        values = values if isinstance(values, (str, bytes, *_CONTAINERS)) else list(values)
        self.spend(self.weight(values) + len(values))
        self.text(len(values) * len(str(separator)))
        return values

    def pairs(self, value: Any, others: Iterable[Any]) -> None:
        """Count texts that are each compared with all characters of `value`."""
        for other in others:
            if isinstance(other, (str, bytes)) and len(other) > 1 and isinstance(value, (str, bytes)):
                self.text(len(value) * len(other) // 64)

    def numbers(self, *values: Any) -> None:
        """Refuse numbers that are too large for a width, a count or a precision."""
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise TooMuchWork

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters that `count_work` writes into templates. The compiler runs none that has a context."""

        @pass_context
        def step(_: Any, work: int) -> bool:
            self.left -= abs(work)
            if self.left < 0:
                raise TooMuchWork
            return True

        @pass_context
        def read(_: Any, value: Any) -> Any:
            if type(value) is str:  # as in `read`, without a second call: this runs for each text that is printed
                self.left -= 1 + len(value) // _CHARACTERS
                if self.left < 0:
                    raise TooMuchWork
                return value
            return self.read(value)

        @pass_context
        def created(_: Any, value: Any) -> Any:
            self.spend(self.weight(value))
            return value

        @pass_context
        def part(_: Any, value: Any) -> Any:
            return self.result(value)

        def add(*values: Any) -> Any:
            characters = 0
            for value in values:
                if type(value) is not str:
                    return self.add(values)
                characters += len(value)
            self.left -= 1 + characters // _CHARACTERS
            if self.left < 0:
                raise TooMuchWork
            return "".join(values)

        return {STEP: step, READ: read, CREATED: created, PART: part, ADD: add}

    def add(self, values: Sequence[Any]) -> Any:
        """Return the sum of values, each counted before it is added."""
        total = self.read(values[0])
        for value in values[1:]:
            total = self.result(total + self.read(value))
        return total


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


def count_work(template: nodes.Template) -> nodes.Template:
    """Return a template that counts its work, and writes the same text."""
    return _Counting().visit(template)


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _step(node: nodes.Node) -> nodes.Filter:
    """Return the expression that counts one run of the body of `node`."""
    inner = list(node.find_all(nodes.Node))
    text = sum(len(part.data) for part in inner if isinstance(part, nodes.TemplateData))
    return _filtered(nodes.Const(1 + len(inner) + text // _CHARACTERS, lineno=node.lineno), STEP)


def _is_small(node: nodes.Expr) -> bool:
    return isinstance(node, (nodes.Const, nodes.TemplateData))


def _read(node: nodes.Expr) -> nodes.Expr:
    is_counted = isinstance(node, nodes.Filter) and node.name in (ADD, CREATED)
    return node if _is_small(node) or is_counted else _filtered(node, READ)


def _summands(node: nodes.Expr) -> Iterator[nodes.Expr]:
    """Yield the operands of `a + b + c`."""
    while isinstance(node, nodes.Add):
        yield node.right
        node = node.left
    yield node


class _Counting(NodeTransformer):
    def _body(self, node: Any) -> Any:
        step = _step(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _body

    def visit_For(self, node: nodes.For) -> nodes.For:
        step = _step(node)
        self._body(node)
        if node.test is not None:
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def _operands(self, node: Any) -> Any:
        self.generic_visit(node)
        node.nodes = [_read(child) for child in node.nodes]
        return node

    visit_Output = visit_Concat = _operands

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        first, *others = [self.visit(summand) for summand in reversed(list(_summands(node)))]
        return nodes.Filter(first, ADD, others, [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        operators = {operand.op for operand in node.ops}
        # A short text is equal to a long one in no time.
        if not (operators <= {"eq", "ne"} and (_is_small(node.expr) or all(_is_small(o.expr) for o in node.ops))):
            node.expr = _read(node.expr)
            for operand in node.ops:
                operand.expr = _read(operand.expr)
        return node

    def _container(self, node: Any) -> Any:
        self.generic_visit(node)
        small = all(isinstance(child, nodes.Const) for child in node.iter_child_nodes())
        return node if small or getattr(node, "ctx", "load") != "load" else _filtered(node, CREATED)

    visit_List = visit_Tuple = visit_Dict = _container

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, PART)
        node.arg = _read(node.arg)  # a key is hashed
        return node
