"""Text to token ids and back: characters, bytes, BPE, and tokenizers made elsewhere. Knows no corpus, no model."""
