"""Data: from the sources of a corpus to documents, splits, token shards and batches."""
