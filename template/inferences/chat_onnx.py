"""Chat with the ONNX model in gen-model/onnx, or in the folder of this file. Needs only its requirements.txt.

    python inferences/chat_onnx.py --prompt "What a day!"
    python inferences/chat_onnx.py                            a chat; an empty line or /exit ends it, /clear starts again
    python inferences/chat_onnx.py --adapter style            with adapters/style.onnx_adapter of the model folder

A model that was trained on several columns takes JSON: --prompt '{"context": "…", "question": "…"}'
"""

import argparse
import json
import os
import re
import string
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import readline  # input() edits lines, with a history in memory

    if os.environ.get("TERM", "dumb") != "dumb":
        readline.parse_and_bind("set enable-bracketed-paste on")  # a paste of several lines is one text
except ImportError:  # Windows, whose console edits lines itself
    pass

HERE = Path(__file__).resolve().parent
MODEL = HERE if (HERE / "genai_config.json").is_file() else HERE.parent / "gen-model" / "onnx"
CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # characters that a terminal would obey


class PromptTooLong(ValueError):
    """The prompt and its answer do not fit into the context."""


@dataclass(frozen=True)
class Sampling:
    """Settings of an answer. At temperature 0 it is always the same; a seed makes sampling repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Template:
    """The prompt format of the training, from prompt_template.json of the model: a conversation, or a text with columns."""

    def __init__(self, folder):
        if not (file := folder / "prompt_template.json").is_file():
            raise ValueError(f"{file} is missing: models of `phi-scaffold run` have it")
        self.stored = json.loads(file.read_text(encoding="utf-8"))
        self.converses = self.stored.get("kind") == "chat"
        self.columns = ["message"] if self.converses else self.stored["inputs"] or ["text"]
        self.optional = self.stored.get("optional", ())  # columns that may be empty
        stop = self.stored.get("stop", "")  # text after the answer in training
        self.ends = [end for end in self.stored.get("ends", ()) if end in stop]  # they end an answer, too
        self.closing = min((stop.partition(end)[0] for end in self.ends), key=len, default=stop).strip()
        self.ends_at_closing = not (self.stored.get("end_token", True) or self.ends)  # no token ends an answer

    def question(self, text):
        """Parse a typed text into columns: JSON, or the text of the only column that is required."""
        required = [column for column in self.columns if column not in self.optional]
        try:
            values = json.loads(text) if len(self.columns) > 1 else {}
            return {column: values[column] for column in self.columns if column in required or column in values}
        except (ValueError, LookupError, TypeError):
            if len(required) == 1:
                return {required[0]: text}
            example = json.dumps(dict.fromkeys(self.columns, "…"), ensure_ascii=False)
            raise ValueError(f"the prompt has the columns {', '.join(self.columns)}: write JSON, {example}") from None

    def fill(self, question):
        if not self.stored["inputs"]:  # trained on free text, which the answer continues
            return self.stored["prompt"].format() + question["text"]
        cells = ((column, question.get(column)) for column in self.columns)
        values = {c: "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for c, cell in cells}
        parts = string.Formatter().parse(self.stored["prompt"])
        kept = (part[:2] for part in parts if part[1] not in self.optional or values[part[1]].strip())
        prompt = "".join(before + values.get(column, "") for before, column in kept)
        return prompt.lstrip("\n") if self.optional else prompt


class Chat:
    """A loaded model. Subclasses implement `render` and `generate`: here, in chat_merged.py and in chat_adapter.py."""

    adapters = ()  # names for the argument `adapter`
    tokens = 0  # of the last answer

    def __init__(self, folder):
        self.template = Template(folder)

    def ask(self, question, sampling, adapter=None, before=()):
        """Yield the answer to a question (by column) in pieces; in a conversation, after the messages `before`.

        Raises ValueError if the question does not fit the model.
        """
        if self.template.converses:
            prompt = self.render([*before, {"role": "user", "content": question["message"]}])
        else:
            prompt = self.template.fill(question)
        pieces = self.counted(self.generate(prompt, sampling, adapter))
        return without(self.template.closing, pieces, first=self.template.ends_at_closing)

    def counted(self, pieces):
        for self.tokens, piece in enumerate(pieces):  # a piece for each token, and one for the rest of the text
            yield piece


class Detokenizer:
    """Turns tokens into text one by one; holds back what a later token may change, such as an incomplete character."""

    def __init__(self, decode, token_of, special):
        self.decode, self.token_of, self.special = decode, token_of, special
        self.window, self.returned = [], 0  # the last tokens, and the characters of their text that were returned

    def push(self, token):
        name = None if token in self.special else self.token_of(token)
        if name is None:
            return ""
        self.window.append(token)
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", name):  # consecutive bytes are decoded together
            return ""
        text = self.decode(self.window)
        certain = text.removesuffix("\ufffd")
        new, self.returned = certain[self.returned :], max(self.returned, len(certain))
        if len(self.window) > 8:
            window, held = self.window[-4:], text[len(certain) :]  # a character has at most four bytes
            text = self.decode(window)
            if text.endswith(held) and len(text) > len(held):
                self.window, self.returned = window, len(text) - len(held)
        return new

    def flush(self):
        return self.decode(self.window)[self.returned :] if self.window else ""


class OnnxChat(Chat):
    """An ONNX model. It keeps its key-value cache, and reads a prompt only from its first difference to the previous text."""

    def __init__(self, folder):
        import onnxruntime_genai as og
        from tokenizers import Tokenizer

        super().__init__(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing")
        config, cores = og.Config(str(folder)), os.cpu_count()
        if hasattr(os, "sched_getaffinity"):  # more threads than usable cores are several times slower
            cores = len(os.sched_getaffinity(0))
        if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
            cores = max(1, min(cores, int(os.environ["OMP_NUM_THREADS"])))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": cores}}}}))
        self.og, self.model = og, og.Model(config)
        # Its ids are those of the training. The tokenizer in onnxruntime-genai reads some texts differently, and its BOS depends
        # on its version.
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.special = {token for token, added in self.tokenizer.get_added_tokens_decoder().items() if added.special}
        bos = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("bos_token")
        self.bos = bos["content"] if isinstance(bos, dict) else bos
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends, self.context = model["eos_token_id"], model["context_length"]
        written = map(self.tokenizer.token_to_id, self.template.ends)
        self.ends = {*(ends if isinstance(ends, list) else [ends]), *written}
        self.files = {file.stem: file for file in sorted((folder / "adapters").glob("*.onnx_adapter"))}
        self.adapters, self.loaded = tuple(self.files), set()
        self.store = og.Adapters(self.model) if self.files else None
        self.generator, self.kept = None, None  # the last one, with its size and its settings

    def render(self, messages):
        source = self.template.stored["chat_template"]
        tokenizer = self.og.Tokenizer(self.model)
        return tokenizer.apply_chat_template(json.dumps(messages), template_str=source, add_generation_prompt=True)

    def encode(self, prompt):
        complete = self.template.converses or bool(self.bos and prompt.startswith(self.bos))  # has its special tokens
        return self.tokenizer.encode(prompt, add_special_tokens=not complete).ids

    def generate(self, prompt, sampling, adapter=None):
        ids = self.encode(prompt)
        if (needed := len(ids) + sampling.max_new_tokens) > self.context:
            request = f"the prompt ({len(ids)} tokens) and its answer (up to {sampling.max_new_tokens})"
            raise PromptTooLong(f"{request} exceed the {self.context} tokens of the model")
        generator = self.prepared(needed, sampling, adapter)
        cached = generator.get_sequence(0)
        same = next((i for i, (new, old) in enumerate(zip(ids, cached)) if new != old), min(len(ids), len(cached)))
        keep = max(0, min(same, len(ids) - 2))  # read at least two tokens: a single one is rounded differently
        keep = 0 if keep <= 4096 < max(len(cached), len(ids)) else keep  # LongRoPE: other factors for all tokens
        generator.rewind_to(keep)
        generator.append_tokens(ids[keep:])
        return self.pieces(generator, sampling.max_new_tokens)

    def pieces(self, generator, count):
        stream = Detokenizer(self.tokenizer.decode, self.tokenizer.id_to_token, self.special)
        for _ in range(count):
            generator.generate_next_token()
            if (token := int(generator.get_next_tokens()[0])) in self.ends:
                break
            yield stream.push(token)
        yield stream.flush()

    def prepared(self, needed, sampling, adapter):
        """Return the previous generator if it has room and the same settings; otherwise, or with a seed, a new one."""
        if adapter is not None and adapter not in self.files:
            raise ValueError(f"the model has no adapter `{adapter}`: it has {', '.join(self.files) or 'none'}")
        kind = (sampling.temperature, sampling.top_p, adapter)
        seeded = sampling.temperature > 0 and sampling.seed is not None
        if self.generator is None or seeded or self.kept[1] != kind or self.kept[0] < needed:
            self.generator = None
            room = min(self.context, 1 << max(9, needed.bit_length()))  # memory is reserved for all of max_length
            options = {"max_length": room, "do_sample": sampling.temperature > 0, "top_p": sampling.top_p}
            options |= {"temperature": sampling.temperature} if sampling.temperature > 0 else {}
            options |= {"random_seed": sampling.seed} if sampling.seed is not None else {}
            params = self.og.GeneratorParams(self.model)
            params.set_search_options(**options)
            generator = self.og.Generator(self.model, params)
            if adapter is not None:
                if adapter not in self.loaded:
                    self.store.load(str(self.files[adapter]), adapter)
                    self.loaded.add(adapter)
                generator.set_active_adapter(self.store, adapter)
            self.generator, self.kept = generator, (room, kind)
        return self.generator


def without(stop, pieces, first=False):
    """Yield an answer without `stop` at its end, or with `first` up to the first `stop`; hold back only what may be it."""
    held = ""
    for piece in pieces:
        held += piece
        if stop and first and stop in held:
            yield held[: held.index(stop)]
            return
        begin = max(0, len(held.rstrip()) - len(stop))
        begin = next(i for i in range(begin, len(held) + 1) if stop.startswith(held[i:].strip()))
        begin = len(held[:begin].rstrip()) if stop else len(held)
        yield held[:begin]
        held = held[begin:]
    if held.strip() != stop:
        yield held


def between(kind, least, most):
    """Return an argparse type for numbers in a range."""

    def read(text):
        if not least <= (value := kind(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    read.__name__ = kind.__name__
    return read


def add_sampling(parser):
    add = parser.add_argument
    add("--max-new-tokens", type=between(int, 1, 10**6), default=256, metavar="N", help="longest answer (256)")
    add("--temperature", type=between(float, 0, 100), default=0.0, metavar="T", help="0: the same answer each time")
    add("--top-p", type=between(float, 0.01, 1), default=1.0, metavar="P", help="share of the likeliest tokens (1.0)")
    add("--seed", type=between(int, 0, 2**31 - 1), metavar="N", help="make sampling repeatable")


def sampling_of(args):
    return Sampling(args.max_new_tokens, args.temperature, args.top_p, args.seed)


def run(kind, folder, marker, doc):
    """Run the command line of a chat with a model of class `kind` in `folder`, which contains the file `marker`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=folder, metavar="FOLDER", help=f"its folder ({folder})")
    parser.add_argument("--prompt", metavar="TEXT", help="one prompt; without it, start a chat")
    if kind is OnnxChat:
        parser.add_argument("--adapter", metavar="NAME", help="answer with this adapter of the model")
    add_sampling(parser)
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # a Windows console cannot show every character
    if not (args.model / marker).is_file():
        parser.error(f"there is no {marker} in {args.model}: run `phi-scaffold run` first, or set --model")
    try:
        converse(kind(args.model), args)
    except (ValueError, RuntimeError, OSError) as e:
        sys.exit(f"{parser.prog}: error: {e}")
    except EOFError:
        print()
    except KeyboardInterrupt:
        print()
        sys.exit(130)


def note_base(chat, adapter):
    """Report that the base model answers although there are adapters."""
    if chat.adapters and adapter is None:
        print(f"the base model answers; use --adapter for {' or '.join(chat.adapters)}", file=sys.stderr)


def start_answer(chat, question, sampling, adapter, before, report):
    """Start an answer; remove the oldest turns from `before` if they do not fit into the context, and report it."""
    step = max(2, len(before) // 8 * 2)  # a quarter at once: each drop reads the whole prompt again
    for start in [*range(0, len(before), step), len(before)]:
        try:
            pieces = chat.ask(question, sampling, adapter, before[start:])
        except PromptTooLong:
            if start == len(before):
                raise
            continue
        if start:
            report(f"dropped the oldest {f'{start // 2} turns' if start > 2 else 'turn'}: the context is full")
        del before[:start]
        return pieces


def converse(chat, args):
    before, adapter, on_terminal = [], getattr(args, "adapter", None), sys.stdin.isatty() and not args.prompt
    note_base(chat, adapter)
    label = "you" if chat.template.converses else ", ".join(chat.template.columns)
    while text := args.prompt or input(f"{label}: ").strip():
        answer = ""
        try:
            if text.startswith("/") and not args.prompt:  # never reaches the model
                if text in ("/exit", "/quit", "/bye"):
                    return
                if text != "/clear":
                    raise ValueError(f"unknown command {text}: use /clear or /exit")
                before.clear()
                continue
            question, sampling = chat.template.question(text), sampling_of(args)
            for piece in start_answer(chat, question, sampling, adapter, before, partial(print, file=sys.stderr)):
                answer += piece
                print(piece.translate(CONTROL) if sys.stdout.isatty() else piece, end="", flush=True)
        except (ValueError, KeyboardInterrupt) as e:  # on a terminal, the chat continues
            if not on_terminal:
                raise
            print(f"error: {e}" if isinstance(e, ValueError) else " (stopped)", file=sys.stderr)
        else:
            print()
        if args.prompt:
            return
        if answer.strip() and chat.template.converses:
            before += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


if __name__ == "__main__":
    run(OnnxChat, MODEL, "genai_config.json", __doc__)
