"""Your own functions over the rows of the data, and in training. `phi-scaffold run` and `data check` call those defined here.

A row is a dict of its columns, such as {"phrase": "What a day!", "tone": "joy"}. A change of this file makes anew what was made with
it. Other modules in this folder can be imported.
"""

from typing import Any

Row = dict[str, Any]

# Remove the `# ` to use one:
#
# def transform(row: Row) -> Row | None:
#     """The row as it is to be trained on, with other values or columns; None leaves it out."""
#     row["phrase"] = row["phrase"].strip()
#     return row
#
#
# def filter(row: Row) -> bool:
#     """Whether the row, as `transform` left it, is used."""
#     return len(row["phrase"]) < 500
#
#
# def metrics(predictions: list[str], references: list[str]) -> dict[str, float]:
#     """Measured of the held-out answers whenever the held-out loss is; training_args.metric_for_best_model can name one of them."""
#     right = sum(p.lower() == r.lower() for p, r in zip(predictions, references))
#     return {"right": right / len(references)}
#
#
# def loss(model_output: Any, batch: dict[str, Any]) -> Any:
#     """Instead of the cross-entropy: one number, the mean over a batch.
#
#     model_output.logits is (rows, tokens, vocabulary), model_output.hidden_states has (rows, tokens, hidden) for each layer;
#     batch has input_ids and labels (rows, tokens), -100 where a token is not trained.
#     """
#     import torch
#
#     logits, wanted = model_output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
#     return torch.nn.functional.cross_entropy(logits.float(), wanted, ignore_index=-100)
