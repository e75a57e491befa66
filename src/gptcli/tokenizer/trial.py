"""The trial of a tokenizer, in a limited process that untrusted.py starts.

It reads the bounded content of a tokenizer.json from stdin, opens it, and encodes and decodes texts on which tokenizers
fail: a tokenizer that panics, aborts, grows or never ends does so here. It writes nothing; the way the process ends is
the result.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tokenizers

from gptcli.tokenizer.bounds import LONGEST_TOKEN, MOST_ADDED, MOST_GROWTH

SLACK_BYTES = 4096
"""Bytes by which any text may grow."""
EVERY_BYTE = "".join(map(chr, range(256)))
TEXTS = (
    "",
    " ",
    "a",
    "\n",
    "The year 1984 had 366 days; it's 3.14159, or so. Don't WORRY — “naïve café” Straße.\n\n  x == y\r\n\tend",
    EVERY_BYTE,
    " " * 3000,
    "a" * 3000,
    "a" * 30 + "b",
    "\n" * 3000,
    "\r\n\t " * 500,
    "7" * 3000,
    "ab" * 1500,
    "Ab9 ,_" * 500,
    "." * 3000,
    "字" * 1500,
    "中文没有空格。日本語もありません。русский текст, עברית العربية ภาษาไทย हिन्दी " * 20,
    "e" + "\u0301" * 1000,
    "👩\u200d👩\u200d👧🙂" * 100,
    "\u00a0\u200b\u2028\ufeff\ufffd\U0010ffff\ue000" * 50,
    "ﬁ Å ① ㌔ ｶﾞ ℵ ½" * 50,
    "<|endoftext|><s></s><unk><pad>[CLS][SEP][MASK]<0x0A>▁##" * 20,
    "https://example.org/a_b?c=d&e=%20#f " * 50,
)
"""Short texts on which tokenizers differ or fail: runs of one character, digits, scripts, marks, every byte."""


def main(arguments: Sequence[str]) -> None:
    """Raise any error of the library, or end the process with a clause that says what is wrong."""
    try:
        backend = tokenizers.Tokenizer.from_str(sys.stdin.buffer.read().decode())
    except Exception:  # it is not a tokenizer: opening it is safe and reports that
        return
    added = [token.content for token in backend.get_added_tokens_decoder().values()][:100]
    for is_special in (True, False):
        backend.encode_special_tokens = is_special
        for text in (*TEXTS, "".join(added), " ".join(added)):
            try_text(backend, text)


def try_text(backend: tokenizers.Tokenizer, text: str) -> None:
    """Encode and decode one text."""
    most = MOST_GROWTH * len(text.encode()) + SLACK_BYTES
    normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
    if len(normalized.encode(errors="replace")) > most:
        sys.exit(f"it makes a text more than {MOST_GROWTH} times as long")
    try:
        ids = backend.encode(text, add_special_tokens=False).ids
        whole = backend.encode(text).ids
    except Exception:  # it has no token for a character; a panic is no Exception
        return
    if max(len(ids), len(whole) - MOST_ADDED) > most:
        sys.exit(f"it makes more than {MOST_GROWTH} tokens of each byte")
    if len(backend.decode(ids).encode(errors="replace")) > most * MOST_GROWTH + len(ids) * LONGEST_TOKEN:
        sys.exit("it decodes tokens to far more text than they stand for")
