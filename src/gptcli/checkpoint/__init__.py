"""The on-disk form of a run: its checkpoints, metrics and lock. Knows tensors and JSON, no model and no config."""
