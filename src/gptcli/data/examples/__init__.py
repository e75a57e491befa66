"""Examples for fine-tuning: conversations and completions as tokens with a loss mask, packed whole into sequences."""
