"""The corpus of short stories in `data/`: a grammar, an engine that tells from it, and the corpus with its exact entropy."""
