"""Chat with the adapter in gen-model/adapter, on its base model.

python inferences/chat_adapter.py --prompt "What a day!"
python inferences/chat_adapter.py                         prompts until an empty line
"""

import warnings
from pathlib import Path

from chat_merged import MergedChat
from chat_onnx import run

PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "gen-model" / "adapter"


class AdapterChat(MergedChat):
    """A base model with its adapter, run by PEFT."""

    def load(self, folder):
        import peft
        import safetensors

        warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, about PEFT
        named = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
        base = Path(named)
        if not base.is_dir():  # the project was moved
            base = PROJECT / named[max(named.rfind("model-cache"), 0) :]
        if not base.is_dir():
            raise ValueError(f"the base model of the adapter, {named}, is missing: run `phi-scaffold fetch`")
        model = super().load(base)
        try:
            model = peft.PeftModel.from_pretrained(model, folder)
        except (RuntimeError, ValueError) as e:
            raise ValueError(f"the adapter in {folder} does not fit {base}: {e}") from None
        with safetensors.safe_open(folder / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
        # With "auto", PEFT looks the base model up on the Hub. Embeddings may be stored with the adapter.
        own, more = (
            set(peft.get_peft_model_state_dict(model, save_embedding_layers=embeddings)) for embeddings in (False, True)
        )
        if mismatched := own - stored | stored - more:
            raise ValueError(f"the adapter in {folder} does not fit {base}: {min(mismatched)} is only in one of them")
        return model


if __name__ == "__main__":
    run(AdapterChat, MODEL, "adapter_config.json", __doc__)
