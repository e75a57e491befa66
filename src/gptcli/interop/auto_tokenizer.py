"""The effect of transformers' AutoTokenizer on a tokenizer.json, determined without transformers.

It opens the file as it is if `tokenizer_class` says so, as in all that gptcli writes. A few kinds of models are
exceptions: it reads vocabulary and merges from the file but splits text by the rules of the model's own tokenizer class
(`MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS` in transformers 5, models/auto/tokenization_auto.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tokenizers

from gptcli import strict_json
from gptcli.errors import CheckpointError, TokenizerError
from gptcli.interop.family import Json
from gptcli.interop.weights import read_json
from gptcli.tokenizer.files import TOKENIZER_FILE
from gptcli.tokenizer.structure import ALTERING, LINE_SPLITS, model_type, splits_lines
from gptcli.tokenizer.tokenizer import Tokenizer

_, QWEN2_SPLIT = LINE_SPLITS
QWEN2_RULES: Json = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    },
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
}
FORCED: dict[str, Json] = {"qwen2": QWEN2_RULES}
"""The rules that AutoTokenizer uses instead of those in the file, by model_type."""

TRIED_TEXTS = (
    "The year 1984 had 366 days, 12345678 minutes more or less; it's 3.14159.",
    "  blanks before,  two  between, and after  ",
    "\n\nlines\n\n\n  and\tindents\r\n\tof code:\n    return x == y  # done\n",
    "don't DON'T we'll — “quoted” … naïve café Straße",
    "中文没有空格。日本語もありません。 русский текст, עברית",
    "emoji 👩‍👩‍👧 🙂🙂, e\u0301 and é, no-break\u00a0space",
    "<|endoftext|> <unk> a.b.c foo_bar(baz)[0] != {};",
    "",
)
"""Texts that the usual rules split differently."""


def keeps_tokenizer(kind: str, spec: Mapping[str, Any]) -> bool:
    """Return whether AutoTokenizer opens the tokenizer.json `spec` unchanged beside a config.json of type `kind`."""
    if kind not in FORCED:
        return True
    model, normalizer = spec["model"], spec.get("normalizer") or {}
    splitter = spec.get("pre_tokenizer") or {}
    return (
        model_type(model) == "BPE"
        and not any(model.get(setting) for setting in (*ALTERING, "ignore_merges", "unk_token"))
        and normalizer.get("type") == "NFC"
        and splits_lines(splitter)
        and splitter["pretokenizers"][0]["pattern"]["Regex"] == QWEN2_SPLIT
        and (spec.get("decoder") or {}).get("type") == "ByteLevel"
    )


def tokenizer_class_for(kind: str, spec: Mapping[str, Any]) -> str:
    """Return the class of transformers whose `from_pretrained` opens the tokenizer.json `spec` unchanged."""
    return "AutoTokenizer" if keeps_tokenizer(kind, spec) else "PreTrainedTokenizerFast"


def as_opened(directory: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a model directory, as AutoTokenizer opens it."""
    spec = read_json(directory / TOKENIZER_FILE)
    if rules := FORCED.get(read_json(directory / "config.json").get("model_type", "")):
        model = {key: spec["model"][key] for key in ("type", "vocab", "merges") if key in spec["model"]}
        spec = {**spec, **rules, "model": model}
    return tokenizers.Tokenizer.from_str(strict_json.dumps(spec))


def tried_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield those of TRIED_TEXTS that `tokenizer` can encode: one without <unk> may lack a character."""
    for text in TRIED_TEXTS:
        with suppress(TokenizerError):
            tokenizer.encode(text)
            yield text


def require_opened_alike(directory: Path, tokenizer: Tokenizer) -> None:
    """Check that the tokenizer of `directory`, as AutoTokenizer opens it, encodes and decodes like `tokenizer`.

    Raises:
        CheckpointError: it gives a text other ids, or decodes them to another text.
    """
    theirs = as_opened(directory)
    theirs.encode_special_tokens = True
    for text in tried_texts(tokenizer):
        ids = tokenizer.encode(text)
        if theirs.encode(text, add_special_tokens=False).ids != ids or theirs.decode(ids) != tokenizer.decode(ids):
            raise CheckpointError(
                f"the tokenizer in {directory} gives {text[:40]!r} other tokens than the model was trained on",
                "do not use it; report this",
            )
