"""The Jinja environment of chat templates: that of transformers 5.23, with a limit of work (`template_meter`).

The text is the one of `apply_chat_template`, for each version of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, update_wrapper
from threading import Lock
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from phi_runtime.data.messages import Message
from phi_runtime.data.template_functions import INSTANT_FILTERS, READING_TESTS, count_call, filter_rules
from phi_runtime.data.template_meter import CALL, Meter, TooMuchWork, count_work

MAX_SOURCE = 200_000
"""Characters of a template; those of the largest models have 30,000."""

MAX_WORK = 10_000_000
"""Units of work for one conversation; those of the largest models take about 1,000 for each message."""

WORK_PER_CHARACTER = 64
"""Units of work in addition, for each character of the conversation."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
_JSON = frozenset((str, int, float, bool, type(None)))
_FILE = "<template>"


class TemplateFault(Exception):
    """A template is no Jinja, or exceeds a limit. `line` is the one of the template, 0 for all of it."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.what, self.line = what, line


class CompiledTemplate:
    """A chat template that is ready to render. Threads render one after the other."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateFault(f"is longer than {MAX_SOURCE:,} characters")
        self._environment, self._lock = _Environment(), Lock()
        self._environment.meter.left = MAX_WORK  # the compiler computes constants
        try:
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as e:
            raise TemplateFault(f"is not valid: {e.message}", e.lineno) from None
        except (SyntaxError, RecursionError):
            raise TemplateFault("is nested too deeply") from None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        *,
        add_generation_prompt: bool,
        names: Mapping[str, str],
    ) -> str:
        """Return the text of `messages`.

        Raises:
            TemplateFault: The template does too much work.
            Exception: The template fails, or refuses the messages.
        """
        sizes = _Sizes()
        chat = [_with_reasoning(sizes.plain(message)) for message in messages]
        plain_tools = sizes.plain(tools)
        with self._lock:
            self._environment.meter.left = MAX_WORK + WORK_PER_CHARACTER * sizes.characters
            try:
                return self._template.render(
                    messages=chat,
                    tools=plain_tools,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **names,
                )
            except TooMuchWork as e:
                raise TemplateFault("does too much work for one conversation", _line(e)) from None


compiled = lru_cache(64)(CompiledTemplate)
"""Return the template of a source. Raises TemplateFault if it is too long, or no Jinja."""


def _line(error: BaseException) -> int:
    """Return the line of a template where an error was raised; 0: not in a template."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _Sizes:
    """Copies of values that hold only what JSON has, and the number of their characters."""

    def __init__(self) -> None:
        self.characters = 0

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind is dict:
            copy = {}
            for key, item in value.items():
                if type(item) is str:
                    self.characters += len(item)
                elif item is not None:
                    item = self.plain(item)
                copy[key if type(key) is str else self.plain(key)] = item
            return copy
        if kind is list:
            return [self.plain(item) for item in value]
        if kind in _JSON:
            self.characters += len(value) if kind is str else 1
            return value
        return self._without_methods(value)

    def _without_methods(self, value: Any) -> Any:
        """Return a copy of a value that is not one of JSON."""
        if isinstance(value, tuple):
            return tuple([self.plain(item) for item in value])
        for base in (str, int, float, list):
            if isinstance(value, base):
                return self.plain(cast("Any", base)(value))
        if isinstance(value, Mapping):
            return self.plain(dict(value))
        if hasattr(value, "item"):  # a scalar of numpy
            return self.plain(value.item())
        return f"<{type(value).__name__}>"


def _with_reasoning(message: Any) -> Any:
    """Return a message with its reasoning under the names that templates read: gpt-oss's is `thinking`."""
    if not isinstance(message, dict):
        return message
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


class _Generation(Extension):
    """`{% generation %}`, which marks answers; their text is the same without it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without names of Python's internals, which is printed without its values."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _Namespace._check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot have the name `{name}`, which starts with an underscore")

    def __repr__(self) -> str:
        return "<Namespace>"


class _Dict:
    """`dict`, without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(pattern: str) -> str:
    if len(pattern) > 1000:
        raise TooMuchWork
    return datetime.now().strftime(pattern)


class _Environment(ImmutableSandboxedEnvironment):
    """An environment for one template, whose work it counts."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.meter = Meter()
        self.globals |= {
            "raise_exception": _refuse,
            "strftime_now": _now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        del self.globals["lipsum"]  # random text
        self.filters["tojson"] = _to_json
        rules = filter_rules(self.meter)
        counted = {name: _counted(self.meter, f, rules.get(name)) for name, f in self.filters.items()}
        self.filters = counted | {name: self.filters[name] for name in INSTANT_FILTERS}
        self.filters |= self.meter.filters()
        self.tests = self.tests | {
            name: _reading(self.meter, cast("Callable[..., Any]", self.tests[name])) for name in READING_TESTS
        }

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(count_work(source), *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.meter.operate(operator, left, right)
        return self.meter.result(self.binop_table[operator](left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        meter = __self.meter
        meter.spend(CALL)
        args = tuple([meter.argument(arg) for arg in args])
        if isinstance(__obj, type) or (isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs)):
            meter.spend(meter.weight([*args, *kwargs.values()]))  # it keeps a list of them
        elif not isinstance(__obj, Macro):
            args = count_call(meter, __obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (list, tuple, dict)):
            meter.spend(meter.weight(result))
        return meter.result(result)


def _counted(meter: Meter, function: Callable[..., Any], rule: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return a filter that counts its value before it runs, and its result."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # behind an environment or a context

    def run(*args: Any, **kwargs: Any) -> Any:
        value, others = args[first], args[first + 1 :]
        meter.spend(CALL)
        if type(value) is str:
            meter.left -= len(value) // 8
        else:
            value = meter.argument(value)
        if rule is not None:
            value = rule(value, *others, **kwargs)
        elif others or kwargs:
            meter.pairs(value, (*others, *kwargs.values()))
        return meter.result(function(*args[:first], value, *others, **kwargs))

    return update_wrapper(run, function)


def _reading(meter: Meter, test: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test that counts the texts that it reads."""

    def run(*values: Any) -> Any:
        meter.spend(CALL)
        return test(*map(meter.read, values))

    return run
