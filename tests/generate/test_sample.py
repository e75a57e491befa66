"""What a stream takes out of a sample, against the sample's whole text."""

from __future__ import annotations

import random

import pytest

from gptcli.generate.config import SamplingParams
from gptcli.generate.sample import Sample, TokenText
from gptcli.tokenizer.tokenizer import Tokenizer

TEXT = "A na\u00efve caf\u00e9 \U0001f600 stands\n\nhere. STOP and more"


def sample(tokenizer: Tokenizer, stop: tuple[str, ...] = (), most: int = 10**6) -> Sample:
    return Sample(tokenizer, [65], SamplingParams(stop=stop, max_new_tokens=most, logprobs=1), stop_ids=[256])


def written(one: Sample, ids: list[int], seed: int) -> list[TokenText]:
    """Append ids to a request one after the other, and take what is certain now and then."""
    found, choose = [], random.Random(seed)
    for place, token in enumerate(ids):
        one.request.append(token, -float(place), [(token, -float(place))])
        if one.request.finish_reason is not None:
            break
        if choose.random() < 0.7:
            found += one.take()
    return [*found, *one.take()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [(), ("STOP",), ("\n\nhe", "zzz"), ("\u00e9",), ("more!", "and more")])
@pytest.mark.parametrize("ending", ["eot", "length"])
def test_the_pieces_are_the_text_and_its_tokens(
    tokenizer: Tokenizer, stop: tuple[str, ...], ending: str, seed: int
) -> None:
    ids = [*tokenizer.encode(TEXT), *([256] if ending == "eot" else [])]
    one = sample(tokenizer, stop, most=len(ids))
    found = written(one, ids, seed)
    completion = one.completion()
    cut = min((TEXT.index(string) for string in stop if string in TEXT), default=len(TEXT))
    assert "".join(piece.text for piece in found) == completion.text == TEXT[:cut]
    assert completion.finish_reason == ("stop" if cut < len(TEXT) else ending)
    tokens = [token for piece in found for token in piece.ids]
    assert tokens == ids[: len(tokens)] and tokens == list(completion.text.encode())
    assert [number for piece in found for number in piece.logprobs] == [-float(i) for i in range(len(tokens))]
    assert [piece.top_logprobs for piece in found] == [
        [[(token, number)] for token, number in zip(piece.ids, piece.logprobs, strict=True)] for piece in found
    ]
    for piece in found:
        assert piece.text == bytes(piece.ids).decode(), "a piece is whole characters of its own tokens"
    assert one.take() == []


def test_a_character_that_stays_incomplete_is_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    one = sample(tokenizer, most=3)
    assert [(piece.ids, piece.text) for piece in written(one, [97, 0xF0, 0x9F], 0)] == [
        ([97], "a"),
        ([0xF0, 0x9F], "\ufffd"),
    ]


def test_tokens_without_text_are_not_lost(tokenizer: Tokenizer) -> None:
    special = tokenizer.with_special_tokens(["<|a|>"])
    one = Sample(special, [65], SamplingParams(max_new_tokens=3))
    assert [(piece.ids, piece.text) for piece in written(one, [257, 97, 257], 1)] == [([257, 97], "a"), ([257], "")]


def test_a_stop_string_begins_within_a_token(tokenizer: Tokenizer) -> None:
    """Tokens of several characters: the token that holds the beginning of the stop string keeps the text before it."""
    from gptcli.tokenizer.config import BpeTokenizerConfig
    from gptcli.tokenizer.train import build_tokenizer

    pieces = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter(["end### end### end### end###"] * 9))
    ids = pieces.encode("end### and")
    assert pieces.decode(ids[:1]).startswith("end")
    one = Sample(pieces, [1], SamplingParams(stop=("##",)))
    found = written(one, ids, 0)
    assert "".join(piece.text for piece in found) == "end" and one.request.finish_reason == "stop"


def test_a_sample_that_goes_on_has_no_completion(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="goes on"):
        sample(tokenizer).completion()
