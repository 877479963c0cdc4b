"""Chat with the ONNX model in gen-model/onnx. Carry that folder and this file anywhere: onnxruntime-genai is all they need.

    python inferences/chat_onnx.py [--prompt "What a day!"]      without a prompt it asks; an empty line ends it
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime_genai as og

PROJECT = Path(__file__).resolve().parents[1]


def fill(template, text):
    """The prompt that training used. `text` is the value of its column; for several columns, JSON: {"column": "text", ...}."""
    if not template["inputs"]:  # trained on free text: the answer goes on from it
        return template["prompt"].format() + text
    values = {template["inputs"][0]: text} if len(template["inputs"]) == 1 else json.loads(text)
    return template["prompt"].format(**values)


def answer(model, tokenizer, prompt, max_new_tokens, temperature):
    ids = tokenizer.encode(prompt)
    params = og.GeneratorParams(model)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    params.set_search_options(max_length=len(ids) + max_new_tokens, **sampling)  # memory is reserved for max_length
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    stream = tokenizer.create_stream()
    while not generator.is_done():
        generator.generate_next_token()
        if (token := generator.get_next_tokens()[0]) not in tokenizer.eos_token_ids:
            print(stream.decode(token), end="", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "gen-model" / "onnx")
    parser.add_argument("--prompt", help="one question; without it, you are asked")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    if not (args.model / "genai_config.json").is_file():
        parser.error(f"there is no ONNX model in {args.model}: run `phi-scaffold run` first, or name one with --model")
    template = json.loads((args.model / "prompt_template.json").read_text(encoding="utf-8"))
    tokenizer = og.Tokenizer(model := og.Model(str(args.model)))
    try:
        while text := args.prompt or input((", ".join(template["inputs"]) or "text") + ": ").strip():
            answer(model, tokenizer, fill(template, text), args.max_new_tokens, args.temperature)
            if args.prompt:
                break
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
