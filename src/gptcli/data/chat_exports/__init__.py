"""Chats that other programs export, as conversations for training."""
