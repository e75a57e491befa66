"""Measurements of texts, small texts, and runs that transformers opens."""

from __future__ import annotations

import json
import random

from inputs.attempt import TINY, Attempt
from inputs.words import TEXT


def versions(texts: int, of_each: int) -> str:
    """Rows of texts in several versions each, in which a few words differ."""
    draw = random.Random(0)
    rows = []
    for text in range(texts):
        words = [f"w{(text * 977 + place * place) % 5000}" for place in range(300)]
        for version in range(of_each):
            changed = ["other" if draw.random() < 0.01 * version else word for word in words]
            rows.append(json.dumps({"text": " ".join(changed)}))
    return "\n".join(rows) + "\n"


PREPARE = "gptcli data prepare versions.jsonl --set data.tokenizer=byte"

ATTEMPTS = [
    Attempt(
        "a run of Qwen2's shape",
        f"gptcli train book.txt {TINY} --set model.qk_norm=false --set model.qkv_bias=true --out made",
        "is written so that transformers opens it with the run's own tokenizer",
        says=("transformers opens it as LlamaForCausalLM",),
        files={"book.txt": TEXT},
        then="gptcli export made --to hf --out exported",
    ),
    Attempt(
        "`eval` of the text that the run was trained on",
        "gptcli eval {run} corpus.txt",
        "warns that the run has read about 90 % of this text",
        says=(r"this run has read about [89]\d % of this text",),
    ),
    Attempt(
        "`eval` of a text that it was not trained on",
        "gptcli eval {run} other.txt",
        "prints no warning",
        says=(r"about 0 %",),
        says_not=("this run has read",),
        files={"other.txt": "".join(f"Chapter {n}: the fox and its {n * n} cousins went home.\n" for n in range(200))},
    ),
    Attempt(
        "twenty texts in four versions each",
        PREPARE,
        "warns that most of the validation split occurs in the training split, and names `data.deduplicate=near`",
        says=(r"warning: [5-9]\d %|warning: .*[5-9]\d % of", r"data\.deduplicate=near"),
        files={"versions.jsonl": versions(20, 4)},
        then=f"{PREPARE} --set data.deduplicate=near",
    ),
    Attempt(
        "the same with `data.deduplicate=near`",
        f"{PREPARE} --set data.deduplicate=near",
        "keeps the versions of a text on one side of the split, without a warning",
        says_not=("warning",),
        files={"versions.jsonl": versions(20, 4)},
    ),
    Attempt(
        "a text of 10 kB, without options",
        "gptcli train small.txt --dry-run",
        "is read as bytes, so that no character is unknown, and trained on for as many epochs as help",
        says=("tokenizer +byte", r"\d+ epochs"),
        files={"small.txt": TEXT[:10_000]},
    ),
    Attempt(
        "`--set train.epochs=2`",
        f"gptcli train book.txt {TINY.replace('--set train.max_steps=2', '--set train.epochs=2')} --dry-run",
        "two epochs, whatever their number of steps",
        says=(r"\b2 epochs",),
        files={"book.txt": TEXT},
    ),
    Attempt(
        "`train book.txt --epochs 3`",
        "gptcli train book.txt --epochs 3",
        "names the key: `--set train.epochs=3`",
        code=2,
        says=(r"write --set train\.epochs=3",),
        files={"book.txt": TEXT},
    ),
]
