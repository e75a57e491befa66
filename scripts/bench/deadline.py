"""`deadline`: bits per byte of the whole validation split after so many minutes, of gptcli, nanoGPT and xz.

Every corpus is split once, and all contenders get the same two texts. The whole run counts against the deadline: its
start, gptcli's reading and encoding, evaluations and checkpoints.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.deadline_runs import (
    EARLY,
    MEASUREMENTS,
    TRIAL_ITERATIONS,
    WARMUP_ITERATIONS,
    WARMUP_PART,
    Finish,
    Script,
    run_nanogpt,
    run_ours,
    try_out,
    xz_bits_per_byte,
)
from bench.nanogpt_command import recipe_for, write_ids
from bench.split_text import SplitText, split_text
from gptcli.console import duration, say
from gptcli.errors import UsageError
from gptcli.report.bench.comparison import spread
from gptcli.report.bench.jobs import GPTCLI, Program
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, shown
from gptcli.report.bench.workers import BenchError
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

Result = TypeVar("Result")
Train = Callable[[float, int, Path], Finish]
"""(seconds, seed, an empty folder) -> the run."""
Encode = Callable[[], dict[str, np.ndarray]]
"""Returns the ids of "train" and of "val"."""
CHARACTERS, SUBWORDS = "nanoGPT char", "nanoGPT GPT-2 BPE"
VOCAB_MULTIPLE = 64
"""nanoGPT rounds GPT-2's 50,257 tokens up to 50,304, a multiple of this."""
NOTES = (
    "Over the whole last tenth of each corpus, the same text for all; medians over the seeds. The wall seconds are the "
    "whole command's.",
    f"nanoGPT, by its own train.py, has the lowest loss of its {MEASUREMENTS} checkpoints, looked for from the last "
    "one backwards, and in brackets its command's seconds; its data set was there before, and its checkpoints were "
    "measured on the whole split afterwards, so that of its own evaluations one batch was enough.",
    f"Its iterations, over which its rate decays, were chosen for the deadline by a trial of {TRIAL_ITERATIONS}, which "
    f"is not counted; it warms up for {WARMUP_ITERATIONS} of them, or 1 in {WARMUP_PART} where that is less. A run "
    f"that ended before {100 * EARLY:.0f} % of its time was over was done once more, by the speed that it had shown.",
    "xz -9e, with a dictionary as large as the text: what the last tenth adds to the rest, in whatever time it takes.",
)


@dataclass(frozen=True)
class DeadlineRequest:
    """Corpora to learn, one by one, and the time for each."""

    corpora: tuple[str, ...]
    minutes: tuple[float, ...] = (1.0, 5.0, 15.0)
    seeds: tuple[int, ...] = (1,)
    gpt2_vocab: Path | None = None
    """A folder with GPT-2's vocab.json and merges.txt; None for nanoGPT with characters alone."""
    without_characters: bool = False
    """Whether nanoGPT is measured with GPT-2's tokens alone."""
    nanogpt: str | None = None
    """Arguments of nanoGPT's train.py; None for those of its README."""


def measure(request: DeadlineRequest, options: BenchOptions, peers: Sequence[Program]) -> Outcome:
    """Run all contenders in turn on every corpus, for every deadline and seed.

    Raises:
        UsageError: no corpus is named, or no form of the text remains for nanoGPT.
        TokenizerError: the GPT-2 vocabulary is missing.
        DataError, StorageError: a corpus cannot be read.
        BenchError: a run of gptcli failed; a peer whose run fails is left out.
    """
    if not request.corpora:
        raise UsageError("no corpus to learn", "name one or more: deadline book.txt code/")
    if request.without_characters and not request.gpt2_vocab:
        raise UsageError("without characters nanoGPT needs other tokens", "add --gpt2-vocab DIR")
    tokenizer = load_tokenizer(request.gpt2_vocab) if request.gpt2_vocab else None
    if peers and tokenizer is None:
        say(f"without {SUBWORDS}: --gpt2-vocab DIR, a folder with GPT-2's vocab.json and merges.txt")
    corpora = {}
    for corpus in dict.fromkeys(request.corpora):
        with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as folder:
            corpora[corpus] = measure_corpus(corpus, request, options, peers, tokenizer, Path(folder))
    results = {
        "minutes": list(request.minutes),
        "seeds": list(request.seeds),
        "gpt2_vocab": tokenizer is not None,
        "corpora": corpora,
    }
    return Outcome("deadline", results, tables(results))


def measure_corpus(
    corpus: str,
    request: DeadlineRequest,
    options: BenchOptions,
    peers: Sequence[Program],
    tokenizer: Tokenizer | None,
    folder: Path,
) -> dict[str, Any]:
    """Measure one corpus: its sizes, xz's figure, and every contender's results for each deadline."""
    text = split_text(corpus, folder / "cache")
    train, val = text.as_bytes()
    ours = partial(run_ours, corpus, threads=options.threads, device=options.device)
    contenders: dict[str, Train] = {GPTCLI.name: ours}
    left_out: dict[str, str] = {}
    arguments = tuple((request.nanogpt or recipe_for(options.device)).split())
    for peer in peers:
        for name, encode, vocab_size in encodings(text, tokenizer, request.without_characters):
            place = folder / name.replace(" ", "-")
            script = Script(peer.checkout, place / "dataset", arguments, options.threads, options.device)
            entered = unless_left_out(name, left_out, partial(enter, script, encode, vocab_size, len(val), place))
            if entered is not None:
                contenders[name] = entered
    deadlines = {
        f"{minutes:g}": run_deadline(corpus, minutes, request.seeds, contenders, left_out)
        for minutes in request.minutes
    }
    say(f"{shown([corpus])}: xz")
    return {
        "train_bytes": len(train),
        "val_bytes": len(val),
        "xz_bits_per_byte": xz_bits_per_byte(train, val),
        "deadlines": deadlines,
    }


def encodings(
    text: SplitText, tokenizer: Tokenizer | None, without_characters: bool = False
) -> list[tuple[str, Encode, int | None]]:
    """Return the forms in which nanoGPT gets the text: (name, function for the ids, size of the vocabulary).

    The size is None for a vocabulary of the ids that occur.
    """
    forms: list[tuple[str, Encode, int | None]] = [] if without_characters else [(CHARACTERS, text.characters, None)]
    if tokenizer is not None:
        rounded = math.ceil(tokenizer.vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        forms.append((SUBWORDS, partial(text.tokens, tokenizer), rounded))
    return forms


def enter(script: Script, encode: Encode, vocab_size: int | None, val_bytes: int, place: Path) -> Train:
    """Write the script's data set, make a trial run, and return a function that runs the script.

    Raises:
        BenchError: the ids do not fit nanoGPT's files, or the trial failed.
    """
    ids = encode()
    write_ids(script.dataset, ids, vocab_size)
    return partial(run_nanogpt, script, try_out(script, place), len(ids["val"]) / val_bytes)


def run_deadline(
    corpus: str, minutes: float, seeds: Sequence[int], contenders: Mapping[str, Train], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Run all contenders to one deadline, a seed at a time; `left_out` names those that could not start, and why."""
    missing, runs = dict(left_out), {name: [] for name in contenders}
    for seed in seeds:
        for name, train in contenders.items():
            if name in missing:
                continue
            with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as folder:
                finish = unless_left_out(name, missing, partial(train, 60 * minutes, seed, Path(folder)))
            if finish is not None:
                runs[name].append(finish)
                say(
                    f"{shown([corpus])}, {minutes:g} min, {name}, seed {seed}: {finish.bits_per_byte:.4f} bits per "
                    f"byte, {duration(finish.wall_seconds)}"
                )
    summaries = {name: summary(own) for name, own in runs.items() if name not in missing}
    return {"contenders": summaries, "over_better_nanogpt": ratio(summaries), "left_out": missing}


def unless_left_out(name: str, left_out: dict[str, str], action: Callable[[], Result]) -> Result | None:
    """Return what `action` returns, or None if a peer's fails, whose reason is then added to `left_out`."""
    try:
        return action()
    except BenchError as error:
        if name == GPTCLI.name:
            raise
        say(f"{name}: {error}; left out")
        left_out[name] = str(error)
        return None


def summary(finishes: Sequence[Finish]) -> dict[str, Any]:
    """Return one contender's figures over its seeds."""
    return {
        "bits_per_byte": spread([finish.bits_per_byte for finish in finishes]).report(),
        "wall_seconds": spread([finish.wall_seconds for finish in finishes]).report(),
        "runs": [finish.report() for finish in finishes],
    }


def ratio(contenders: Mapping[str, Any]) -> float | None:
    """Return gptcli's median bits per byte over those of the better nanoGPT (below 1: gptcli is better), or None."""
    theirs = [one["bits_per_byte"]["median"] for name, one in contenders.items() if name != GPTCLI.name]
    return contenders[GPTCLI.name]["bits_per_byte"]["median"] / min(theirs) if theirs else None


def tables(results: dict[str, Any]) -> list[Table]:
    """Return one table for each deadline."""
    return [deadline_table(f"{minutes:g}", results["corpora"]) for minutes in results["minutes"]]


def deadline_table(minutes: str, corpora: Mapping[str, Any]) -> Table:
    """Return the table of one deadline."""
    rows, reasons = [], []
    for corpus, one in corpora.items():
        held = one["deadlines"][minutes]
        ours, over = held["contenders"][GPTCLI.name], held["over_better_nanogpt"]
        rows.append(
            (
                shown([corpus]),
                bits(ours),
                "; ".join(dict.fromkeys(run["facts"]["chosen"] for run in ours["runs"])),
                f"{ours['wall_seconds']['median']:.1f} s",
                *(bits_and_seconds(held["contenders"].get(name)) for name in (CHARACTERS, SUBWORDS)),
                f"{one['xz_bits_per_byte']:.3f}",
                "-" if over is None else f"{over:.3f}x",
            )
        )
        reasons += [f"Left out on {shown([corpus])}: {name} ({reason})." for name, reason in held["left_out"].items()]
    columns = ("", "gptcli", "what it chose", "wall", CHARACTERS, SUBWORDS, "xz", "gptcli over the better nanoGPT")
    return Table(f"Bits per byte after {minutes} min", columns, rows, [*NOTES, *reasons])


def bits(ours: Mapping[str, Any]) -> str:
    """Format the median, with the part of the split that it was measured on if there was no time for all of it."""
    part = min(run["facts"]["val_part"] for run in ours["runs"])
    return f"{ours['bits_per_byte']['median']:.3f}" + (f" ({100 * part:.2g} % measured)" if part < 1 else "")


def bits_and_seconds(one: Mapping[str, Any] | None) -> str:
    """Format the medians of a contender; a dash if it was left out."""
    if one is None:
        return "-"
    return f"{one['bits_per_byte']['median']:.3f} ({one['wall_seconds']['median']:.1f} s)"
