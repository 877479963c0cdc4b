"""Chat templates that write tools and tool calls in the forms of known models, without the rest of their prompts."""

from __future__ import annotations

_TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_CALL = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'


def _chatml(call: str) -> str:
    """Return ChatML, where each call of a turn is written as `call` between the tags of Hermes."""
    calls = "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>\n' }}" + call + "\n</tool_call>{% endfor %}"
    turn = "<|im_start|>{{ m.role }}{% if m.content %}{{ '\n' + m.content }}{% endif %}" + calls + "<|im_end|>\n"
    return _TOOLS + "{% for m in messages %}" + turn + "{% endfor %}" + _PROMPT


QWEN = _chatml(_CALL)
HERMES = _chatml('{ "arguments": {{ c.function.arguments | tojson }}, "name": "{{ c.function.name }}"}')
OBJECT = _chatml("{{ c | tojson }}")
XML = _chatml(
    "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"
)
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _PROMPT

LLAMA = (
    _TOOLS + "{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)

# The tokenizer of the tiny models has <|endoftext|> as a token that is no text; Mistral's has [TOOL_CALLS].
MISTRAL = (
    _TOOLS + "{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}<|endoftext|> [{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    + _CALL[:-1]
    + ', "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]<|im_end|>'
    "{% elif m.role == 'tool' %}[RESULT] {{ m.tool_call_id }} {{ m.name }} {{ m.content }}[/RESULT]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
MISTRAL_3 = (
    _TOOLS + "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "</s>{% endif %}{% endfor %}"
)
# Adds the arguments to a text: they have to be JSON text already.
DEEPSEEK = (
    _TOOLS + "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<assistant>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if loop.first %}<calls>{% else %}{{ '\n' }}{% endif %}<call>function<sep>"
    "{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}</call>"
    "{% if loop.last %}</calls>{% endif %}{% endfor %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}{% if m.role == 'system' and 'tools' in m %}"
    "<|system|>{{ m.content + '<|tool|>' + m.tools + '<|/tool|>' }}<|end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
