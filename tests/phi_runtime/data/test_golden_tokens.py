"""A two-turn chat under the template of each family: the very ids, and the very tokens that are trained.

Each tokenizer has its family's special tokens and one token a byte, so that the ids of a text that is written down here are known
without it. The expected texts are those of the families' own templates, read from their published tokenizers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.tokenize import Encoder, prompt_ids
from phi_scaffold.new.catalog import catalog
from tests.phi_runtime.data.stores import mask

CHAT = [
    {"role": "user", "content": "Hello, who are you?"},
    {"role": "assistant", "content": "A model."},
    {"role": "user", "content": "2 + 2 = ?\nShow it."},
    {"role": "assistant", "content": "4\nQ.E.D. é"},
]


@dataclass(frozen=True)
class Family:
    """The special tokens, whether the tokenizer puts the BOS before every text itself, the text of the chat, and the stretches of
    it that are trained."""

    specials: tuple[str, ...]
    bos: str | None
    eos: str
    text: str
    trained: tuple[str, str]
    adds_bos: bool = False


FAMILIES = {
    "chatml": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\nA model.<|im_end|>\n"
        "<|im_start|>user\n2 + 2 = ?\nShow it.<|im_end|>\n<|im_start|>assistant\n4\nQ.E.D. é<|im_end|>\n",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "phi-3": Family(
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        "<|user|>\nHello, who are you?<|end|>\n<|assistant|>\nA model.<|end|>\n"
        "<|user|>\n2 + 2 = ?\nShow it.<|end|>\n<|assistant|>\n4\nQ.E.D. é<|end|>\n<|endoftext|>",
        ("A model.<|end|>", "4\nQ.E.D. é<|end|>\n<|endoftext|>"),
    ),
    "phi-4": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>user<|im_sep|>Hello, who are you?<|im_end|><|im_start|>assistant<|im_sep|>A model.<|im_end|>"
        "<|im_start|>user<|im_sep|>2 + 2 = ?\nShow it.<|im_end|><|im_start|>assistant<|im_sep|>4\nQ.E.D. é<|im_end|>",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "phi-4-mini": Family(
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|endoftext|>",
        "<|endoftext|>",
        "<|user|>Hello, who are you?<|end|><|assistant|>A model.<|end|>"
        "<|user|>2 + 2 = ?\nShow it.<|end|><|assistant|>4\nQ.E.D. é<|end|><|endoftext|>",
        ("A model.<|end|>", "4\nQ.E.D. é<|end|><|endoftext|>"),
    ),
    "llama-3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello, who are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA model.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 2 = ?\nShow it.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n4\nQ.E.D. é<|eot_id|>",
        ("A model.<|eot_id|>", "4\nQ.E.D. é<|eot_id|>"),
        adds_bos=True,
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
        "<bos><start_of_turn>user\nHello, who are you?<end_of_turn>\n<start_of_turn>model\nA model.<end_of_turn>\n"
        "<start_of_turn>user\n2 + 2 = ?\nShow it.<end_of_turn>\n<start_of_turn>model\n4\nQ.E.D. é<end_of_turn>\n",
        ("A model.<end_of_turn>", "4\nQ.E.D. é<end_of_turn>"),
        adds_bos=True,
    ),
    "qwen": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        None,
        "<|im_end|>",
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\nA model.<|im_end|>\n"
        "<|im_start|>user\n2 + 2 = ?\nShow it.<|im_end|>\n<|im_start|>assistant\n4\nQ.E.D. é<|im_end|>\n",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "smollm2": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\nA model.<|im_end|>\n"
        "<|im_start|>user\n2 + 2 = ?\nShow it.<|im_end|>\n<|im_start|>assistant\n4\nQ.E.D. é<|im_end|>\n",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "smollm3": Family(  # with /no_think and /system_override in the system message
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        None,
        "<|im_end|>",
        "<|im_start|>system\n<|im_end|>\n"
        "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\nA model.<|im_end|>\n"
        "<|im_start|>user\n2 + 2 = ?\nShow it.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n4\nQ.E.D. é<|im_end|>\n",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "qwen3": Family(  # with enable_thinking=False; the published template has the tags in the last turn only
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        None,
        "<|im_end|>",
        "<|im_start|>user\nHello, who are you?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nA model.<|im_end|>\n"
        "<|im_start|>user\n2 + 2 = ?\nShow it.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n4\nQ.E.D. é<|im_end|>\n",
        ("A model.<|im_end|>", "4\nQ.E.D. é<|im_end|>"),
    ),
    "dialogpt": Family(
        ("<|endoftext|>",),
        "<|endoftext|>",
        "<|endoftext|>",
        "Hello, who are you?<|endoftext|>A model.<|endoftext|>2 + 2 = ?\nShow it.<|endoftext|>4\nQ.E.D. é<|endoftext|>",
        ("A model.<|endoftext|>", "4\nQ.E.D. é<|endoftext|>"),
    ),
}


def tokenizer_of(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*family.specials, *alphabet))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.add_special_tokens(list(family.specials))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if family.adds_bos:
        bos = str(family.bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        additional_special_tokens=[t for t in family.specials if t not in (family.bos, family.eos)],
    )


def ids_of(text: str, family: Family, tokenizer: Any) -> list[int]:
    """The ids of a text by hand: one for each special token, one for each byte of the text between."""
    from tokenizers import pre_tokenizers

    special = "|".join(re.escape(t) for t in sorted(family.specials, key=len, reverse=True))
    ids = []
    for part in re.split(f"({special})", text):
        if part in family.specials:
            ids.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(part)
            ids += [tokenizer.convert_tokens_to_ids(byte) for piece, _ in pieces for byte in piece]
    return ids


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ids_are_those_of_the_text_and_of_apply_chat_template_and_the_answers_alone_are_trained(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = catalog().prompt_formats[name].chat_template
    template = ChatTemplate.from_config(tokenizer, True, "messages")
    row = {"messages": CHAT}
    (encoded,) = Encoder(tokenizer, chat=True).encode([template.row(row, completion_only=True).pieces])

    assert encoded.ids == ids_of(family.text, family, tokenizer)
    assert encoded.ids == tokenizer.apply_chat_template(CHAT)["input_ids"]
    rest = family.text
    expected: list[bool] = []
    for stretch in family.trained:
        before, found, rest = rest.partition(stretch)
        assert found
        expected += [False] * len(ids_of(before, family, tokenizer)) + [True] * len(ids_of(stretch, family, tokenizer))
    expected += [False] * len(ids_of(rest, family, tokenizer))
    assert mask(encoded) == expected
    assert not encoded.endless
    if family.bos and family.bos != "<|im_start|>":
        assert encoded.ids.count(tokenizer.bos_token_id) == family.text.count(family.bos)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_asked_is_what_stood_before_the_answer_in_training(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    template = ChatTemplate.from_config(tokenizer, catalog().prompt_formats[name].chat_template, "messages")
    prompt = template.render_prompt({"messages": CHAT})
    assert family.text.startswith(prompt)
    assert family.text.removeprefix(prompt).rstrip("\n") == family.trained[1]
    tokenizer.chat_template = template.source
    expected = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True)["input_ids"]
    assert prompt_ids(tokenizer, prompt, special=template.special) == expected


@pytest.mark.parametrize("name", [*FAMILIES, "plain", "phi-2"])
def test_every_template_of_the_catalogue_ends_each_turn_once_and_takes_a_system_message(name: str) -> None:
    family = FAMILIES.get(name, FAMILIES["chatml"])
    tokenizer = tokenizer_of(family)
    template = ChatTemplate.from_config(tokenizer, catalog().prompt_formats[name].chat_template, "messages")
    row = {"messages": [{"role": "system", "content": "Be brief."}, *CHAT]}
    pieces = template.row(row, completion_only=True).pieces
    whole = "".join(text for text, _ in pieces)
    assert whole.count("Be brief.") == 1
    trained = [text for text, learned in pieces if learned]
    assert len(trained) == 2
    (encoded,) = Encoder(tokenizer, chat=True).encode([pieces])
    ends = [i for i, learned in zip(encoded.ids, mask(encoded), strict=True) if learned and i < len(family.specials)]
    expected = [t for stretch in family.trained for t in re.findall(r"<[^>]+>", stretch)]
    assert len(ends) == (len(expected) if name in FAMILIES else 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_of_a_format_is_its_chat_template_with_one_message(name: str) -> None:
    tokenizer, used = tokenizer_of(FAMILIES[name]), catalog().prompt_formats[name]
    tokenizer.chat_template = used.chat_template
    rendered = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, tokenize=False)
    bos = FAMILIES[name].bos if FAMILIES[name].adds_bos else ""  # the tokenizer puts it before every text
    assert f"{bos}{used.prompt.format(CHAT[0]['content'])}" == rendered
    assert used.stop in FAMILIES[name].trained[0]
