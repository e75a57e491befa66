"""Log-probabilities of continuations against one full forward for each, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptcli.errors import OutOfMemoryError
from gptcli.evaluate.continuations import BatchLimits, Continuation, batches, score_continuations
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.state import ForwardState

SHAPE = {"vocab_size": 31, "context_length": 48, "n_layer": 2, "n_head": 2, "n_embd": 16, "init_std": 0.5}
MODELS = {
    "rope": {},
    "learned positions": {"position": "learned"},
    "neighbours": {"smear": True, "bigram_buckets": 32},
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> GPT:
    built = build_model(ModelConfig(**SHAPE, **MODELS[request.param]), dtype=torch.float64).eval()
    with torch.no_grad():  # what neighbours add begins at 0, which would hide a wrong neighbour
        for name, tensor in built.named_parameters():
            if name.startswith(("smear.", "bigram.")):
                tensor.normal_(generator=torch.Generator().manual_seed(1))
    return built


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(SHAPE["vocab_size"], size=count).tolist())


@pytest.fixture(scope="module")
def continuations() -> list[Continuation]:
    """Questions with several answers after one long beginning, some alone, some longer than the context."""
    beginning = random_ids(20, 0)
    found = []
    for question in range(5):
        context = (*beginning, *random_ids(question + 1, 10 + question))
        found += [Continuation(context, random_ids(length, 100 * question + length)) for length in (1, 1, 3, 7)]
        found.append(Continuation(context, found[-1].ids))
    found += [Continuation((3,), random_ids(48, 7)), Continuation((5,), (6,)), Continuation(random_ids(60, 8), (1, 2))]
    found += [Continuation(random_ids(47, 9), random_ids(30, 9)), Continuation(random_ids(40, 5), random_ids(9, 5))]
    return found


def expected_score(model: GPT, context: tuple[int, ...], ids: tuple[int, ...]) -> tuple[float, bool]:
    window = (*context, *ids)[-(SHAPE["context_length"] + 1) :]
    with torch.no_grad():
        logprobs = model(torch.tensor([window[:-1]]))[0].log_softmax(-1)[-len(ids) :]
    target = torch.tensor(ids)
    return logprobs.gather(1, target[:, None]).sum().item(), bool((logprobs.argmax(-1) == target).all())


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_scores_are_those_of_one_forward_for_each(
    model: GPT, continuations: list[Continuation], batch_size: int | None
) -> None:
    counted: list[int] = []
    found = score_continuations(model, continuations, batch_size=batch_size, on_scored=counted.append)
    assert sum(counted) == len(continuations)
    for continuation, score in zip(continuations, found, strict=True):
        logprob, is_greedy = expected_score(model, *continuation)
        assert score.logprob == pytest.approx(logprob, abs=1e-9)
        assert score.is_greedy == is_greedy


def test_what_the_model_itself_would_say_is_greedy(model: GPT) -> None:
    ids = list(random_ids(4, 3))
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    other = (*ids[4:6], (ids[6] + 1) % SHAPE["vocab_size"])
    contexts = [Continuation(tuple(ids[:4]), tuple(ids[4:])), Continuation(tuple(ids[:4]), other)]
    assert [score.is_greedy for score in score_continuations(model, contexts)] == [True, False]


def test_a_context_is_read_once_for_all_its_continuations(
    model: GPT, continuations: list[Continuation], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = type(model).hidden_states

    def counted(self: GPT, state: ForwardState) -> torch.Tensor:
        read.append(state.input_ids.numel())
        return forward(self, state)

    monkeypatch.setattr(type(model), "hidden_states", counted)
    context = random_ids(40, 0)
    score_continuations(model, [Continuation(context, (token, token)) for token in range(10)])
    assert sum(read) == 39 + 10 * 2


def test_a_batch_that_does_not_fit_is_halved(
    model: GPT, continuations: list[Continuation], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score_continuations(model, continuations)
    forward = type(model).forward

    def tight(self: GPT, input_ids: torch.Tensor, **named: object) -> torch.Tensor:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("too many rows")
        return forward(self, input_ids, **named)

    monkeypatch.setattr(type(model), "forward", tight)
    found = score_continuations(model, continuations)
    assert [score.logprob for score in found] == pytest.approx([score.logprob for score in expected], abs=1e-9)
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(OutOfMemoryError, match="one sequence of"):
        score_continuations(model, continuations)


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_of_a_cpu(model: GPT, continuations: list[Continuation]) -> None:
    expected = score_continuations(model, continuations)
    try:
        found = score_continuations(model.cuda(), continuations)
    finally:
        model.cpu()
    assert [score.logprob for score in found] == pytest.approx([score.logprob for score in expected], abs=1e-9)
    assert [score.is_greedy for score in found] == [score.is_greedy for score in expected]


def test_batches_keep_to_their_limits() -> None:
    limits = BatchLimits(rows=4, tokens=60, scored=12, width=20)
    wanted = {tuple(range(head)): {(tail,) * (1 + tail % 4): [0] for tail in range(9)} for head in (0, 3, 9, 16)}
    made = batches(wanted, limits)
    assert sum(len(group.tails) for batch in made for group in batch) == 4 * 9
    assert all(limits.hold(batch) for batch in made)
    assert len(made) < 4 * 9
