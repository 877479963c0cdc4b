"""Chat with the tuned model in gen-model/merged, which needs no adapter and no peft.

    python inferences/chat_merged.py --prompt "What a day!"
    python inferences/chat_merged.py                    asks on and on; an empty line ends it
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
import transformers

PROJECT = Path(__file__).resolve().parents[1]


def fill(template, tokenizer, history, text):
    """The prompt that training used: a conversation, or `text` in its column; for several columns, JSON: {"column": "text", ...}."""
    if template["kind"] == "chat":
        history.append({"role": "user", "content": text})
        return tokenizer.apply_chat_template(history, add_generation_prompt=True, tokenize=False)
    if not template["inputs"]:  # trained on free text: the answer goes on from it
        return template["prompt"].format() + text
    values = {template["inputs"][0]: text} if len(template["inputs"]) == 1 else json.loads(text)
    return template["prompt"].format(**values)


def answer(model, tokenizer, template, prompt, max_new_tokens, temperature):
    spelled = template["kind"] == "chat" or (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not spelled).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    streamer = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.eos_token_id, **sampling}
    output = model.generate(**inputs, streamer=streamer, **options)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "gen-model" / "merged")
    parser.add_argument("--prompt", help="one question; without it, you are asked")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(f"there is no model in {args.model}: run `phi-scaffold run` first, or name one with --model")
    template = json.loads((args.model / "prompt_template.json").read_text(encoding="utf-8"))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype="auto", device_map="auto").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    asked = ", ".join(template.get("inputs", ["you"])) or "text"
    history = []
    try:
        while text := args.prompt or input(f"{asked}: ").strip():
            prompt = fill(template, tokenizer, history, text)
            said = answer(model, tokenizer, template, prompt, args.max_new_tokens, args.temperature)
            history.append({"role": "assistant", "content": said})
            if args.prompt:
                break
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
