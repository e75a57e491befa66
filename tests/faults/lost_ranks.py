"""One rank of two is lost: killed, and the launcher starts both anew, or stopped for ever, or failing by itself."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.jobs import Job
from faults.victim import INTERVAL, being_saved, make_corpus, newest_good, train_command
from gptcli.train.verify_resume import first_difference, last_step

KILLS_A_RUN = 3
STEPS = 90
STRATEGIES = ("ddp", "fsdp")
MOMENTS = ("any", "step", "save")


@dataclass
class LostRanks:
    """Counts of a campaign."""

    trials: dict[str, int] = field(default_factory=dict)
    """By strategy."""
    within_a_save: int = 0
    before_the_first_step: int = 0
    """After a start or a restart, before it made its first step."""
    lost_checkpoints: int = 0
    """Kills after which no checkpoint verified, or only an older one than before."""
    most_steps_lost: int = 0
    said_restarts: int = 0
    tracebacks: int = 0
    longest_restart: float = 0.0
    """Seconds from a kill until training goes on."""
    runs: int = 0
    failures: list[str] = field(default_factory=list)
    """Runs that did not end, or not as the undisturbed one."""


def lost_rank_campaign(
    folder: Path,
    trials: int,
    strategies: Sequence[str] = STRATEGIES,
    seed: int = 0,
    environment: dict[str, str] | None = None,
) -> LostRanks:
    """Kill one rank of two `trials` times in all, `KILLS_A_RUN` times in each training, and compare how they end."""
    chance, counts = random.Random(seed), LostRanks()
    corpus = make_corpus(folder)
    environment = {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"} | (environment or {})
    for number, strategy in enumerate(strategies):
        whole, settings = folder / f"whole-{strategy}", {"parallel__strategy": strategy, "train__max_steps": STEPS}
        with Job(train_command(corpus, whole, **settings), folder, environment=environment) as job:
            assert job.wait() == 0, job.said
        wanted = trials * (number + 1) // len(strategies) - trials * number // len(strategies)
        while counts.trials.get(strategy, 0) < wanted:
            run = folder / f"killed-{counts.runs}"
            kills = min(KILLS_A_RUN, wanted - counts.trials.get(strategy, 0))
            arguments = [*train_command(corpus, run, **settings), f"--max-restarts={kills}"]
            with Job(arguments, folder, environment=environment) as job:
                killer = Killer(job, run, strategy, chance, counts)
                for kill in range(kills):
                    killer.kill(chance.choice(MOMENTS), (kill + 1) * STEPS // (kills + 1))
                killer.wait_until_it_goes_on()
                code = job.wait()
            difference = first_difference(whole, run) if code == 0 else f"exit {code}: {job.said[-2000:]}"
            counts.said_restarts += job.said.count("2 ranks are restarted")
            counts.tracebacks += job.said.count("Traceback")
            counts.failures += [f"{strategy}, {run.name}: {difference}"] if difference else []
            counts.runs += 1
    return counts


class Killer:
    """Kills a rank of a job again and again, and counts."""

    def __init__(self, job: Job, run: Path, strategy: str, chance: random.Random, counts: LostRanks) -> None:
        self.job, self.run, self.strategy, self.chance, self.counts = job, run, strategy, chance, counts
        self.gone: set[int] = set()
        """The ranks that were there at the last kill."""
        self.reached, self.killed = 0, 0.0
        """The last step before it, and when it was."""

    def kill(self, moment: str, step: int) -> None:
        """Kill one rank at any moment (of the start too), or about at `step`, or in the midst of the save after it."""
        job, counts = self.job, self.counts
        job.wait_for(lambda: len(set(job.ranks().values()) - self.gone) == 2)
        ranks = job.ranks()
        self.wait_for_moment(moment, step)
        assert job.is_running(), f"it ended before it could be killed:\n{job.said}"
        counts.within_a_save += bool(being_saved(self.run))
        counts.before_the_first_step += not self.goes_on()
        before = newest_good(self.run)
        os.kill(ranks[self.chance.randrange(2)], signal.SIGKILL)
        self.killed = time.monotonic()
        counts.trials[self.strategy] = counts.trials.get(self.strategy, 0) + 1
        self.gone = set(ranks.values())
        job.wait_for(lambda: not self.gone & set(job.ranks().values()))
        self.reached, good = last_step(self.run), newest_good(self.run)
        counts.lost_checkpoints += good < before
        counts.most_steps_lost = max(counts.most_steps_lost, self.reached - good)

    def wait_for_moment(self, moment: str, step: int) -> None:
        if moment == "any":
            end = time.monotonic() + self.chance.uniform(0, 12)
            self.job.wait_for(lambda: time.monotonic() > end or last_step(self.run) >= step)
            return
        self.wait_until_it_goes_on()
        target = step - self.chance.randrange(2 * INTERVAL)
        self.job.wait_for(lambda: last_step(self.run) >= target, 240)
        if moment == "save":
            known = set(being_saved(self.run))
            self.job.wait_for(lambda: bool(set(being_saved(self.run)) - known))
            time.sleep(self.chance.uniform(0, 0.02))

    def goes_on(self) -> bool:
        """Whether a step was made since the last start."""
        return last_step(self.run) not in (0, self.reached)

    def wait_until_it_goes_on(self) -> None:
        self.job.wait_for(self.goes_on, 240)
        if self.killed:
            self.counts.longest_restart = max(self.counts.longest_restart, time.monotonic() - self.killed)
