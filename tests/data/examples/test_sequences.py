"""Rows of whole examples: each once in an epoch, none across a row, and only the tokens of the mask as targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptcli.data.batches import Batches
from gptcli.data.examples.sequences import ExampleSequences
from gptcli.data.token_mix import TokenMix
from gptcli.errors import DataError
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.nn.loss import IGNORE_INDEX

SEQ_LEN = 24


def examples_of(count: int, seed: int = 0, longest: int = SEQ_LEN + 1) -> list[tuple[list[int], list[bool]]]:
    """Examples of 2 to `longest` distinct ids, whose last token is in the loss."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, count)
    masks = [[False, *(generator.random(n - 2) < 0.5).tolist(), True] for n in lengths]
    return [(generator.permutation(300)[:n].tolist(), mask) for n, mask in zip(lengths, masks, strict=True)]


def runs(batch) -> list[tuple[list[int], list[int]]]:
    """Return (input ids, targets) of each run of one segment, without the padding."""
    found = []
    for ids, targets, segments in zip(*(tensor.tolist() for tensor in batch.model_inputs), strict=True):
        for number in range(segments[-1] + 1):
            places = [place for place, one in enumerate(segments) if one == number]
            assert places == list(range(places[0], places[-1] + 1))
            if any(targets[place] != IGNORE_INDEX for place in places):
                found.append(([ids[place] for place in places], [targets[place] for place in places]))
    return found


def test_an_epoch_shows_every_example_once_and_whole(write_examples) -> None:
    examples = examples_of(100)
    batches = Batches(TokenMix.of_one(write_examples(examples)), SEQ_LEN, seed=3, pack="example")
    expected = sorted(
        (ids[:-1], [id if bit else IGNORE_INDEX for id, bit in zip(ids[1:], mask[1:], strict=True)])
        for ids, mask in examples
    )
    rows = batches.sequences_per_epoch
    orders = []
    for epoch in (0, 1, 9):
        batch = batches.sequences(range(epoch * rows, (epoch + 1) * rows))
        assert batch.input_ids.shape == (rows, SEQ_LEN)
        assert sorted(runs(batch)) == expected
        orders.append(batch.input_ids)
    assert not torch.equal(orders[0], orders[1])
    assert rows <= sum(len(ids) - 1 for ids, _ in examples) / SEQ_LEN * 1.1 + 1


def test_sequences_do_not_depend_on_how_they_are_grouped(write_examples) -> None:
    batches = Batches(TokenMix.of_one(write_examples(examples_of(60))), SEQ_LEN, seed=1, pack="example")
    whole = batches.sequences(range(90))
    single = [batches.sequences([index]) for index in range(90)]
    for name in ("input_ids", "targets", "segment_ids"):
        assert torch.equal(torch.cat([getattr(part, name) for part in single]), getattr(whole, name))


def test_padding_is_not_read(write_examples) -> None:
    sequences = ExampleSequences(write_examples([([5, 6, 7], [False, False, True])]), SEQ_LEN, seed=0)
    assert sequences.batch([0]).ids_read().tolist() == [5, 6]


def test_a_pair_of_documents_stays_in_one_row(write_examples) -> None:
    examples = examples_of(40, longest=SEQ_LEN // 2 + 1)
    sequences = ExampleSequences(write_examples(examples, unit_documents=2), SEQ_LEN, seed=0)
    seen = []
    for row in range(sequences.sequences_per_epoch):
        documents = np.array([document.number for document in sequences.documents(row)])
        assert np.array_equal(documents[::2] + 1, documents[1::2]) and not (documents[::2] % 2).any()
        assert len(runs(sequences.batch([row]))) == len(documents)
        seen += documents.tolist()
    assert sorted(seen) == list(range(40))


def test_an_example_longer_than_a_sequence_is_an_error(write_examples) -> None:
    shards = write_examples([(list(range(26)), [False] * 25 + [True])])
    assert ExampleSequences(shards, 25, seed=0).batch([0]).targets[0, -1] == 25
    with pytest.raises(DataError, match="26 tokens, more than a sequence of 24"):
        ExampleSequences(shards, 24, seed=0)


SHAPES = {
    "rope": {},
    "learned": {"position": "learned"},
    "windows": {"window_pattern": (4, 0), "n_kv_head": 2},
    "bigrams": {"smear": True, "bigram_buckets": 100},
}


@pytest.mark.parametrize("attention", ["fast", "reference"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_packed_example_has_the_logits_and_the_loss_that_it_has_alone(write_examples, shape, attention) -> None:
    """In fp32; the loss is a plain cross-entropy of each example over the tokens of its mask."""
    size = {"vocab_size": 300, "context_length": SEQ_LEN, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_std": 0.2}
    model = build_model(ModelConfig(**size, attention=attention, **shape), seed=0)
    with torch.no_grad():
        for info in model.parameter_infos():  # those that start at zero would hide their part
            if not info.tensor.any():
                info.tensor.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    examples = examples_of(8)
    sequences = ExampleSequences(write_examples(examples), SEQ_LEN, seed=0)
    batch = sequences.batch(range(len(sequences.rows)))
    logits = model(batch.input_ids, segment_ids=batch.segment_ids)
    total = 0.0
    for row in range(len(sequences.rows)):
        start = 0
        for document in sequences.documents(row):
            ids, mask = (torch.tensor(part) for part in examples[document.number])
            alone = model(ids[None, :-1])[0]
            torch.testing.assert_close(logits[row, start : start + len(alone)], alone, rtol=0, atol=1e-5)
            nats = torch.nn.functional.cross_entropy(alone, ids[1:], reduction="none")
            total += nats[mask[1:]].sum().item()
            start += len(alone)
    assert model.loss_sum(*batch.model_inputs).item() == pytest.approx(total, rel=1e-5)
