"""Tokenizers of every kind, trained on the same few texts, and texts that are hard to restore exactly."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

PROSE = (
    "The miller's daughter wouldn't sell the grey mare; she'd promised him 300 apples.\n\n",
    'Then\tthe frost came, and "the mill" stood still for 12 days...  \r\nNobody had seen such a thing.\n',
    "We've walked the long road by the river, and they'll walk it too, said the miller, said the frost.\n",
) * 4

HARD_TEXTS = (
    "",
    " ",
    "   lone  spaces \n \n\n\t\ttabs \t ends with spaces  ",
    "CRLF\r\nCR\rLF\nNEL\x85 VT\x0b FF\x0c",
    "NUL\x00 bell\x07 escape\x1b[0m delete\x7f separators\x1c\x1d\x1e\x1f",
    "combining e\u0301 vs é, Hangul \u1112\u1161\u11ab vs 한, stacked a\u0300\u0301\u0302\u0303",
    "emoji 👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👍🏽 🇩🇪 ☃️",
    "right to left שלום עולם العربية \u202bmixed\u202c \u200f\u200e",
    "no-break\u00a0space narrow\u202f thin\u2009 ideographic\u3000 zero\u200bwidth \u2060 BOM\ufeff",
    "中文没有空格。日本語もありません。ไทยไม่มีช่องว่าง",
    "ligature ﬁ, fullwidth ＡＢＣ, Kelvin K, long ſ, İstanbul ß ẞ",
    "replacement \ufffd noncharacter \uffff\U0010ffff private \ue000",
    "don't they'll I've DON'T 's 't _under_score__ x=y**2 #$%^&*()",
    "<|endoftext|> <unk> <s></s> <| endoftext |>",
    "\ufeffbegins with a mark",
)


def make_random_text(seed: int, length: int = 300) -> str:
    """Return characters of all planes, with runs of white space and of letters among them."""
    source = random.Random(seed)
    likely = ((0x20, 0x7F), (0x00, 0x100), (0x300, 0x370), (0x590, 0x700), (0x2000, 0x2070), (0x4E00, 0x5000))
    everything = ((0x0, 0xD800), (0xE000, 0x110000))
    parts = []
    for _ in range(length):
        if source.random() < 0.3:
            parts.append(source.choice(" \n\t\r\u00a0\u2003") * source.randrange(1, 4))
        parts.append(chr(source.randrange(*source.choice((*likely, *likely, *everything)))))
    return "".join(parts)


@pytest.fixture(scope="session")
def random_text() -> Callable[..., str]:
    return make_random_text


@pytest.fixture(scope="session")
def hard_texts() -> tuple[str, ...]:
    return (*HARD_TEXTS, *(make_random_text(seed) for seed in range(40)))


@pytest.fixture(scope="session")
def prose() -> tuple[str, ...]:
    return PROSE


@pytest.fixture(scope="session")
def char() -> Tokenizer:
    return build_tokenizer(CharTokenizerConfig(), lambda: iter(PROSE))


@pytest.fixture(scope="session")
def byte() -> Tokenizer:
    return build_tokenizer(ByteTokenizerConfig(), lambda: iter(PROSE))


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return build_tokenizer(BpeTokenizerConfig(vocab_size=340), lambda: iter(PROSE))


@pytest.fixture(params=["char", "byte", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind in turn."""
    return request.getfixturevalue(request.param)
