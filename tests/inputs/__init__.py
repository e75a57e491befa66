"""Files and commands of people: every input of docs/reliability.md ("Inputs of people"), made and tried."""

from __future__ import annotations

from pathlib import Path

from inputs import examples, files, measures, rows, runs, tokenizers, verdicts, words
from inputs.attempt import RUN, TINY, typed

ATTEMPTS = [
    *rows.ATTEMPTS,
    *files.ATTEMPTS,
    *tokenizers.ATTEMPTS,
    *measures.ATTEMPTS,
    *runs.ATTEMPTS,
    *words.ATTEMPTS,
    *verdicts.ATTEMPTS,
    *examples.ATTEMPTS,
]


def train_run(folder: Path) -> Path:
    """A trained run called RUN in `folder`, for the attempts that need one."""
    folder.mkdir()
    (folder / "corpus.txt").write_text(words.TEXT)
    code, printed = typed(f"gptcli train corpus.txt {TINY} --set data.tokenizer=byte --out '{RUN}'", folder)
    assert code == 0, printed
    return folder / RUN
