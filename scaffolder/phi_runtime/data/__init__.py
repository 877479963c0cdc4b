"""From a data file to the exact tokens that are trained on. No module here imports an ML library; tokenizers are handed in."""
