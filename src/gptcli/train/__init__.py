"""The trainer: from a resolved configuration to a run directory that holds a trained model."""
