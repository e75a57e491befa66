"""The bytes of tokens are those of the text, for every kind of tokenizer, also where tokens are no whole characters."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptcli.generate.config import SamplingParams
from gptcli.generate.sample import Sample
from gptcli.serve.openai.token_bytes import PieceReader, escaped, named
from gptcli.tokenizer.config import ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

WORDS = ("▁the", "▁café", "s", "▁", "ing", "€", "a", "b")


def metaspace() -> Tokenizer:
    """Words that begin with ▁, and a token for each byte, as in SentencePiece."""
    names = [*WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    return Tokenizer(backend)


KINDS = {
    "byte": lambda: build_tokenizer(ByteTokenizerConfig(), lambda: iter(())),
    "char": lambda: build_tokenizer(CharTokenizerConfig(), lambda: iter(["abc é€\n"])),
    "metaspace": metaspace,
}


@pytest.mark.parametrize("kind", [*KINDS, "bpe"])
@pytest.mark.parametrize("stop", [(), ("e", "\ufffd", " ")])
def test_the_tokens_of_a_growing_text_are_its_bytes(kind: str, stop: tuple[str, ...], tokenizer: Tokenizer) -> None:
    chosen = KINDS[kind]() if kind in KINDS else tokenizer
    bytes_of_characters = [chosen.encode(text) for text in ("é€", "a b")] if kind != "metaspace" else [[1, 5, 0]]
    choose = random.Random(1)
    for _ in range(60):
        ids = list[int]()
        while len(ids) < 12:  # whole characters among ids at random
            ids += choose.choice([*bytes_of_characters, [choose.randrange(chosen.vocab_size)]])
        prompt = ids[:4]
        sample = Sample(chosen, prompt, SamplingParams(max_new_tokens=len(ids) - 4, stop=stop))
        reader, text, joined = PieceReader(chosen), "", b""
        reader.skip(prompt)
        pending = reader.decoder.getstate()[0]  # of a character that the text completes
        for token in ids[4:]:
            if sample.request.finish_reason is None:
                sample.request.append(token, -1.0)
            for part in sample.take():
                placed = reader.read(part)
                assert len(placed) == len(part.ids)
                assert [start for _, start in placed] == sorted(start for _, start in placed)
                assert all(len(text) - 1 <= start <= len(text) + len(part.text) for _, start in placed)
                joined += b"".join(piece for piece, _ in placed)
                text += part.text
        assert text == sample.completion().text and reader.offset == len(text)
        if joined and (
            kind != "metaspace" or "\ufffd" not in text
        ):  # a run of bytes there is one of U+FFFD if its end is none
            assert (pending + joined).decode(errors="replace") == text


def test_bytes_that_are_no_character_are_written_in_two_forms() -> None:
    assert (named(b"\xe2\x82"), escaped(b"\xe2\x82")) == ("bytes:\\xe2\\x82", "\\xe2\\x82")
    assert named("é".encode()) == escaped("é".encode()) == "é"
