"""How good a model is: loss, perplexity and bits per byte, each token scored exactly once. Import from the modules."""
