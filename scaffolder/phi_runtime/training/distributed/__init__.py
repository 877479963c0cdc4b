"""Training in several processes through accelerate."""
