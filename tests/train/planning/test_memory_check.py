"""A training that does not fit is refused before anything is made, and --force tries it anyway."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptcli.errors import OutOfMemoryError
from gptcli.models.config import ModelConfig
from gptcli.nn.device import machine_memory_bytes
from gptcli.train import run
from gptcli.train.config import RunConfig, TrainerConfig
from gptcli.train.planning import memory_check
from gptcli.train.planning.memory_check import require_memory
from gptcli.train.run import TrainRequest, train

CPU = torch.device("cpu")
SMALL = (
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "train.tokens_per_step=64",
    "train.batch_size=2", "train.max_steps=2", "data.tokenizer.name=byte", "device=cpu",
)  # fmt: skip


def config(tokens_per_step: int) -> RunConfig:
    train = TrainerConfig(tokens_per_step=tokens_per_step)
    return RunConfig(model=ModelConfig(context_length=16, vocab_size=8), train=train)


def test_what_needs_more_than_there_is_is_refused_with_both_numbers() -> None:
    there_is = machine_memory_bytes(CPU)
    require_memory(config(64), there_is, CPU)
    with pytest.raises(OutOfMemoryError, match=r"training needs about .* and cpu has .*--force"):
        require_memory(config(64), there_is + 1, CPU)
    with pytest.raises(OutOfMemoryError, match=r"a step of 16,000,000,000,000 tokens needs 256 TB .*--force"):
        require_memory(config(16 * 10**12), 0, CPU)


def test_nothing_is_built_of_what_does_not_fit_unless_it_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"line {n} of {n * n}\n" for n in range(500)))
    monkeypatch.setattr(memory_check, "machine_memory_bytes", lambda device: 1000)
    request = TrainRequest((str(corpus),), assignments=SMALL, out=tmp_path / "run", cache_dir=tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(run.Plan, "new_model", lambda plan: pytest.fail("it was built"))
        with pytest.raises(OutOfMemoryError, match="--force"):
            train(request)
        assert not (tmp_path / "run").exists()
        dry = TrainRequest(
            request.corpus, assignments=SMALL, out=tmp_path / "run", dry_run=True, cache_dir=tmp_path / "cache"
        )
        assert train(dry)["estimated_train_seconds"] is None
    forced = TrainRequest(
        request.corpus, assignments=SMALL, out=tmp_path / "run", force=True, cache_dir=tmp_path / "cache"
    )
    assert train(forced)["steps"] == 2
