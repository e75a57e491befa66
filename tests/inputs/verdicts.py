"""Verdicts on a curve, digits of figures, and the first screen."""

from __future__ import annotations

import json

from inputs.attempt import Attempt
from inputs.words import TEXT

TURNED = {"abc.txt": "abc" * 3000, "acb.txt": "acb" * 300}
"""A text, and one of the same letters in another order: the better the first is known, the worse the second."""
TRAIN_TURNED = (
    "gptcli train abc.txt {tiny} --set data.val=acb.txt --set data.tokenizer=byte --set train.max_steps=80 "
    "--set train.eval_every_steps=8"
)
CHOICES = "".join(json.dumps({"prompt": "It", "choices": [" rains", " snows"], "answer": n}) + "\n" for n in (0, 1))
CHINESE = "夜里下雨，猫头鹰在睡觉。河水慢慢地流，山上有雪。\n" * 20

ATTEMPTS = [
    Attempt(
        "a text that is read until it is memorised",
        f"{TRAIN_TURNED} --out turned",
        "reports the step from which on the model is overfitted, and that the best checkpoint is used",
        says=(
            r"overfitted since step \d+: the validation loss was",
            r"the best, is kept, and generate and eval use it",
        ),
        files=TURNED,
        then="gptcli generate turned abc --max-new-tokens 3",
    ),
    Attempt(
        "the same with `--set train.patience=2`",
        f"{TRAIN_TURNED} --set train.patience=2 --out stopped",
        "ends after two evaluations in a row without a lower validation loss, and reports that",
        says=(r"The run ended at step \d+ of 80: 2 evaluations in a row brought no lower",),
        files=TURNED,
    ),
    Attempt(
        "a training that is too short",
        "gptcli train book.txt {tiny} --set train.max_steps=20 --set train.eval_every_steps=4 --set optim.name=adamw "
        "--set optim.lr=0.01 --out short",
        "reports that the loss was still falling, with the command that trains longer",
        says=(r"still falling at the end", r"gptcli train --resume --out short --set train\.max_steps=40"),
        files={"book.txt": TEXT},
        then="gptcli train --resume --out short --set train.max_steps=40",
    ),
    Attempt(
        "`--set data.val=FILE` with two bytes in it",
        "gptcli train book.txt {tiny} --set data.val=two.txt --set data.tokenizer=byte --out two",
        "reports that the validation part is too small to tell which checkpoint is the best",
        says=(r"validation part is too small to tell",),
        files={"book.txt": TEXT, "two.txt": "It"},
    ),
    Attempt(
        "`eval RUN --choices FILE` of two rows",
        "gptcli eval {run} --choices rows.jsonl",
        "the wide interval of two rows, and no calibration error",
        says=(r"accuracy           0\.\d+ \(0\.\d+ to 0\.\d+\)", r"not measured: it takes 50 rows or more"),
        files={"rows.jsonl": CHOICES},
    ),
    Attempt(
        "`eval RUN FILE` of a Chinese text",
        "gptcli eval {run} chinese.txt",
        "no perplexity of words, since no spaces separate them; every figure has the digits that its interval supports",
        says=(r"word perplexity  not given",),
        says_not=(r"e\+\d\d",),
        files={"chinese.txt": CHINESE},
    ),
    Attempt(
        "`eval RUN FILE`",
        "gptcli eval {run} book.txt",
        "bits per byte, and beside them those of `xz -9` for the same text",
        says=(r"bits per byte    \S+; xz -9 needs \d\.\d\d for the same text",),
        files={"book.txt": TEXT},
    ),
    Attempt(
        "`train book.txt --dry-run`",
        "gptcli train book.txt --dry-run --set device=cpu",
        "the values that were chosen, and the memory of the whole process",
        says=(r"model: n_layer=\d+, n_embd=\d+", r"memory      about \S+ .B: \S+ .B to train, \S+ .B for Python"),
        files={"book.txt": TEXT},
    ),
]
