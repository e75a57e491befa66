"""Measures of a model: loss, perplexity and bits per byte, each token scored exactly once. Import from the modules."""
