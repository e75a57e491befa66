"""`prepare`: the preparation of a large corpus for training, beside its encoding by `tokenizers` alone."""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.large_corpus import write_large_corpus
from bench.memory import Usage, watch
from gptcli.console import Progress, say, size
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.encoding import EncodingRequest, prepare_tokenizer, read_corpus
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, shown, times
from gptcli.report.bench.workers import BenchError, environment, last_line

ALONE = "tokenizers alone"
ENCODED_BYTES = 64_000_000
"""Size of the part of the corpus that `tokenizers` encodes in a round."""

ENCODE = """
    import json, sys, time
    from pathlib import Path
    import tokenizers
    backend = tokenizers.Tokenizer.from_file(sys.argv[1])
    backend.encode_special_tokens = True
    seconds = encoded = 0
    for path in sorted(Path(sys.argv[2]).glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            wanted = int(sys.argv[3]) * path.stat().st_size // int(sys.argv[4])
            while wanted > 0 and (lines := file.readlines(1 << 22)):
                texts = [json.loads(line)["text"] for line in lines]
                began = time.perf_counter()
                for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
                    len(encoding.ids)
                seconds += time.perf_counter() - began
                encoded += sum(len(text.encode()) for text in texts)
                wanted -= sum(map(len, lines))
    print(encoded / seconds)
"""


@dataclass(frozen=True)
class PreparingRequest:
    """The texts that the large corpus is made of, and its size."""

    corpus: tuple[str, ...] = ("python:stdlib",)
    gigabytes: float = 2.0
    megabytes: float = 10.0
    """Size of the part of `corpus` that is read, from its start, and repeated with other words."""
    vocab_size: int = 8192
    is_killed: bool = True
    """Whether another preparation is killed in the middle and started again."""


def measure(request: PreparingRequest, options: BenchOptions) -> Outcome:
    """Prepare the whole corpus in every round by one process and by one for each thread, with cold caches.

    Raises:
        DataError: the corpus cannot be read.
        BenchError: a command failed.
    """
    texts = read_corpus(EncodingRequest(request.corpus, request.megabytes))
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        folder = Path(scratch)
        tokenizer = prepare_tokenizer(EncodingRequest(vocab_size=request.vocab_size), texts)
        tokenizer.save(folder / "tokenizer")
        (folder / "corpus").mkdir()
        write_large_corpus(folder / "corpus", texts, int(request.gigabytes * 1e9))
        written = sum(path.stat().st_size for path in (folder / "corpus").iterdir())
        say(f"a corpus of {size(written)} is written")
        workers = sorted({1, options.threads})
        contenders: dict[str, Callable[[], dict[str, Any]]] = {
            workers_name(number): partial(prepared, folder, number, options.threads) for number in workers
        }
        contenders[ALONE] = partial(encoded, folder, options.threads, written)
        with Progress("prepare", options.rounds, unit="rounds") as progress:
            measured = alternate(contenders, options.rounds, lambda _: progress.update())
        most = workers_name(workers[-1])
        resumed = None
        if request.is_killed:
            middle = spread([one["seconds"] for one in measured[most]]).median / 2
            resumed = killed_and_resumed(folder, workers[-1], options.threads, middle)
    results = {
        "corpus": shown(request.corpus),
        "bytes": written,
        "vocab_size": tokenizer.vocab_size,
        "contenders": {name: summary(values, measured[ALONE]) for name, values in measured.items()},
        "documents": measured[most][0]["documents"],
        "dropped": measured[most][0]["dropped"],
        "resumed": resumed,
    }
    return Outcome("prepare", results, tables(results))


def workers_name(workers: int) -> str:
    """Return the name of the contender with so many workers."""
    return f"gptcli data prepare --workers {workers}"


def prepared(folder: Path, workers: int, threads: int) -> dict[str, Any]:
    """Run one preparation without a cache and return seconds, memory, and bytes of the corpus a second."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        taken, report = prepare(folder, Path(cache), workers, threads)
    written = sum(path.stat().st_size for path in (folder / "corpus").iterdir())
    return figures(taken, written) | {
        "documents": report["train"]["documents"] + report["val"]["documents"],
        "dropped": report["dropped"]["duplicates"],
    }


def figures(taken: Usage, written: int) -> dict[str, Any]:
    """Return a preparation's figures for JSON."""
    return {
        "seconds": taken.seconds,
        "bytes_per_second": written / taken.seconds,
        "proportional_bytes": taken.proportional_bytes,
        "resident_bytes": taken.resident_bytes,
    }


def prepare(
    folder: Path, cache: Path, workers: int, threads: int, kill_after: float | None = None
) -> tuple[Usage, dict[str, Any]]:
    """Run the command; the report of one that is killed is empty.

    Raises:
        BenchError: it failed.
    """
    options = ["--workers", str(workers), "--cache-dir", str(cache), "--json"]
    chosen = ["--set", f"data.tokenizer=file:{folder / 'tokenizer'}"]
    command = [sys.executable, "-P", "-m", "gptcli", "data", "prepare", str(folder / "corpus"), *options, *chosen]
    taken = watch(command, environment(threads), kill_after)
    if taken.status and kill_after is None:
        raise BenchError(f"gptcli data prepare failed: {last_line(taken.errors) or f'status {taken.status}'}")
    return taken, json.loads(taken.output) if taken.status == 0 else {}


def encoded(folder: Path, threads: int, written: int) -> dict[str, Any]:
    """Encode a part of the rows of every file with `tokenizers`, in batches, on so many threads."""
    tokenizer = str(folder / "tokenizer" / "tokenizer.json")
    arguments = [tokenizer, str(folder / "corpus"), str(min(ENCODED_BYTES, written)), str(written)]
    taken = watch([sys.executable, "-P", "-c", textwrap.dedent(ENCODE), *arguments], environment(threads))
    if taken.status:
        raise BenchError(f"{ALONE} failed: {last_line(taken.errors) or f'status {taken.status}'}")
    return {"bytes_per_second": float(taken.output)}


def killed_and_resumed(folder: Path, workers: int, threads: int, seconds: float) -> dict[str, Any]:
    """Kill a preparation after so many seconds, start it again, and compare its tokens with an unbroken one's."""
    with tempfile.TemporaryDirectory(dir=folder) as cache, tempfile.TemporaryDirectory(dir=folder) as other:
        broken, _ = prepare(folder, Path(cache), workers, threads, seconds)
        second, report = prepare(folder, Path(cache), workers, threads)
        whole, unbroken = prepare(folder, Path(other), workers, threads)
        same = all(
            (Path(report["directory"]) / part / "index.json").read_bytes()
            == (Path(unbroken["directory"]) / part / "index.json").read_bytes()
            for part in ("train", "val")
        )
    return {
        "killed_after": broken.seconds,
        "seconds": second.seconds,
        "unbroken_seconds": whole.seconds,
        "proportional_bytes": second.proportional_bytes,
        "same_tokens": same,
    }


def summary(measured: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one contender's figures; memory is the highest of the rounds."""
    rates = [one["bytes_per_second"] for one in measured]
    found: dict[str, Any] = {
        "bytes_per_second": spread(rates).report(),
        "over_alone": ratios(rates, [one["bytes_per_second"] for one in alone]).report(),
    }
    for name in ("proportional_bytes", "resident_bytes"):
        found[name] = max((one[name] for one in measured if name in one), default=None)
    return found


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the table of the results."""
    rows = [
        (
            name,
            figure(one["bytes_per_second"]["median"] / 1e6),
            times(one["over_alone"]) if name != ALONE else "",
            *(
                figure(None if one[which] is None else one[which] / 1e6, "MB")
                for which in ("proportional_bytes", "resident_bytes")
            ),
        )
        for name, one in results["contenders"].items()
    ]
    heading = (
        f"Preparing {size(results['bytes'])} made of {results['corpus']}: {results['documents']:,} documents kept, "
        f"{results['dropped']:,} duplicates dropped, {results['vocab_size']:,} entries"
    )
    notes = [
        "From the files to token shards on the disk: reading, hashing, dropping duplicates, splitting, counting, "
        f"encoding, fsync; with cold caches. {ALONE}: encode_batch_fast of texts in memory, on as many threads. "
        "Memory: the peak over all processes together, as the sum of PSS (shared memory once) and of RSS."
    ]
    if results["resumed"]:
        one = results["resumed"]
        notes.append(
            f"Killed after {figure(one['killed_after'], 's')} and started again it took {figure(one['seconds'], 's')} "
            f"more, unbroken {figure(one['unbroken_seconds'], 's')}; the tokens are "
            f"{'the same' if one['same_tokens'] else 'OTHERS'}."
        )
    return [Table(heading, ("", "MB/s", f"times {ALONE}", "PSS", "RSS"), rows, notes)]
