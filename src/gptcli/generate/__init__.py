"""Text from a trained model: pure sampling functions, an engine that knows ids only, a streamer that knows text.

Takes a model and a tokenizer that are already loaded, never a path.
"""
