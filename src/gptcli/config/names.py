"""The key that a user means by a name of another section or another program: `learning_rate` is `optim.lr`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gptcli.config.base import Config, union_members

OTHER_NAMES = {
    "optim.lr": "learning_rate max_lr base_lr lr",
    "optim.name": "optimizer optimiser optim",
    "schedule.name": "scheduler lr_scheduler lr_scheduler_type lr_schedule decay",
    "schedule.warmup_steps": "warmup warmup_iters num_warmup_steps lr_warmup_steps",
    "schedule.min_lr": "min_learning_rate final_lr",
    "train.max_steps": "steps num_steps max_iters iters iterations num_iterations max_train_steps train_steps",
    "train.epochs": "num_epochs n_epochs num_train_epochs max_epochs",
    "train.patience": "early_stopping early_stopping_patience",
    "train.max_seconds": "max_time",
    "train.batch_size": "micro_batch_size device_batch_size per_device_train_batch_size batch bs",
    "train.tokens_per_step": "total_batch_size",
    "train.eval_every_steps": "eval_interval eval_every eval_steps val_every evaluation_steps",
    "train.log_every_steps": "log_interval log_every logging_steps",
    "train.checkpoint_every_steps": "save_steps save_every save_interval checkpoint_every always_save_checkpoint",
    "train.keep_last": "save_total_limit",
    "train.precision": "dtype mixed_precision bf16 fp16 amp",
    "train.grad_clip": "clip gradient_clip max_grad_norm grad_norm_clip",
    "train.activation_checkpointing": "gradient_checkpointing checkpoint_activations",
    "train.trackers": "report_to tracker logger wandb tensorboard wandb_log",
    "train.init_from": "pretrained model_name_or_path",
    "model.context_length": "block_size context ctx n_ctx context_size max_seq_len max_seq_length sequence_length",
    "model.n_layer": "layers num_layers depth num_hidden_layers n_layers",
    "model.n_head": "heads num_heads num_attention_heads n_heads",
    "model.n_embd": "n_embed embed_dim embedding_dim hidden_size hidden_dim dim d_model width",
    "data.tokenizer.vocab_size": "vocab_size vocab vocabulary_size",
    "data.tokenizer": "tokenizer tokenizer_name",
    "data.text_field": "text_column column field",
    "data.val_fraction": "val_split validation_split val_size",
    "data.val": "validation_file val_file eval_data",
    "data.document_separator": "separator delimiter",
    "data.encoding_errors": "errors",
    "data.loss_on": "train_on_inputs mask_prompt assistant_only_loss completion_only_loss",
    "parallel.strategy": "strategy",
    "seed": "random_seed",
}
"""Keys, and their names in other programs (nanoGPT, nanochat, litgpt, transformers). A name in this table means its key
even if a key of another section has the same name."""


def key_paths(kind: type[Config], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of `kind` and of the tables in it, including every member of tagged unions."""
    for name, information in kind.model_fields.items():
        yield f"{prefix}{name}"
        for member in union_members(information.annotation):
            if isinstance(member, type) and issubclass(member, Config):
                yield from key_paths(member, f"{prefix}{name}.")


def with_present_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration from a file under the keys of this version.

    `model.activation_checkpointing = true` of earlier versions is `train.activation_checkpointing = "full"`.
    """
    model, train = values.get("model"), values.get("train", {})
    if not (isinstance(model, Mapping) and isinstance(train, Mapping) and "activation_checkpointing" in model):
        return dict(values)
    moved = dict(model)
    if moved.pop("activation_checkpointing") is True and train.get("activation_checkpointing", "none") == "none":
        train = {**train, "activation_checkpointing": "full"}
    return {**values, "model": moved} | ({"train": train} if train else {})


def key_named(kind: type[Config], name: str) -> str | None:
    """Return the key of `kind` that is meant by `name`, a word without a section, or None.

    Case and the difference between hyphens and underscores are ignored.
    """
    word = name.lower().replace("-", "_")
    keys = list(dict.fromkeys(key_paths(kind)))
    for key, others in OTHER_NAMES.items():
        if word in others.split() and key in keys:
            return key
    return next((key for key in keys if key.rpartition(".")[2] == word), None)
