"""The frozen base model, packed batches, and the LoRA bank."""
