"""Olive's command lines: the flags of every version of Olive, and the configs that they describe."""
