"""Runs that are resumed with something changed, moved, or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from inputs.attempt import RUN, Attempt
from inputs.words import TEXT

RESUME = "gptcli train --resume {run}"
INIT_FROM = "gptcli train corpus.txt --init-from {run} --set train.max_steps=2 --set device=cpu"


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replaces `old` by `new` in a file of the run."""

    def edit(folder: Path) -> None:
        path = folder / RUN / name
        content = path.read_text()
        assert old in content, f"{name} has no {old!r}"
        path.write_text(content.replace(old, new, 1))

    return edit


def flipped(name: str, place: int) -> Callable[[Path], None]:
    """Flips a bit of a file of the run."""

    def flip(folder: Path) -> None:
        path = folder / RUN / name
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1
        path.write_bytes(content)

    return flip


def moved(folder: Path) -> None:
    (folder / "corpus.txt").rename(folder / "elsewhere.txt")


def without_checkpoints(then: Callable[[Path], None] = lambda folder: None) -> Callable[[Path], None]:
    """Removes the checkpoints of the run, as a copy without them has none."""

    def remove(folder: Path) -> None:
        shutil.rmtree(folder / RUN / "checkpoints")
        then(folder)

    return remove


ATTEMPTS = [
    Attempt(
        "`--resume` with another `model.n_layer`",
        f"{RESUME} --set model.n_layer=9",
        "names the key, both values and `--init-from`; nothing of the run is changed",
        code=2,
        says=(r"model\.n_layer", "--init-from"),
        then=INIT_FROM,
    ),
    Attempt(
        "`--resume` with another RoPE base in an edited `run.toml`",
        RESUME,
        "names the key and `run.toml`",
        code=2,
        says=(r"model\.rope_theta", r"run\.toml"),
        make=edited("run.toml", "rope_theta = 10000.0", "rope_theta = 5.0"),
    ),
    Attempt(
        "`--resume` with another norm, window or context",
        f"{RESUME} --set model.norm=layernorm --set model.context_length=8",
        "names the keys",
        code=2,
        says=(r"model\.norm", "--init-from"),
    ),
    Attempt(
        "`--resume` with more steps",
        f"{RESUME} --set train.max_steps=4",
        "is allowed and continues the run",
        says=(r"resumed at step 2 of 4",),
    ),
    Attempt(
        "`--resume` with another `seed`",
        f"{RESUME} --set seed=3",
        "names the key, not the corpus",
        code=2,
        says=(r"\bseed was 1337 and is 3",),
    ),
    Attempt(
        "`--resume` with another `data.val_fraction`",
        f"{RESUME} --set data.val_fraction=0.3",
        "names the key, not the corpus",
        code=2,
        says=(r"data\.val_fraction",),
    ),
    Attempt(
        "`--resume` with fewer steps than were made",
        f"{RESUME} --set train.max_steps=1",
        "is refused: the run has made more",
        code=2,
        says=(r"has made 2 steps",),
    ),
    Attempt("`train --resume RUN`, the run named as if it were a corpus", RESUME, "is accepted"),
    Attempt(
        "`--resume` after the text was moved",
        RESUME,
        "is refused until the new path of the corpus is given",
        code=3,
        says=(r"corpus\.txt, which is not there", "--resume --out"),
        make=moved,
        then="gptcli train elsewhere.txt --resume --out {run}",
    ),
    Attempt(
        "`--resume` with another text",
        "gptcli train other.txt --resume --out {run}",
        "is refused and names `--init-from`",
        code=4,
        says=("--init-from",),
        files={"other.txt": TEXT.replace("milk", "beer")},
        then="gptcli train other.txt --init-from {run} --set train.max_steps=2 --set device=cpu",
    ),
    Attempt(
        "`--resume` with another validation text",
        f"{RESUME} --set data.val=other.txt",
        "is refused: the best checkpoint was measured on the old one",
        code=2,
        says=(r"data\.val",),
        files={"other.txt": TEXT.replace("milk", "beer")},
    ),
    Attempt(
        "a bit flipped in `tokenizer.json`",
        "gptcli generate {run} bottles --max-new-tokens 2",
        "every verb refuses and names the file",
        code=4,
        says=(r"tokenizer\.json",),
        make=flipped("tokenizer.json", 500),
    ),
    Attempt(
        "a bit flipped in the validation tokens",
        "gptcli eval {run}",
        "`eval` refuses and names the file",
        code=4,
        says=(r"val/",),
        make=flipped("val/tokens-00000.bin", 10),
    ),
    Attempt(
        "a bit flipped in `model.safetensors` of a run without checkpoints",
        "gptcli generate {run} bottles --max-new-tokens 2",
        "is refused, and the file is named",
        code=4,
        says=(r"model\.safetensors",),
        make=without_checkpoints(flipped("model.safetensors", 2000)),
    ),
    Attempt(
        "a run copied without its checkpoints",
        "gptcli checkpoint verify {run}",
        "is verified: every file is whole",
        says=("every file is whole",),
        make=without_checkpoints(),
    ),
    Attempt(
        "a number changed in `metrics.jsonl`",
        "gptcli checkpoint verify {run}",
        "is found",
        code=4,
        says=(r"metrics\.jsonl",),
        make=edited("metrics.jsonl", '"step": 2', '"step": 3'),
    ),
    Attempt(
        "`tokenizer_config.json` edited on purpose",
        "gptcli generate {run} bottles --max-new-tokens 2",
        "is refused; `checkpoint verify --accept` accepts the file",
        code=4,
        says=(r"tokenizer_config\.json", "--accept"),
        make=edited("tokenizer_config.json", "{", "{ "),
        then="gptcli checkpoint verify {run} --accept tokenizer_config.json",
    ),
]
