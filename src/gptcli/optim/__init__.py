"""Optimizers, learning-rate schedules and gradient clipping. Knows parameters and their kinds, no model and no file."""
