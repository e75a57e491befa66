"""tiktoken as a contender: GPT-2's pattern and the same vocabulary, in one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptcli.errors import UsageError
from gptcli.report.bench.encoding_rounds import encoding_round
from gptcli.report.bench.jobs import EncodingJob
from gptcli.report.bench.worker import Contender
from gptcli.tokenizer.tokenizer import load_tokenizer


def data(job: EncodingJob) -> Contender:
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    tokenizer = load_tokenizer(Path(job.tokenizer))
    if not tokenizer.is_byte_level:
        raise UsageError("tiktoken has byte-level vocabularies only")
    ranks = {token: id for id, token in tokenizer.bytes_of_id.items()}

    def run_round(what: str) -> dict[str, Any]:
        encoding = tiktoken.Encoding("bench", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
        return encoding_round(job, lambda texts: [encoding.encode_ordinary(text) for text in texts])

    return Contender({}, run_round)
