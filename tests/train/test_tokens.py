"""Training on tokens that another program wrote is training on the text that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from data_files import write_rows
from gptcli.data.shards import TokenShards
from gptcli.errors import DataError
from gptcli.evaluate.requests import TextsRequest, evaluate_texts
from gptcli.session import ModelRequest
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.run import TrainRequest, train

SETTINGS = (
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "train.max_steps=6",
    "train.tokens_per_step=64", "train.batch_size=2", "train.eval_every_steps=3", "train.checkpoint_every_steps=3",
    "optim.name=adamw", "optim.lr=0.01", "schedule.warmup_steps=1", "data.tokenizer=byte", "device=cpu",
)  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """One corpus with one to validate on, as rows and as nanoGPT's files."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    texts = [f"line {n}: the {('cat', 'dog', 'owl')[n % 3]} counts {n * n}." for n in range(120)]
    for name, part in (("train", texts[:100]), ("val", texts[100:])):
        write_rows(tmp_path / f"{name}.jsonl", part)
        ids = [id for text in part for id in (tokenizer.eos_id, *tokenizer.encode(text))]
        (tmp_path / f"{name}.bin").write_bytes(np.array(ids, dtype="<u2").tobytes())
    return tmp_path / "train.jsonl", tmp_path / "train.bin"


def test_the_weights_are_those_of_a_training_on_the_text(sources: tuple[Path, Path], tmp_path: Path) -> None:
    text, tokens = sources
    summaries = [
        train(TrainRequest((str(source),), assignments=(*SETTINGS, *more), out=tmp_path / source.suffix[1:]))
        for source, more in ((text, (f"data.val={tmp_path / 'val.jsonl'}",)), (tokens, ()))
    ]
    for key in ("val_loss", "val_bits_per_byte", "train_loss", "tokens", "parameters"):
        assert summaries[0][key] == summaries[1][key]
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("jsonl", "bin")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_run_on_tokens_is_resumed_and_evaluated_without_them(sources: tuple[Path, Path], tmp_path: Path) -> None:
    _, tokens = sources
    run = tmp_path / "run"
    train(TrainRequest((str(tokens),), assignments=SETTINGS, out=run))
    train(TrainRequest(assignments=("train.max_steps=8",), out=run, resume=True))
    tokens.unlink()
    (tmp_path / "val.bin").unlink()
    evaluation = evaluate_texts(TextsRequest(ModelRequest(str(run), device="cpu"))).evaluation
    assert evaluation.totals.bytes == TokenShards.open(run / "val").bytes


def test_a_time_budget_asks_for_the_text(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train on it by steps, without --time"):
        train(
            TrainRequest(
                (str(sources[1]),), assignments=("data.tokenizer=byte",), out=tmp_path / "run", max_seconds=600
            )
        )
