"""Tokenizers of every kind, trained on the spot in milliseconds."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "we won the game and a lovely party",
    "it's dark: isn't it? 12345",
    "two\n\nlines  and spaces",
    "Übung é 你好",
] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ADDED = [
    AddedToken("<|user|>", special=True, normalized=False, rstrip=True),
    AddedToken("<|mid|>", special=True, normalized=False, lstrip=True, rstrip=True),
    AddedToken("<|end|>", special=True, normalized=False),
    AddedToken("<tool>", special=False, normalized=True),
    AddedToken("<word>", special=False, normalized=False, single_word=True),
]
KINDS = [
    "byte-level",
    "byte-level with prefix space",
    "byte-level, Llama 3",
    "byte fallback, normalizer",
    "byte fallback, first",
    "byte fallback, always",
    "byte fallback, never",
    "byte fallback, Gemma",
    "unigram",
    "unigram with byte fallback",
    "wordpiece",
    "word level",
    "end of word",
]


def tokenizer_of(kind: str, *, bos: bool = True, added: bool = True) -> Any:
    """Return a tokenizer of transformers; with `bos`, its post-processor adds `<s>`, as those of Llama, Mistral and Gemma do."""
    from transformers import PreTrainedTokenizerFast

    backend = _backend(kind)
    if added:
        backend.add_tokens(ADDED)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def _backend(kind: str) -> Tokenizer:
    family, _, variant = kind.partition(", ")
    if family.startswith("byte-level"):
        return _byte_level(prefix_space="prefix" in family, pattern=LLAMA_3 if variant else None)
    if family == "byte fallback":
        return _byte_fallback(variant)
    if family.startswith("unigram"):
        return _unigram(byte_fallback="fallback" in family)
    if family == "wordpiece":
        wordpiece = Tokenizer(models.WordPiece(unk_token="<unk>"))
        wordpiece.normalizer, wordpiece.decoder = normalizers.BertNormalizer(lowercase=True), decoders.WordPiece()
        wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return _trained(
            wordpiece, trainers.WordPieceTrainer(vocab_size=250, special_tokens=SPECIAL, show_progress=False)
        )
    if family == "word level":
        words = Tokenizer(models.WordLevel(unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return _trained(words, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    ends = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    ends.pre_tokenizer, ends.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")
    return _trained(ends, _bpe_trainer(300, end_of_word_suffix="</w>"))


def _byte_level(*, prefix_space: bool, pattern: str | None) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=pattern is None)
    backend.pre_tokenizer = split
    if pattern:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), split])
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, _bpe_trainer(420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def _byte_fallback(variant: str) -> Tokenizer:
    """Return a tokenizer like those of Llama 2, Phi-3 and Mistral (by their prefix scheme), or of Gemma."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if variant == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif variant == "Gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=variant, split=False)
    strip = [] if variant == "Gemma" else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _with_plain_bytes(_trained(backend, _bpe_trainer(420, more=BYTES), CORPUS[:1]))


def _unigram(*, byte_fallback: bool) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL, *(BYTES if byte_fallback else [])]
    trainer = trainers.UnigramTrainer(
        vocab_size=len(special) + 60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend = _trained(backend, trainer)
    if byte_fallback:
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    return _with_plain_bytes(backend, byte_fallback=byte_fallback)


def _bpe_trainer(size: int, more: list[str] | None = None, **options: Any) -> Any:
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *(more or [])], show_progress=False, **options
    )


def _trained(backend: Tokenizer, trainer: Any, corpus: list[str] = CORPUS) -> Tokenizer:
    backend.train_from_iterator(corpus, trainer)
    return backend


def _with_plain_bytes(backend: Tokenizer, *, byte_fallback: bool = True) -> Tokenizer:
    """Turn the byte tokens, which a trainer knows only as special tokens, into ordinary ones."""
    state = json.loads(backend.to_str())
    state["model"]["byte_fallback"] = byte_fallback
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(state))
