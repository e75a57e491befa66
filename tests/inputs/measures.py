"""Points 7 and 10 to 12: what is measured on which text, small texts, and what transformers opens."""

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
        7,
        "a run of Qwen2's shape",
        f"gptcli train book.txt {TINY} --set model.qk_norm=false --set model.qkv_bias=true --out made",
        "is written so that transformers opens it with the run's own tokenizer",
        says=("transformers opens it as LlamaForCausalLM",),
        files={"book.txt": TEXT},
        then="gptcli export made --to hf --out exported",
    ),
    Attempt(
        10,
        "`eval` of the text that the run was trained on",
        "gptcli eval {run} corpus.txt",
        "warns: this run has read about 90 % of this text",
        says=(r"this run has read about [89]\d % of this text",),
    ),
    Attempt(
        10,
        "`eval` of a text that it was not trained on",
        "gptcli eval {run} other.txt",
        "warns of nothing",
        says=(r"about 0 %",),
        says_not=("this run has read",),
        files={"other.txt": "".join(f"Chapter {n}: the fox and its {n * n} cousins went home.\n" for n in range(200))},
    ),
    Attempt(
        11,
        "twenty texts in four versions each",
        PREPARE,
        "warns: most of the validation split stands in the training split; names `data.deduplicate=near`",
        says=(r"warning: [5-9]\d %|warning: .*[5-9]\d % of", r"data\.deduplicate=near"),
        files={"versions.jsonl": versions(20, 4)},
        then=f"{PREPARE} --set data.deduplicate=near",
    ),
    Attempt(
        11,
        "the same with `data.deduplicate=near`",
        f"{PREPARE} --set data.deduplicate=near",
        "keeps the versions of a text on one side, and warns of nothing",
        says_not=("warning",),
        files={"versions.jsonl": versions(20, 4)},
    ),
    Attempt(
        12,
        "a text of 10 kB, with nothing but its name",
        "gptcli train small.txt --dry-run",
        "is trained on as bytes, no character of it unknown, for as many epochs as help",
        says=("tokenizer +byte", r"\d+ epochs"),
        files={"small.txt": TEXT[:10_000]},
    ),
    Attempt(
        12,
        "`--set train.epochs=2`",
        f"gptcli train book.txt {TINY.replace('--set train.max_steps=2', '--set train.epochs=2')} --dry-run",
        "two epochs, whatever steps these are",
        says=(r"\b2 epochs",),
        files={"book.txt": TEXT},
    ),
    Attempt(
        18,
        "`train book.txt --epochs 3`",
        "gptcli train book.txt --epochs 3",
        "names the key: `--set train.epochs=3`",
        code=2,
        says=(r"write --set train\.epochs=3",),
        files={"book.txt": TEXT},
    ),
]
