"""Tokenizers of other programs, and texts without spaces."""

from __future__ import annotations

import json
import random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from inputs.attempt import TINY, Attempt
from inputs.words import TEXT

WORDS = "".join(f"The old miller met {name} at the well.\nIt rained.\n\n" for name in ("Ann", "Bob", "Eve") * 60)


def byte_level(*special: str) -> str:
    """A byte-level tokenizer.json with special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(list(special))
    return backend.to_str()


def word_piece() -> str:
    """A WordPiece tokenizer.json that lowercases and loses line ends."""
    pieces = ["[UNK]", *sorted(set(WORDS.lower().split())), *"abcdefghijklmnopqrstuvwxyz."]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend.to_str()


def folder(config: dict[str, object], tokenizer: str) -> dict[str, bytes | str]:
    return {"tok/tokenizer.json": tokenizer, "tok/tokenizer_config.json": json.dumps(config), "book.txt": TEXT}


def framed(input: str, config: dict[str, object], happens: str, prefix: str) -> Attempt:
    """A tokenizer folder whose run is evaluated with `prefix` before each document."""
    return Attempt(
        input,
        f"gptcli train book.txt {TINY} --set data.tokenizer=file:tok --out made",
        happens,
        files=folder(config, byte_level("<s>", "</s>", "<|im_end|>", "<|endoftext|>")),
        then="gptcli eval made",
        left=lambda place: check_prefix(place, prefix),
    )


def check_prefix(place, prefix: str) -> None:
    from inputs.attempt import typed

    code, printed = typed("gptcli eval made", place)
    assert code == 0 and prefix in printed, printed


ATTEMPTS = [
    framed(
        "a tokenizer whose `bos_token` is not its `eos_token`",
        {"bos_token": "<s>", "eos_token": "</s>"},
        "training writes both, evaluation begins with bos",
        "each prefixed with <s>",
    ),
    framed(
        "a tokenizer that names only `<|im_end|>` beside a `<|endoftext|>`",
        {"eos_token": "<|im_end|>"},
        "documents begin with `<|im_end|>` in training and evaluation",
        "each prefixed with <|im_end|>",
    ),
    framed(
        "a tokenizer with a bos only",
        {"bos_token": "<s>", "eos_token": None},
        "every document begins with bos",
        "each prefixed with <s>",
    ),
    framed(
        "a tokenizer with neither",
        {"bos_token": None, "eos_token": None},
        "no token separates the documents, and the first token is not scored",
        "no prefix",
    ),
    Attempt(
        "a WordPiece tokenizer, which loses line ends and capitals",
        f"gptcli train words.txt {TINY} --set data.tokenizer=file:wp.json --out made",
        "the lost part of the text is reported, and bits per byte are withheld",
        says=(r"the tokenizer loses \d+ % of the validation text", "bits per byte are not shown"),
        files={"wp.json": word_piece(), "words.txt": WORDS},
        then="gptcli eval made",
    ),
    Attempt(
        "`data.tokenizer=char` and a validation text with new characters",
        f"gptcli train book.txt {TINY} --set data.tokenizer=char --set data.split=tail --out made",
        "the lost part is reported",
        says=(r"the tokenizer loses \d+ % of the validation text",),
        files={"book.txt": TEXT + "☃ xyz żółć\n" * 60},
    ),
    Attempt(
        "a folder with vocab.json and merges.txt of an unknown class",
        "gptcli tokenizer inspect tok",
        "is refused, and the class is named",
        code=3,
        says=("MysteryTokenizer",),
        files={
            "tok/vocab.json": json.dumps(
                {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
            ),
            "tok/merges.txt": "#version: 0.2\n",
            "tok/tokenizer_config.json": json.dumps({"tokenizer_class": "MysteryTokenizer"}),
        },
    ),
    Attempt(
        "a text without spaces: 300 kB of `ACGT`",
        "gptcli tokenizer train dna.txt --out dna --vocab-size 1000",
        "BPE learns in time linear in the text",
        says=("Saved a bpe tokenizer of",),
        files={"dna.txt": "".join(random.Random(0).choices("ACGT", k=300_000))},
    ),
]
