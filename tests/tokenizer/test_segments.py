"""Segments are encoded as the whole text is, with special tokens as tokens and cuts that no token crosses."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken

from chat_templates import byte_level, sentence_piece
from gptcli.errors import TokenizerError
from gptcli.tokenizer.segments import Segment
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

KINDS = ("byte level", "llama2", "first", "always")
WHOLE = "<s>user: Who is the miller?</s>\nassistant: The miller is old.</s> x</s></s>\n\n"


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return byte_level() if kind == "byte level" else sentence_piece(kind)


def segments_of(tokenizer: Tokenizer, text: str, cut: int | None = None) -> list[Segment]:
    """The special tokens of a text and the texts between them; the text after `cut` is in the loss."""
    names = sorted(tokenizer.segment_encoder.special_ids, key=len, reverse=True)
    place, segments, held = 0, list[Segment](), ""
    while place <= len(text):
        name = next((name for name in names if text.startswith(name, place)), None)
        if name or place == len(text) or place == cut:
            segments.append(Segment(held, False, cut is not None and place > cut))
            held = ""
        if name:
            segments.append(Segment(name, True, cut is not None and place >= cut))
            place += len(name)
        else:
            held += text[place : place + 1]
            place += 1
    return [segment for segment in segments if segment.text]


def whole_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The library's ids of the whole text with its special tokens."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    return list(backend.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_the_texts_between_them_have_the_ids_of_the_whole(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids, in_loss = tokenizer.encode_segments(segments_of(tokenizer, WHOLE))
    assert ids.tolist() == whole_ids(tokenizer, WHOLE) and not in_loss.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_that_no_token_crosses_changes_no_id(kind: str) -> None:
    tokenizer, expected = tokenizer_of(kind), whole_ids(tokenizer_of(kind), WHOLE)
    same = 0
    for cut in range(len("<s>"), WHOLE.index("</s>")):
        ids, in_loss = tokenizer.encode_segments(segments_of(tokenizer, WHOLE, cut))
        assert tokenizer.decode(ids) == tokenizer.decode(expected)
        before = whole_ids(tokenizer, WHOLE[:cut])
        assert ids[~in_loss].tolist() == before
        if expected[: len(before)] == before:
            same += ids.tolist() == expected
    assert same > 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_after_a_cut_does_not_begin_with_a_blank_of_its_own(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids, in_loss = tokenizer.encode_segments(
        [Segment("<s>", True, False), Segment("Who", False, False), Segment("is", False, True)]
    )
    assert tokenizer.decode(ids) == "Whois" and in_loss.tolist()[:2] == [False, False] and in_loss[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_looks_like_a_special_token_is_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids, _ = tokenizer.encode_segments([Segment("old</s>", False, True), Segment("</s>", True, True)])
    assert ids.tolist().count(tokenizer.eos_id) == 1 and len(ids) > 4
    assert tokenizer.decode(ids) == "old</s>"


def test_white_space_beside_a_special_token_is_taken_as_the_library_takes_it() -> None:
    backend = byte_level().backend
    backend.add_tokens(
        [AddedToken("<left>", special=True, lstrip=True), AddedToken("<right>", special=True, rstrip=True)]
    )
    tokenizer = Tokenizer(backend)
    text = "old \n<left> old <right> \n old<right><left>\n <right>\n\n<left>"
    ids, _ = tokenizer.encode_segments(segments_of(tokenizer, text))
    assert ids.tolist() == whole_ids(tokenizer, text)


def test_nothing_is_encoded_to_nothing() -> None:
    for segments in ([], [Segment("", False, True)]):
        ids, in_loss = tokenizer_of("byte level").encode_segments(segments)
        assert ids.shape == in_loss.shape == (0,)


def test_a_segment_that_is_no_special_token_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no special token '<other>'"):
        tokenizer_of("byte level").encode_segments([Segment("<other>", True, False)])


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_new_special_tokens_come_after_the_largest_id_and_are_kept(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Tokenizer = request.getfixturevalue(kind)
    names = ("<|im_start|>", "<|im_end|>", "<|im_start|>")
    grown = base.with_special_tokens(names)
    assert grown.vocab_size == base.vocab_size + 2 and grown.with_special_tokens(names) is grown
    assert (grown.bos_id, grown.eos_id, grown.framing) == (base.bos_id, base.eos_id, base.framing)
    grown.save(tmp_path)
    segments = [Segment("<|im_end|>", True, False), Segment("The <|im_end|>", False, True)]
    for tokenizer in (grown, load_tokenizer(tmp_path)):
        ids, _ = tokenizer.encode_segments(segments)
        assert ids.tolist() == [base.vocab_size + 1, *base.encode("The <|im_end|>")]
        assert tokenizer.encode("The <|im_end|>") == base.encode("The <|im_end|>")


def test_a_token_of_the_vocabulary_that_becomes_special_keeps_its_id() -> None:
    base = byte_level()
    name = next(token for token, id in base.backend.get_vocab().items() if id == 300)
    special = base.with_special_tokens([name])
    assert special.vocab_size == base.vocab_size and special.segment_encoder.special_ids[name] == 300


def test_a_special_token_without_a_name_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no name"):
        byte_level().with_special_tokens([" "])
