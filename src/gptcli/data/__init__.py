"""From a corpus to batches: sources -> documents -> split -> token shards -> batches. Knows no model."""
