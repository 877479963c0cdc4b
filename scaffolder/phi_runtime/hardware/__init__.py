"""Cores, memory, GPUs and number types of this machine, read without importing torch."""
