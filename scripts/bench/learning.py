"""`learn`: seconds of training until given losses on the whole validation split, of gptcli and nanoGPT."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.curves import Run, crossing
from bench.learning_runs import LearningSetup, run_nanogpt, run_ours
from bench.nanogpt_command import recipe_for
from bench.picture import draw_curves
from gptcli.console import duration, say
from gptcli.errors import UsageError
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.jobs import Program
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, shown, times
from gptcli.report.bench.workers import unless_it_fails

Train = Callable[[int, Path], Run]
"""(seed, an empty folder) -> the run."""
NAMED_ARGUMENTS = re.compile(r"(?:(?P<name>[A-Za-z][\w.+-]*)=(?=--|config/))?(?P<arguments>.*)", re.DOTALL)


@dataclass(frozen=True)
class LearningRequest:
    """A corpus, the contenders that learn it, and the losses to reach."""

    corpus: tuple[str, ...]
    ours: tuple[tuple[str, tuple[str, ...]], ...]
    """Name and config files of each of gptcli's contenders."""
    assignments: tuple[str, ...] = ()
    nanogpt: tuple[tuple[str, str], ...] = ()
    """Names and arguments of nanoGPT's train.py; empty for those of its README."""
    targets: tuple[float, ...] = (1.88, 1.70, 1.61)
    """Losses in nats a character."""
    seeds: tuple[int, ...] = (1, 2, 3)
    eval_every: int = 100
    picture: Path | None = None


def measure(request: LearningRequest, options: BenchOptions, peers: Sequence[Program]) -> Outcome:
    """Run every contender in turn, once for each seed.

    Raises:
        UsageError: no corpus is named, or two contenders have the same name.
        BenchError: a run of gptcli failed; a peer whose run fails is left out.
    """
    if not request.corpus:
        raise UsageError("no corpus to learn", "name one: learn book.txt")
    setup = LearningSetup(request.corpus, request.eval_every, options.threads, options.device)
    runs = alternate(contenders(request, peers, setup), len(request.seeds))
    ours = [name for name, _ in request.ours]
    results = {
        "corpus": shown(request.corpus),
        "eval_every_steps": request.eval_every,
        "targets": list(request.targets),
        "contenders": {name: summary(own, request.targets) for name, own in runs.items()},
        "sooner": {
            name: {mine: sooner(runs[mine], own, request.targets) for mine in ours}
            for name, own in runs.items()
            if name not in ours
        },
    }
    if request.picture:
        curves = {name: [run.curve for run in own] for name, own in runs.items()}
        draw_curves(curves, request.targets, results["corpus"], request.picture)
    return Outcome("learn", results, tables(results))


def contenders(
    request: LearningRequest, peers: Sequence[Program], setup: LearningSetup
) -> dict[str, Callable[[], Run | None]]:
    """Return gptcli with every config, then nanoGPT with every set of arguments; each runs its seeds one by one.

    Raises:
        UsageError: two have the same name.
    """
    entries: list[tuple[str, bool, Train]] = [
        (name, True, partial(run_ours, setup, configs, request.assignments)) for name, configs in request.ours
    ]
    for peer in peers:
        for name, arguments in request.nanogpt or ((peer.name, recipe_for(setup.device)),):
            entries.append((name, False, partial(run_nanogpt, setup, peer.checkout, arguments)))
    found: dict[str, Callable[[], Run | None]] = {}
    for name, is_essential, train in entries:
        if name in found:
            raise UsageError(f"two contenders are called {name}", "name them: --ours NAME=..., --nanogpt-args NAME=...")
        found[name] = turns(name, is_essential, train, request.seeds)
    return found


def turns(name: str, is_essential: bool, train: Train, seeds: Sequence[int]) -> Callable[[], Run | None]:
    """Return a function whose calls run the seeds one by one, each in a temporary folder of its own."""
    waiting = iter(seeds)

    def run_next() -> Run | None:
        seed = next(waiting)
        with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as folder:
            run = unless_it_fails(is_essential, lambda: train(seed, Path(folder)))
        if run is not None:
            lowest, steps = run.lowest, run.points[-1].stepping_seconds
            say(
                f"{name}, seed {seed}: lowest loss {lowest.loss:.4f} at step {lowest.step:,}, {duration(steps)} of "
                f"steps, {duration(run.wall_seconds)} in all"
            )
        return run

    return run_next


def summary(runs: Sequence[Run], targets: Sequence[float]) -> dict[str, Any]:
    """Return one contender's figures: medians over its seeds, and the number of runs that reached each target."""
    reached = {}
    for target in targets:
        warm = [seconds for run in runs if (seconds := crossing(run.curve, target)) is not None]
        cold = [seconds for run in runs if (seconds := crossing(run.cold_curve, target)) is not None]
        reached[str(target)] = {
            "runs": len(warm),
            "seconds": spread(warm).report() if warm else None,
            "cold_seconds": spread(cold).report() if cold else None,
        }
    return {
        "targets": reached,
        "lowest_loss": spread([run.lowest.loss for run in runs]).report(),
        "lowest_at_seconds": spread([run.lowest.stepping_seconds for run in runs]).report(),
        "step_seconds": spread([run.median_step_seconds for run in runs]).report(),
        "first_step_seconds": spread([run.first_step_seconds for run in runs]).report(),
        "startup_seconds": spread([run.startup_seconds for run in runs]).report(),
        "wall_seconds": spread([run.wall_seconds for run in runs]).report(),
        "runs": [run.report() for run in runs],
    }


def sooner(ours: Sequence[Run], theirs: Sequence[Run], targets: Sequence[float]) -> dict[str, Any]:
    """Return how many times sooner gptcli reaches each target, seed by seed; None if one of its runs does not.

    A run of theirs that ends above the target counts with all its time, and the factor is then a lower bound.
    """
    factors: dict[str, Any] = {}
    for target in targets:
        own = [crossing(run.curve, target) for run in ours]
        other = [crossing(run.curve, target) for run in theirs]
        if any(seconds is None for seconds in own):
            factors[str(target)] = None
            continue
        waited = [run.curve[-1][0] if seconds is None else seconds for run, seconds in zip(theirs, other, strict=True)]
        factors[str(target)] = ratios(waited, own).report() | {"at_least": None in other}
    return factors


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the tables of the results."""
    return [seconds_table(results), *([sooner_table(results)] if results["sooner"] else []), run_table(results)]


def seconds_table(results: dict[str, Any]) -> Table:
    """Return the table of the seconds to each target."""
    rows = [
        (name, *(seconds_to(one["targets"][str(target)], len(one["runs"])) for target in results["targets"]))
        for name, one in results["contenders"].items()
    ]
    columns = ("", *(f"to {target:.2f}" for target in results["targets"]))
    notes = [
        "Steps alone, the first as long as the median one; in brackets from the command on, with imports, data, "
        "compilation and the first step as they were. Evaluations and checkpoints are in neither.",
        "Losses are of the whole validation split, on a straight line between two measurements "
        f"({results['eval_every_steps']} steps, unless a contender's settings say otherwise); medians over the seeds.",
    ]
    return Table(f"Seconds of training to a validation loss: {results['corpus']}", columns, rows, notes)


def seconds_to(reached: dict[str, Any], runs: int) -> str:
    """Format `7.02 s (12.1 s)`, with the number of runs that reached the target if not all did."""
    if not reached["runs"]:
        return "-"
    text = f"{figure(reached['seconds']['median'], 's')} ({figure(reached['cold_seconds']['median'], 's')})"
    return text if reached["runs"] == runs else f"{text}, {reached['runs']} of {runs} runs"


def sooner_table(results: dict[str, Any]) -> Table:
    """Return the table of the factors between gptcli and each peer."""
    rows = [
        (f"{mine} against {peer}", *(factor_to(factors[str(target)]) for target in results["targets"]))
        for peer, against in results["sooner"].items()
        for mine, factors in against.items()
    ]
    columns = ("", *(f"to {target:.2f}" for target in results["targets"]))
    return Table("How many times sooner", columns, rows, ["Seconds of steps, theirs over ours, seed by seed."])


def factor_to(factor: dict[str, Any] | None) -> str:
    """Format `6.65x (6.41 to 6.80)`, with a > before it if their run ended above the target."""
    return f"> {times(factor)}" if factor and factor["at_least"] else times(factor)


def run_table(results: dict[str, Any]) -> Table:
    """Return the table of each contender's runs."""
    rows = [
        (
            name,
            f"{one['lowest_loss']['median']:.4f}",
            figure(one["lowest_at_seconds"]["median"], "s"),
            figure(1000 * one["step_seconds"]["median"], "ms"),
            figure(one["first_step_seconds"]["median"], "s"),
            figure(one["startup_seconds"]["median"], "s"),
            figure(one["wall_seconds"]["median"], "s"),
        )
        for name, one in results["contenders"].items()
    ]
    columns = ("", "lowest loss", "after", "step", "first step", "start to first step", "whole command")
    return Table(f"The runs: {results['corpus']}", columns, rows, ["Medians over the seeds."])


def parse_ours(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `NAME=CONFIG`, or a CONFIG, which is named after its file; return (name, config files)."""
    name, equals, config = text.partition("=")
    return (name, (config,)) if equals else (Path(text).stem, (text,))


def parse_arguments(text: str) -> tuple[str, str]:
    """Read `ARGS` or `NAME=ARGS`, where ARGS are nanoGPT's and begin with -- or config/; return (name, arguments)."""
    match = NAMED_ARGUMENTS.fullmatch(text.strip())
    return match["name"] or "nanogpt", match["arguments"]
