"""Advice that works, and expected words."""

from __future__ import annotations

from inputs.attempt import Attempt

TEXT = "".join(f"{n} bottles of {('milk', 'ink', 'rain')[n % 3]} on the wall.\n" for n in range(400))
LONG_PROMPT = "first line\n\nsecond line\n"

ATTEMPTS = [
    Attempt(
        "`train book.txt --lr 3e-4`",
        "gptcli train book.txt --lr 3e-4",
        "names the key: `--set optim.lr=3e-4`",
        code=2,
        says=(r"write --set optim\.lr=3e-4",),
        files={"book.txt": TEXT},
        then="gptcli train book.txt {tiny} --set optim.lr=3e-4",
    ),
    Attempt(
        "`train book.txt --batch-size 8`",
        "gptcli train book.txt --batch-size 8",
        "names the key: `--set train.batch_size=8`",
        code=2,
        says=(r"write --set train\.batch_size=8",),
        files={"book.txt": TEXT},
        then="gptcli train book.txt {tiny} --set train.tokens_per_step=128 --set train.batch_size=8",
    ),
    Attempt(
        "`gptcli sample RUN`, `plot`, `sft`",
        "gptcli sample {run}",
        'names the replacement: `gptcli generate RUN "PROMPT"`',
        code=2,
        says=("gptcli generate RUN",),
    ),
    Attempt(
        "`--set learning_rate=3e-4`",
        "gptcli train book.txt --set learning_rate=3e-4",
        "names the key `optim.lr`",
        code=2,
        says=(r"did you mean 'optim\.lr'",),
        files={"book.txt": TEXT},
    ),
    Attempt(
        "`generate RUN --temperature 1e-38`",
        "gptcli generate {run} bottles --temperature 1e-38 --max-new-tokens 5",
        "the greedy text",
        says=(r"[1-5] tokens",),
    ),
    Attempt(
        "`train book.txt --time 5min` (or `1d`)",
        "gptcli train book.txt --time 5min --dry-run",
        "five minutes",
        says=(r"5 min 0 s in all",),
        files={"book.txt": TEXT * 20},
    ),
    Attempt(
        "`generate RUN -` with the prompt on stdin",
        "gptcli generate {run} - --json --max-new-tokens 2",
        "one prompt, of many lines",
        says=(r'"prompt": "first line\\n\\nsecond line"',),
        stdin=LONG_PROMPT.encode(),
    ),
    Attempt(
        "`generate RUN --prompt-file FILE --whole-file`",
        "gptcli generate {run} --prompt-file prompt.txt --whole-file --json --max-new-tokens 2",
        "one prompt, of many lines",
        says=(r'"prompt": "first line\\n\\nsecond line"',),
        files={"prompt.txt": LONG_PROMPT},
    ),
    Attempt(
        "`generate RUN --num-samples 2` into a pipe",
        "gptcli generate {run} bottles --num-samples 2 --max-new-tokens 3",
        "a line `---` between the samples",
        says=(r"\n---\n",),
    ),
    Attempt(
        "`eval RUN FOLDER` of 30 files",
        "gptcli eval {run} many",
        "the ten worst of them",
        says=("10 of 30 files",),
        files={f"many/{n:02}.txt": TEXT[n * 20 : n * 20 + 300] for n in range(30)},
    ),
    Attempt(
        "`eval RUN cafés.txt --worst 1`",
        "gptcli eval {run} cafés.txt --worst 1",
        "`é`, not `\\xac`",
        says=("café",),
        says_not=(r"\\xc3", r"\\xa9"),
        files={"cafés.txt": "café " * 60},
    ),
    Attempt(
        "`checkpoint list RUN`",
        "gptcli checkpoint list {run}",
        "marks the best checkpoint",
        says=(r"whole, best",),
    ),
    Attempt(
        "one layer, one duplicate",
        "gptcli train twice {tiny} --dry-run",
        "singular words: `1 layer`, `1 exact duplicate`",
        says=("1 layer,", r"1 exact duplicate "),
        files={"twice/a.txt": TEXT, "twice/b.txt": TEXT, "twice/c.txt": TEXT[::-1]},
    ),
    Attempt(
        "`export --to gguf --out` onto a file",
        "gptcli export {run} --to gguf --out model.gguf",
        "is refused; `--force` replaces it",
        code=2,
        says=("add --force",),
        files={"model.gguf": "mine"},
        then="gptcli export {run} --to gguf --out model.gguf --force",
    ),
    Attempt(
        "`--out` that is a file",
        "gptcli train missing.txt --out file",
        "is refused before the corpus is read",
        code=2,
        says=("file is not a directory",),
        files={"file": "x"},
    ),
    Attempt(
        "`train 'texts/*.txt'`",
        "gptcli train 'texts/*.txt' {tiny}",
        "the run is called `runs/texts`",
        says=("run directory runs/texts\n",),
        files={"texts/a.txt": TEXT, "texts/b.txt": TEXT[::-1]},
    ),
]
