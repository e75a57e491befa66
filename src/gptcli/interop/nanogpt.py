"""nanoGPT's checkpoints (`ckpt.pt`): GPT-2's names, plain matrices, and the shape in a table beside them."""

from __future__ import annotations

import torch

from gptcli.errors import CheckpointError
from gptcli.interop.gpt2 import GPT2
from gptcli.interop.pickles import Pickled
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model

MODEL = "model/"
COMPILED = "_orig_mod."
"""What torch.compile puts before a name."""


def read_nanogpt(pickled: Pickled, source: str) -> GPT:
    """The model, in evaluation mode, in fp32.

    Raises:
        CheckpointError: this is no checkpoint of nanoGPT, or its tensors are not those of its own description.
    """
    args = pickled.rest.get("model_args")
    if not isinstance(args, dict):
        raise CheckpointError(f"{source} has no model_args", "it is not a checkpoint of nanoGPT's train.py")
    missing = [
        key for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size") if type(args.get(key)) is not int
    ]
    if missing:
        raise CheckpointError(f"{source}: model_args has no whole number {missing[0]}", "it is damaged")
    config = ModelConfig(
        vocab_size=args["vocab_size"],
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        n_embd=args["n_embd"],
        context_length=args["block_size"],
        norm="layernorm",
        norm_eps=1e-5,
        position="learned",
        mlp="gelu",
        qk_norm=False,
        bias=bool(args.get("bias", True)),
        tie_embeddings=True,
    )
    given = {
        name.removeprefix(MODEL).removeprefix(COMPILED): tensor
        for name, tensor in pickled.tensors.items()
        if name.startswith(MODEL)
    }
    model = build_model(config, device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {}
    for mapped in GPT2.map_tensors(config, shapes):
        (theirs,) = mapped.theirs
        tensor = given.pop(theirs, None)
        if tensor is None or tuple(tensor.shape) != shapes[mapped.ours]:
            found = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise CheckpointError(f"{source}: {theirs} {found}, should be {shapes[mapped.ours]}", "it is damaged")
        state[mapped.ours] = tensor.to(torch.float32)
    head = given.pop("lm_head.weight", None)  # stored a second time
    unknown = sorted(name for name in given if not name.endswith(".attn.bias"))
    if unknown or (head is not None and not torch.equal(head.float(), state["embedding.weight"])):
        raise CheckpointError(f"{source}: {unknown[0] if unknown else 'lm_head.weight'} is not of nanoGPT's model")
    model.load_state_dict(state, assign=True)
    return model.eval()
