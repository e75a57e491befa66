"""The stream of text against the definition: all text up to the first stop string, and nothing that must be undone."""

from __future__ import annotations

import random

import pytest

from gptcli.generate.streamer import TextStream


class Pieces:
    """Stands in for a tokenizer: token i is the i-th string, and decoding is joining."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def decode_stream(self) -> Pieces:
        return self

    def step(self, token: int) -> str:
        return self.pieces[token]

    def finish(self) -> str:
        return ""


def streamed(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    """What the stream gives for each piece and at the end, and whether it stopped."""
    stream = TextStream(Pieces(pieces), stop)
    given = []
    for token in range(len(pieces)):
        given.append(stream.step(token))
        if stream.stopped:
            break
    return [*given, stream.finish()], stream.stopped


def defined(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    """The text before the first stop string that is in it once enough pieces have come; otherwise all of it."""
    text = ""
    for piece in pieces:
        text += piece
        places = [text.find(string) for string in stop if string in text]
        if places:
            return text[: min(places)], True
    return text, False


def test_stop_strings_are_found_wherever_the_pieces_break() -> None:
    chance = random.Random(4)
    stopped_count = 0
    for _ in range(3000):
        pieces = ["".join(chance.choices("ab", k=chance.randint(0, 3))) for _ in range(12)]
        stop = ["".join(chance.choices("ab", k=chance.randint(1, 7))) for _ in range(chance.randint(0, 3))]
        given, stopped = streamed(pieces, stop)
        assert ("".join(given), stopped) == defined(pieces, stop)
        stopped_count += stopped
        if not stopped:
            so_far = [len("".join(pieces[: i + 1])) - len("".join(given[: i + 1])) for i in range(12)]
            assert max(so_far) < max([len(string) for string in stop], default=1), "held back more than could stop"
    assert 500 < stopped_count < 2500


def test_text_is_not_held_back_without_stop_strings() -> None:
    assert streamed(["Once", " upon", " a"], []) == (["Once", " upon", " a", ""], False)


def test_prefix_of_a_stop_string_is_printed_once_it_cannot_continue() -> None:
    assert streamed(["one\n", "\n", "two"], ["\n\n\n"]) == (["one", "", "\n\ntwo", ""], False)


def test_what_is_held_at_the_end_is_text() -> None:
    assert streamed(["a", "ST"], ["STOP"]) == (["a", "", "ST"], False)


@pytest.mark.parametrize("pieces", [["abSTOPcd"], ["abS", "TOP", "cd"], ["ab", "ST", "OPcd"]])
def test_nothing_of_a_stop_string_or_after_it_is_given(pieces: list[str]) -> None:
    given, stopped = streamed(pieces, ["STOP"])
    assert ("".join(given), stopped) == ("ab", True)
