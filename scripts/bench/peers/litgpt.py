"""litgpt as a contender: its GPT in the nearest possible shape, with its pretraining's loss and optimizer."""

from __future__ import annotations

import torch

from bench.training_step import plain_step
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.nn.device import allow_tf32
from gptcli.report.bench.decoding_rounds import DTYPES, decoding_contender
from gptcli.report.bench.jobs import DecodingJob, TrainingJob
from gptcli.report.bench.models import read_config
from gptcli.report.bench.training_rounds import random_batch, run_config, training_contender
from gptcli.report.bench.worker import Contender

MLPS = {"gelu": ("GptNeoxMLP", "none"), "gelu_tanh": ("GptNeoxMLP", "tanh"), "swiglu": ("LLaMAMLP", "none")}


def train(job: TrainingJob) -> Contender:
    from litgpt.utils import chunked_cross_entropy

    config = run_config(job)
    allow_tf32(config.train.tf32)
    model, note = build(config.model)
    model = model.to(job.device).train()
    # Its `pretrain` uses the fused kernel on CUDA only.
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, fused=job.device.startswith("cuda"))
    forward = torch.compile(model) if config.train.compile else model
    input_ids, targets = random_batch(config, job.device)
    step = plain_step(model, optimizer, lambda: chunked_cross_entropy(forward(input_ids), targets), job)
    return training_contender(step, model, job, note)


def generate(job: DecodingJob) -> Contender:
    from litgpt.generate.base import batched_generate_fn
    from litgpt.generate.base import generate as generate_one

    model, _ = build(read_config(job.directory))
    model = model.to(job.device, DTYPES[job.numbers]).eval()
    model.max_seq_length = len(job.prompts[0]) + job.new_tokens
    rows = 0

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        nonlocal rows
        if len(prompts) != rows:
            rows = len(prompts)
            model.clear_kv_cache()
            model.set_kv_cache(batch_size=rows, device=torch.device(job.device))
        input_ids, end = torch.tensor(prompts, device=job.device), len(prompts[0]) + count
        if rows == 1:
            return [generate_one(model, input_ids[0], end, temperature=0.0, include_prompt=False).tolist()]
        greedy = {"temperature": 0.0, "top_k": None, "top_p": 1.0}
        steps = batched_generate_fn(model, input_ids, end, sample_args=greedy, include_prompt=False, include_eos=True)
        return torch.stack([torch.cat(tokens) for tokens in steps], dim=1).tolist()

    return decoding_contender(continue_prompts, job, same_weights=False)


def build(config: ModelConfig) -> tuple[torch.nn.Module, str]:
    """Return litgpt's model of these sizes with random weights, and a description of how it differs.

    Raises:
        UsageError: litgpt has no such MLP.
    """
    import litgpt

    if config.mlp not in MLPS:
        raise UsageError(f"litgpt has no {config.mlp} MLP")
    mlp, approximation = MLPS[config.mlp]
    turned = config.rotary_fraction if config.position == "rope" else 0.0
    shape = litgpt.Config(
        name="bench",
        block_size=config.context_length,
        vocab_size=config.vocab_size,
        padded_vocab_size=config.vocab_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_query_groups=config.kv_heads,
        n_embd=config.n_embd,
        head_size=config.head_width,
        intermediate_size=config.mlp_width,
        norm_class_name={"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}[config.norm],
        norm_eps=config.norm_eps,
        norm_qk=config.qk_norm,
        parallel_residual=config.parallel_residual,
        rotary_percentage=turned,
        rope_base=int(config.rope_theta),
        mlp_class_name=mlp,
        gelu_approximate=approximation,
        bias=config.bias,
        attn_bias=config.bias,
    )
    differences = ["untied head"] * config.tie_embeddings + ["no positions"] * (config.position == "learned")
    return litgpt.GPT(shape), ", ".join(differences)
