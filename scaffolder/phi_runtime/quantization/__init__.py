"""Weights that lose less when they are stored in few bits."""
