"""A tiny model, its engine's thread, and the application around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from gptcli.generate.config import EngineConfig, SamplingParams
from gptcli.generate.sample import Sample
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.serve.worker import EngineWorker, WorkerLimits
from gptcli.session import ModelRequest, Session
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

MakeSample = Callable[..., Sample]
MakeWorker = Callable[..., EngineWorker]
PROMPT = list(b"The cat sat on the mat.")


@pytest.fixture(scope="session")
def session() -> Session:
    """Untrained, with weights so large that every prompt goes on differently."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": 2048, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = build_model(ModelConfig(**shape, init_std=0.3), seed=3, dtype=torch.float32).eval()
    return Session(model, tokenizer, None, "tiny", request=ModelRequest("tiny", device="cpu"))


@pytest.fixture(scope="session")
def make_sample(session: Session) -> MakeSample:
    """A sample of so many tokens."""

    def make(count: int = 8, **settings: object) -> Sample:
        return Sample(session.tokenizer, PROMPT, SamplingParams(max_new_tokens=count, **settings))

    return make


@pytest.fixture
def make_worker(session: Session) -> Iterator[MakeWorker]:
    """A worker with its own limits, which ends with the test."""
    workers = []

    def make(slots: int = 4, queue: int = 8, seconds: float = 60.0) -> EngineWorker:
        worker = EngineWorker(session.engine(EngineConfig(rows=slots)), WorkerLimits(slots, queue, seconds))
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.close()
        assert worker.has_ended.wait(30)
