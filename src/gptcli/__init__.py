"""gptcli: train a GPT on your own text, generate from it, and measure how good it is."""

__version__ = "0.1.0"
