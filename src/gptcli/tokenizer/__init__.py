"""Tokenizers: characters, bytes, BPE, and tokenizers from other programs."""
