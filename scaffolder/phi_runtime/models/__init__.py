"""Base models: brought into model-cache/, loaded, described."""
