"""The corpus of short stories in `data/`: a grammar, an engine, and the exact entropy."""
