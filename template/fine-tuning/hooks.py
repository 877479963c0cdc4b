"""Your functions over rows and training. `phi-scaffold run` and `data check` call those that are defined here, by name.

    transform(row) -> dict | None                    the row to train on; None skips it
    filter(row) -> bool                              True keeps the row; runs after `transform`
    metrics(predictions, references) -> dict         scores of the answers by name: a number, or a list of one per row
    loss(model_output, batch) -> scalar tensor       replaces the cross-entropy: the mean over a batch

A row is a dict of its columns. After a change of this file, the next run rebuilds what depends on it. Other modules of this
folder can be imported. An example:

    def transform(row):
        row["phrase"] = row["phrase"].strip()
        return row
"""
