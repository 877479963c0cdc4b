"""A chat template cannot hang, fill the memory or get out; every real one writes the text of `apply_chat_template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import ConfigError
from phi_runtime.data import template_engine
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.row import RowError
from phi_runtime.data.template_engine import TemplateFault, compiled
from tests.phi_runtime.data import test_chat_template, tool_templates
from tests.phi_runtime.serving import templates

GROWING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}STEP{% endfor %}{{ ns.x }}"


def growing(start: str, step: str) -> str:
    return GROWING.replace("START", start).replace("STEP", step)


def repeated(body: str, before: str = "") -> str:
    return before + "{% for i in range(100000) %}" + body + "{% endfor %}"


TEXT = "{% set x = 'a' * 90000 %}{% set y = 'a' * 90000 %}"
LISTS = "{% set x = [[1] * 100] * 10 %}{% set y = [[1] * 100] * 10 %}"
ENDLESS = {
    "loops": repeated(repeated("")),
    "loops of text": repeated("x" * 5000),
    "loop with a condition": repeated("{% for j in range(100000) if false %}{% endfor %}"),
    "recursion of a macro": "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "calls of a macro": "{% macro m() %}{{ caller() }}{% endmacro %}" + repeated("{% call m() %}x{% endcall %}"),
    "pipelines": repeated("{% if range(90000) | select('eq', -1) | list %}{% endif %}"),
    "text times number": "{{ 'a' * 10 ** 10 }}",
    "list times number": "{{ [0] * 10 ** 10 }}",
    "marked text": "{{ ('<' | safe) * 10 ** 10 }}",
    "powers": "{{ 10 ** 10 ** 9 }}",
    "center": "{{ 'x' | center(10 ** 9) }}",
    "center by map": "{{ ['x'] | map('center', 10 ** 9) | list }}",
    "method by attribute": "{{ (['x'] | map(attribute='center') | first)(10 ** 9) }}",
    "method": "{{ 'x'.ljust(10 ** 10) }}",
    "zfill": "{{ 'x'.zfill(10 ** 10) }}",
    "tabs": "{{ ('\\t' * 1000).expandtabs(100000) }}",
    "bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "large integers": "{{ (1).from_bytes(('a' * 1000).encode(), 'big') }}",
    "width": "{{ '%999999999d' % 1 }}",
    "width as a value": "{{ '%*d' % (10 ** 9, 1) }}",
    "width in a filter": "{{ '%999999999s' | format('x') }}",
    "width in format": "{{ '{:999999999}'.format(1) }}",
    "width in format as a value": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "names in a format": "{{ ('%(a)s' * 1000) % {'a': 'b' * 90000} }}",
    "replace": "{{ ('a' * 10000) | replace('a', 'b' * 10000) }}",
    "replace nothing": "{{ ('a' * 10000).replace('', 'b' * 10000) }}",
    "translate": "{{ ('a' * 10000).translate({97: 'b' * 10000}) }}",
    "join": "{{ range(1000) | join('b' * 10000) }}",
    "join by method": "{{ ('b' * 10000).join(['a'] * 1000) }}",
    "indent": "{{ ('\\n' * 10000) | indent(10000) }}",
    "indent of JSON": "{{ messages | tojson(indent=10 ** 9) }}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "slice": "{{ [1] | slice(10 ** 9, 'x') | list }}",
    "round": "{{ 5 | round(999999999, 'ceil') }}",
    "strip": "{{ ('ab' * 10000).strip('cd' * 10000 ~ 'ab') }}",
    "trim": "{{ ('ab' * 10000) | trim('cd' * 10000 ~ 'ab') }}",
    "trim by name": "{{ ('ab' * 10000) | trim(chars='cd' * 10000 ~ 'ab') }}",
    "tags": "{{ ('<!---->' * 10000) | striptags }}",
    "links": "{{ ('a.' * 20000) | urlize }}",
    "doubled by ~": growing("'ab'", "{% set ns.x = ns.x ~ ns.x %}"),
    "doubled by +": growing("'ab'", "{% set ns.x = ns.x + ns.x %}"),
    "doubled lists": growing("[1]", "{% set ns.x = ns.x + ns.x %}"),
    "doubled by a block": growing("'ab'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "shared lists": growing("[1]", "{% set ns.x = [ns.x, ns.x] %}"),
    "shared objects": growing("[1]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}"),
    "shared by dict": growing("[1]", "{% set ns.x = dict(a=ns.x, b=ns.x) %}"),
    "shared by fromkeys": growing("[1]", "{% set ns.x = dict.fromkeys([1, 2], ns.x) %}"),
    "shared by cycler": growing("(1,)", "{% set ns.x = cycler(ns.x, ns.x).items %}"),
    "shared arguments": "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1, varargs, varargs) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "named arguments": "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1, a=kwargs, b=kwargs) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "nesting": growing("(1,)", "{% set ns.x = (ns.x,) %}").replace("range(60)", "range(1000)"),
    "slices": repeated("{% set z = x[i:] %}", TEXT),
    "comparisons": repeated("{% if x == y %}{% endif %}", TEXT),
    "comparisons of lists": repeated("{% if x == y %}{% endif %}", LISTS),
    "comparisons by a test": repeated("{% if x is eq(y) %}{% endif %}", TEXT),
    "searches": repeated("{% if 'b' in x %}{% endif %}", TEXT),
    "counts": repeated("{% set z = x.count('b') %}", TEXT),
    "counts of lists": repeated("{% set z = x.count(2) %}", LISTS),
    "cases": repeated("{% if x is lower %}{% endif %}", TEXT),
    "filters": repeated("{% set z = x | upper %}", TEXT),
    "work that is given back": "{{ [-10 ** 9] | map('meter step') | list }}" + repeated(repeated("")),
}
"""Templates that do more work than they may, by the thing that does it."""


def render(source: str, content: str = "Hi") -> str:
    return compiled(source).render(
        [{"role": "user", "content": content}], None, add_generation_prompt=True, names={"bos_token": "<s>"}
    )


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_stops_at_its_limit(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_engine, "MAX_WORK", 100_000)  # 1 % of what it may do
    with pytest.raises(TemplateFault, match="too much work") as caught:
        render(source)
    assert caught.value.line == source.count("\n") + 1 or caught.value.line == 1


@pytest.mark.parametrize(
    "source",
    [
        "{{ range(10 ** 9) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{{ lipsum(n=10 ** 8) }}",
        "{{ [[1]] | sum(start=[]) }}",
        "{{ ('a' | safe).replace(new='b', old='a') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(_x=1) }}",
        "{% include 'a' %}",
    ],
)
def test_what_a_template_may_not_do_is_refused(source: str) -> None:
    with pytest.raises(RowError, match="rejects this conversation"):
        ChatTemplate(source, "messages", {}, ()).render([{"role": "user", "content": ""}], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("\n\n{% for %}", 3),
        ("x" * 200_001, 0),
        ("{% for i in x %}" * 60 + "{% endfor %}" * 60, 0),
        ("{{ " + "(" * 9000, 0),
    ],
)
def test_source_that_does_not_compile_is_refused_once_with_its_line(tmp_path: Path, source: str, line: int) -> None:
    file = tmp_path / "chat_template.jinja"
    template = ChatTemplate(source, "messages", {}, (), str(file))
    with pytest.raises(ConfigError) as caught:
        template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert caught.value.where is not None
    assert (caught.value.where.path, caught.value.where.line) == (str(file), line)


def test_the_limit_grows_with_the_conversation_and_counts_from_new_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    each_letter = "{% for letter in messages[0].content %}{{ letter }}{% endfor %}"
    monkeypatch.setattr(template_engine, "MAX_WORK", 1000)
    text = "x" * 10_000
    assert [render(each_letter, text) for _ in range(2)] == [text, text]


TEMPLATES = {
    name: source
    for module in (tool_templates, templates, test_chat_template)
    for name, source in vars(module).items()
    if isinstance(source, str) and "{%" in source
}
CORNERS = {
    "values": "{{ 1 + 2.5 }}|{{ [1, 'a'] + [none] }}|{{ 'a' + 1 }}",
    "sums": "{{ 'a' + messages[0].content + 'b' ~ 1 ~ none }}|{{ 2 + 3 * 4 ** 2 % 7 }}|{{ ('%s-%d' % ('a', 3)) }}",
    "containers": "{{ (1, 'x') }}{{ {'a': [1, {'b': true}]} }}{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "slices": "{{ messages[-1:] | length }}{{ messages[0].content[::-1] }}{{ messages[:0] }}",
    "loops": "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% else %}-{% endfor %}",
    "recursive": "{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "macro": "{% macro m(a, b='c') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, d=4) }}{{ m('a') }}",
    "call": "{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(v) m() %}{{ v }}{% endcall %}",
    "blocks": "{% block a %}{{ messages | length }}{% endblock %}{{ self.a() }}",
    "set": "{% set x %} a {% endset %}{{ x | trim }}{% filter upper %}b{{ x }}{% endfilter %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
    "filters": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') | indent(2) }}"
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ [3, 1] | sort | batch(2, 'x') | list }}{{ 'a' | center(5) }}{{ 2.5 | round }}"
    "{{ tools | tojson(indent=2) }}{{ [1, 2] | sum }}{{ 'a-b' | replace('-', '+') }}{{ [1, 1] | unique | list }}",
    "methods": "{{ 'a,b'.split(',') }}{{ '{}-{a}'.format(1, a='x') }}{{ ' x '.strip() }}{{ {'a': 1}.items() | list }}"
    "{{ ','.join(['a', 'b']) }}{{ 'abc'.find('c') }}{{ 'ab'.replace('a', 'x').title() }}{{ 'a'.startswith('a') }}",
    "namespace": "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}",
    "escaped": "{% autoescape true %}{{ '<' }}{{ '<' ~ '>' }}{{ '<' | safe }}{% endautoescape %}{{ '<' | e }}",
    "undefined": "{{ nothing }}{{ nothing is defined }}{{ messages[9] }}{{ messages[0].nothing | default('d') }}",
    "refusal": "{{ raise_exception('no') }}",
    "error": "{{ nothing.more }}",
    "comparisons": "{{ 'a' in messages[0].content }}{{ messages[0] == messages[-1] }}{{ 1 < messages | length <= 3 }}",
}
PROBE = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CALL = {"id": "probe0001", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
USER, ANSWER = {"role": "user", "content": "Hi <you> & a"}, {"role": "assistant", "content": "Ho. "}
CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER, ANSWER | {"reasoning_content": "Hm"}, USER],
    [USER, ANSWER | {"tool_calls": [CALL]}, {"role": "tool", "content": "1", "tool_call_id": "probe0001"}, ANSWER],
    [USER, ANSWER | {"thinking": "Hm"}, {"role": "other", "content": None}],
    [],
]


@pytest.mark.parametrize("source", [*TEMPLATES.values(), *CORNERS.values()], ids=[*TEMPLATES, *CORNERS])
def test_the_text_is_that_of_transformers(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    names = {"bos_token": "<s>", "eos_token": "</s>"}
    for chat in CHATS:
        for tools in (None, [{"type": "function", "function": PROBE}]):
            texts = []
            for with_limits in (False, True):
                try:
                    if with_limits:
                        texts.append(compiled(source).render(chat, tools, add_generation_prompt=True, names=names))
                    else:
                        made, _ = render_jinja_template(
                            [chat], tools, chat_template=source, add_generation_prompt=True, **names
                        )
                        texts += made
                except Exception as e:
                    texts.append(type(e).__name__)
            assert texts[0] == texts[1]
