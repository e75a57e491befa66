"""Text from a trained model: pure sampling functions, an engine on ids, and a streamer from ids to text.

Model and tokenizer are loaded elsewhere; nothing here takes a path.
"""
