"""`gptcli bench data`: text encoded a second in one thread, and sequences read a second from token shards."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import Progress, say, size
from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.errors import DataError
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.jobs import GPTCLI, EncodingJob, Program, Task
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, shown, times
from gptcli.report.bench.workers import rounds, started
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.tokenizer.source import open_tokenizer
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

BATCHES = "batches"
SEQ_LEN, BATCH_SIZE = 256, 16


@dataclass(frozen=True)
class EncodingRequest:
    """Texts and a tokenizer."""

    corpus: tuple[str, ...] = ("python:stdlib",)
    megabytes: float = 8.0
    """Size of the part of the corpus that is read, from its start."""
    tokenizer: str | None = None
    """A tokenizer's reference; None to train one on the texts."""
    vocab_size: int = 8192
    """Size of a tokenizer that is trained."""


def measure(request: EncodingRequest, options: BenchOptions, others: Sequence[Program] = ()) -> Outcome:
    """Measure the encoding of texts by gptcli, and by other programs in turn with it.

    Raises:
        DataError, TokenizerError: the texts or the tokenizer cannot be read.
        BenchError: gptcli failed.
    """
    texts = read_corpus(request)
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        folder, file = Path(scratch) / "tokenizer", Path(scratch) / "texts.json"
        file.write_text(strict_json.dumps(texts))
        tokenizer = prepare_tokenizer(request, texts)
        tokenizer.save(folder)
        job = EncodingJob(str(folder), str(file), SEQ_LEN, BATCH_SIZE, options.seconds, scratch)
        tasks = {program.name: Task(program, "data", job) for program in (GPTCLI, *others)}
        with started(tasks, threads=1) as workers, Progress("data", options.rounds, unit="rounds") as progress:
            contenders = {name: rounds(worker, what="encode") for name, worker in workers.items()}
            contenders[BATCHES] = rounds(workers[GPTCLI.name], what=BATCHES)
            measured = alternate(contenders, options.rounds, lambda _: progress.update())
    batches = [one["tokens_per_second"] for one in measured.pop(BATCHES)]
    results = {
        "corpus": shown(request.corpus),
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "vocab_size": tokenizer.vocab_size,
        "contenders": {name: summary(values, measured[GPTCLI.name]) for name, values in measured.items()},
        "batches": {
            "seq_len": SEQ_LEN,
            "batch_size": BATCH_SIZE,
            "tokens_per_second": spread(batches).report(),
        },
    }
    return Outcome("data", results, tables(results))


def read_corpus(request: EncodingRequest) -> list[str]:
    """Return whole documents from the start of the corpus, `megabytes` of them, at least one.

    Raises:
        DataError: the corpus holds no text.
    """
    texts: list[str] = []
    total = 0
    for document in corpus_documents(request.corpus, DataConfig()):
        if texts and total >= request.megabytes * 1e6:
            say(f"the first {size(total)} of {' '.join(request.corpus)} are read (--megabytes)")
            break
        texts.append(document.text)
        total += len(document.text.encode())
    if not texts:
        raise DataError(f"{' '.join(request.corpus)} holds no text", "name files with text")
    return texts


def prepare_tokenizer(request: EncodingRequest, texts: Sequence[str]) -> Tokenizer:
    """Open the requested tokenizer, or train one on the texts."""
    if request.tokenizer:
        return open_tokenizer(request.tokenizer)
    say(f"training a BPE of {request.vocab_size:,} entries on the texts")
    return build_tokenizer(BpeTokenizerConfig(vocab_size=request.vocab_size), lambda: iter(texts))


def summary(measured: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one contender's figures."""
    rates = [one["bytes_per_second"] for one in measured]
    return {
        "bytes_per_second": spread(rates).report(),
        "ours_over_this": ratios([one["bytes_per_second"] for one in ours], rates).report(),
        "cores": spread([one["cores"] for one in measured]).report(),
        "tokens": measured[-1]["tokens"],
        "same_ids_as_ours": measured[-1]["ids"] == ours[-1]["ids"],
    }


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the table of the results."""
    is_race = len(results["contenders"]) > 1
    rows = [
        (
            name,
            figure(one["bytes_per_second"]["median"] / 1e6),
            *(["" if name == GPTCLI.name else times(one["ours_over_this"])] * is_race),
            f"{one['cores']['median']:.2f}",
            f"{one['tokens']:,}",
            *(["yes" if one["same_ids_as_ours"] else "no"] * is_race),
        )
        for name, one in results["contenders"].items()
    ]
    heading = (
        f"Encoding: {results['corpus']}, {results['documents']:,} documents, {size(results['bytes'])}, one thread, "
        f"{results['vocab_size']:,} entries"
    )
    batches = results["batches"]
    notes = [
        "Each round with a newly loaded tokenizer; medians over the rounds, ratios round by round. "
        "Cores: processor time over time, which shows whether a library used only its one thread.",
        f"Batches of {batches['batch_size']} x {batches['seq_len']} from the shards: "
        f"{figure(batches['tokens_per_second']['median'])} tokens/s, one thread.",
    ]
    compared, agreement = [f"{GPTCLI.name} is"] * is_race, ["same ids"] * is_race
    return [Table(heading, ("", "MB/s", *compared, "cores", "tokens", *agreement), rows, notes)]
