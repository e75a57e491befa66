"""gptcli: train a GPT on your own text, generate from it, and know honestly how good it is."""

__version__ = "0.1.0"
