"""Cross-field rules of a config; they may look at data and models."""
