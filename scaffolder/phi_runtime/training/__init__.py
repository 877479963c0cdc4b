"""What LoRA, QLoRA and full fine-tuning share."""
