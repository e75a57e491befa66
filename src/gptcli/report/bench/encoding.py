"""`gptcli bench data`: text encoded a second in one thread, ours and each library's, and whether the ids agree."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import Progress, say, size
from gptcli.data.config import DataConfig
from gptcli.data.corpus import open_corpus
from gptcli.errors import DataError
from gptcli.report.bench.contest import alternate, ratios, spread
from gptcli.report.bench.crew import OURS, crew, rounds
from gptcli.report.bench.jobs import EncodingJob, Task
from gptcli.report.bench.peers import GPTCLI, Chosen
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table, figure, shown, times
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
    """Of the corpus, so much is taken from its beginning."""
    tokenizer: str | None = None
    """A tokenizer's reference; none: one is learnt from the texts."""
    vocab_size: int = 8192
    """Of a tokenizer that is learnt."""


def measure(request: EncodingRequest, peers: Sequence[Chosen], setting: Setting) -> Outcome:
    """Every library encodes the same texts, in turn.

    Raises:
        DataError, TokenizerError: the texts or the tokenizer cannot be read.
        BenchError: ours failed.
    """
    texts = read_corpus(request)
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        folder, file = Path(scratch) / "tokenizer", Path(scratch) / "texts.json"
        file.write_text(strict_json.dumps(texts))
        tokenizer = prepare_tokenizer(request, texts)
        tokenizer.save(folder)
        job = EncodingJob(str(folder), str(file), SEQ_LEN, BATCH_SIZE, setting.seconds, scratch)
        tasks = {peer.name: Task(peer.module, "data", job) for peer, _ in (Chosen(GPTCLI), *peers)}
        with crew(tasks, threads=1) as workers, Progress("data", setting.rounds, unit="rounds") as progress:
            players = {name: rounds(worker, what="encode") for name, worker in workers.items()}
            players[BATCHES] = rounds(workers[OURS], what=BATCHES)
            played = alternate(players, setting.rounds, lambda _: progress.update())
    batches = [play["tokens_per_second"] for play in played.pop(BATCHES)]
    results = {
        "corpus": shown(request.corpus),
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "vocab_size": tokenizer.vocab_size,
        "contenders": {name: standing(plays, played[OURS]) for name, plays in played.items()},
        "batches": {
            "seq_len": SEQ_LEN,
            "batch_size": BATCH_SIZE,
            "tokens_per_second": spread(batches).report(),
        },
    }
    return Outcome("data", results, tables(results))


def read_corpus(request: EncodingRequest) -> list[str]:
    """Whole documents from the beginning of the corpus, until there are `megabytes` of them; at least one."""
    texts: list[str] = []
    total = 0
    for document in open_corpus(request.corpus, DataConfig()):
        if texts and total >= request.megabytes * 1e6:
            say(f"the first {size(total)} of {' '.join(request.corpus)} are taken (--megabytes)")
            break
        texts.append(document.text)
        total += len(document.text.encode())
    if not texts:
        raise DataError(f"{' '.join(request.corpus)} holds no text", "name files with text")
    return texts


def prepare_tokenizer(request: EncodingRequest, texts: Sequence[str]) -> Tokenizer:
    if request.tokenizer:
        return open_tokenizer(request.tokenizer)
    say(f"learning a BPE of {request.vocab_size:,} entries from the texts")
    return build_tokenizer(BpeTokenizerConfig(vocab_size=request.vocab_size), lambda: iter(texts))


def standing(plays: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One library's figures."""
    rates = [play["bytes_per_second"] for play in plays]
    return {
        "bytes_per_second": spread(rates).report(),
        "ours_over_this": ratios([play["bytes_per_second"] for play in ours], rates).report(),
        "cores": spread([play["cores"] for play in plays]).report(),
        "tokens": plays[-1]["tokens"],
        "same_ids_as_ours": plays[-1]["ids"] == ours[-1]["ids"],
    }


def tables(results: dict[str, Any]) -> list[Table]:
    rows = [
        (
            name,
            figure(one["bytes_per_second"]["median"] / 1e6),
            "" if name == OURS else times(one["ours_over_this"]),
            f"{one['cores']['median']:.2f}",
            f"{one['tokens']:,}",
            "yes" if one["same_ids_as_ours"] else "no",
        )
        for name, one in results["contenders"].items()
    ]
    heading = (
        f"Encoding: {results['corpus']}, {results['documents']:,} documents, {size(results['bytes'])}, one thread, "
        f"{results['vocab_size']:,} entries"
    )
    batches = results["batches"]
    notes = [
        "Each round by a tokenizer that has seen none of the texts; medians over the rounds, ratios round by round. "
        "Cores: processor time over time, which shows whether a library kept to its one thread.",
        f"Batches of {batches['batch_size']} x {batches['seq_len']} from the shards: "
        f"{figure(batches['tokens_per_second']['median'])} tokens/s, one thread.",
    ]
    return [Table(heading, ("", "MB/s", f"{OURS} is", "cores", "tokens", "same ids"), rows, notes)]
