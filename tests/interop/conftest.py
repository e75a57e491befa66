"""A tokenizer, models with lively weights, and transformers kept quiet: shared by the tests of interop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tokenizers
import torch
from tokenizers import normalizers, pre_tokenizers
from torch import nn

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.config import Config, dump_toml
from gptcli.interop.auto_tokenizer import QWEN2_SPLIT
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.storage import write_atomic
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    """Progress bars and advice off; Python warnings stay errors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))


@pytest.fixture(scope="session")
def beside(tokenizer) -> Callable[[dict], Tokenizer]:
    """The tokenizer to write beside a model with these slots: bytes, split so that Qwen2's class can stay."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    as_qwen2 = Tokenizer(backend)
    return lambda slots: as_qwen2 if slots.get("qkv_bias") else tokenizer


@pytest.fixture(scope="session")
def lively() -> Callable[[nn.Module], nn.Module]:
    """Redraw all weights, so that norms are not 1, biases not 0 and logits far apart: a swapped tensor must show."""

    def redraw(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, tensor in sorted(model.named_parameters()):
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(1 + 0.3 * noise if tensor.dim() == 1 else 1.5 * noise / max(tensor.shape[1], 1) ** 0.5)
        return model.eval()

    return redraw


@pytest.fixture(scope="session")
def our_model(tokenizer, lively) -> Callable[..., GPT]:
    """A small lively model of ours, of the tokenizer's vocabulary."""

    def build(**slots) -> GPT:
        sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 64, "n_layer": 3, "n_head": 4, "n_embd": 48}
        return lively(build_model(ModelConfig(**(sizes | slots))))

    return build


@pytest.fixture(scope="session")
def some_ids(tokenizer) -> torch.Tensor:
    """Token ids (2, 64): as long as the context of `our_model`."""
    return torch.randint(tokenizer.vocab_size, (2, 64), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_run(tokenizer, tmp_path) -> Callable[..., RunDirectory]:
    """make_run(model, config, losses, change, **parts) writes a run.

    It has a checkpoint for each step of `losses`, whose weights are `change(tensor, step)`, and whose other parts are
    `parts`.
    """

    def make(
        model: GPT,
        config: Config,
        losses: dict[int, float | None],
        change: Callable[[torch.Tensor, int], torch.Tensor],
        **parts: dict[str, torch.Tensor],
    ) -> RunDirectory:
        run = RunDirectory.create(tmp_path / "run")
        write_atomic(run.config_path, dump_toml(config))
        tokenizer.save(run.path)
        for step, val_loss in losses.items():
            tensors = {name: change(tensor, step) for name, tensor in model.state_dict().items()}
            save_checkpoint(run, step, {"model": tensors, **parts}, {"val_loss": val_loss})
        return run

    return make
