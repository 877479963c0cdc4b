"""Chat with the tuned model in gen-model/merged, which needs no adapter and no peft.

python inferences/chat_merged.py --prompt "What a day!"
python inferences/chat_merged.py                          prompts until an empty line
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from chat_onnx import Chat, Detokenizer, PromptTooLong, run

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
MODEL = Path(__file__).resolve().parents[1] / "gen-model" / "merged"


class Tokens:
    """Streamer for `generate`: iterates over the tokens of the answer, as they come."""

    def __init__(self):
        self.queue, self.prompt_was_put = SimpleQueue(), False

    def put(self, tokens):
        if self.prompt_was_put:
            self.queue.put(int(tokens))
        self.prompt_was_put = True

    def end(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


class MergedChat(Chat):
    """A full model, run by transformers."""

    def __init__(self, folder):
        import transformers

        super().__init__(folder)
        transformers.utils.logging.disable_progress_bar()
        self.model = self.load(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ends = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        self.ends = [*(ends if isinstance(ends, list) else [ends])]
        self.ends += self.tokenizer.convert_tokens_to_ids(self.template.ends)

    def load(self, folder):
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", device_map="auto", local_files_only=True
        )

    def render(self, messages):
        source = self.template.stored["chat_template"]
        return self.tokenizer.apply_chat_template(
            messages, chat_template=source, add_generation_prompt=True, tokenize=False
        )

    def generate(self, prompt, sampling, adapter=None):
        bos = self.tokenizer.bos_token
        complete = self.template.converses or bool(bos and prompt.startswith(bos))  # has its special tokens
        inputs = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=not complete).to(self.model.device)
        length, context = inputs["input_ids"].shape[1], self.model.config.max_position_embeddings
        if length + sampling.max_new_tokens > context:
            request = f"the prompt ({length} tokens) and its answer (up to {sampling.max_new_tokens})"
            raise PromptTooLong(f"{request} exceed the {context} tokens of the model")
        if sampling.seed is not None:
            import torch

            torch.manual_seed(sampling.seed)
        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling.temperature > 0 else {}
        options = {"max_new_tokens": sampling.max_new_tokens, "do_sample": sampling.temperature > 0}
        return self.pieces(
            {**inputs, **options, **sampled, "eos_token_id": self.ends, "pad_token_id": self.tokenizer.eos_token_id}
        )

    def pieces(self, options):
        """Generate in a thread, which stops when the reader closes this generator."""
        tokenizer, tokens = self.tokenizer, Tokens()
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        text_options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        stream = Detokenizer(
            lambda ids: tokenizer.decode(ids, **text_options), tokenizer.convert_ids_to_tokens, special
        )
        closed = threading.Event()
        options |= {"streamer": tokens, "stopping_criteria": [lambda *_, **__: closed.is_set()]}
        with ThreadPoolExecutor(1) as thread:
            work = thread.submit(self.model.generate, **options)
            work.add_done_callback(lambda _: tokens.end())  # also after an error
            try:
                yield from (stream.push(token) for token in tokens if token not in self.ends)
                yield stream.flush()
            finally:
                closed.set()
            work.result()


if __name__ == "__main__":
    run(MergedChat, MODEL, "config.json", __doc__)
