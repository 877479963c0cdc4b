"""Fine-tuning: batches, loss, trainer, checkpoints and diagnosis."""
