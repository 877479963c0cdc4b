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


def fill(template, tokenizer, history, text):
    """The prompt that training used: a conversation, or `text` in its column; for several columns, JSON: {"column": "text", ...}."""
    if template["kind"] == "chat":
        history.append({"role": "user", "content": text})
        return tokenizer.apply_chat_template(json.dumps(history), template_str=template["chat_template"], add_generation_prompt=True)
    if not template["inputs"]:  # trained on free text: the answer goes on from it
        return template["prompt"].format() + text
    values = {template["inputs"][0]: text} if len(template["inputs"]) == 1 else json.loads(text)
    return template["prompt"].format(**values)


def answer(model, tokenizer, template, prompt, max_new_tokens, temperature):
    ids, bos = list(tokenizer.encode(prompt)), list(tokenizer.encode(""))
    if bos and (template["kind"] == "chat" or ids[: 2 * len(bos)] == bos + bos):
        ids = ids[len(bos) :]  # the prompt spells out the BOS that this tokenizer puts before every text
    params = og.GeneratorParams(model)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    params.set_search_options(max_length=len(ids) + max_new_tokens, **sampling)  # memory is reserved for max_length
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    stream, said = tokenizer.create_stream(), ""
    while not generator.is_done():
        generator.generate_next_token()
        if (token := generator.get_next_tokens()[0]) not in tokenizer.eos_token_ids:
            said += (piece := stream.decode(token))
            print(piece, end="", flush=True)
    print()
    return said


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
