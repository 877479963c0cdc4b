"""Base models: download to model-cache/, load, describe."""
