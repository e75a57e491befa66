"""Hugging Face tokenizers as a contender: its fastest method, a text at a time, in one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptcli.report.bench.encoding_rounds import encoding_round
from gptcli.report.bench.jobs import EncodingJob
from gptcli.report.bench.worker import Contender


def data(job: EncodingJob) -> Contender:
    import tokenizers

    def run_round(what: str) -> dict[str, Any]:
        backend = tokenizers.Tokenizer.from_file(str(Path(job.tokenizer) / "tokenizer.json"))
        backend.encode_special_tokens = True

        def encode(texts: list[str]) -> list[list[int]]:
            return [backend.encode_batch_fast([text], add_special_tokens=False)[0].ids for text in texts]

        return encoding_round(job, encode)

    return Contender({}, run_round)
