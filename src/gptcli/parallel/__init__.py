"""Training with several processes: the world they form, how a model is laid over it, and what starts them."""
