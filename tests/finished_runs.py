"""The settings of a tiny training that is done in a second."""

from __future__ import annotations

SETTINGS = (
    "model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.context_length=16", "data.tokenizer.name=char",
    "train.max_steps=6", "train.tokens_per_step=64", "train.batch_size=4", "train.eval_every_steps=3",
    "train.eval_tokens=128", "train.checkpoint_every_steps=3", "train.log_every_steps=1",
    "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip
