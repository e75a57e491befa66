"""SIGINT and SIGTERM at any moment of any command: it ends within seconds, leaves no process and no half-written file.

`signals.py` does this with the phases of a training; here are the other commands, and what a training does first.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Command, Nursery
from faults.victim import train_command

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOST_SECONDS = 2.0
"""Within which a command ends, on a machine that does nothing else."""
MODEL = {
    "model__n_layer": 4, "model__n_embd": 256, "model__n_head": 4, "model__context_length": 128, "train__max_steps": 2,
    "train__batch_size": 4, "train__tokens_per_step": 512, "train__eval_tokens": 1024,
}  # fmt: skip

SHORT = " ".join(f"--set={key.replace('__', '.')}={value}" for key, value in (MODEL | {"device": "cpu"}).items())
COMMANDS = {
    "tokenizer train, without word ends": "tokenizer train letters.txt --vocab-size 4000 --out {out}",
    "tokenizer train": "tokenizer train prose.txt --vocab-size 8000 --out {out}",
    "data prepare": "data prepare prose.txt --cache-dir {out} --set=data.tokenizer.vocab_size=4000",
    "data prepare, 2 workers": "data prepare prose.txt --cache-dir {out} --workers 2 --set=data.tokenizer.name=byte",
    "data inspect": "data inspect prose.txt --cache-dir {out}",
    "train, before its first step": f"train prose.txt --out {{out}} --cache-dir {{out}}-cache {SHORT}",
    "eval": "eval run lines.txt --device cpu",
    "generate": "generate run line --max-new-tokens 3000 --device cpu",
    "export --to hf": "export run --to hf --out {out}",
    "export --to gguf": "export run --to gguf --out {out}",
    "import": "import model --out {out}",
    "checkpoint verify": "checkpoint verify run",
    "verify-resume": f"verify-resume lines.txt --steps 4 --kills 1 --out {{out}} {SHORT}",
    "bench limits": "bench limits --device cpu",
}
"""What is interrupted, in a folder with the files that are named; `{out}` is a new path."""


@dataclass
class Interruptions:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    finished: int = 0
    """Commands that ended before the signal came."""
    longest_seconds: float = 0.0
    longest: str = ""
    failures: list[str] = field(default_factory=list)


def interruption_campaign(
    nursery: Nursery, folder: Path, trials: int, seed: int = 0, commands: Mapping[str, str] = COMMANDS
) -> Interruptions:
    """Interrupt each command `trials` times at a random moment, then let it end undisturbed."""
    chance, counts = random.Random(seed), Interruptions()
    prepare(nursery, folder)
    for name, arguments in commands.items():
        began = time.monotonic()
        assert run_once(nursery, folder, arguments, "whole").wait(600) == 0, name
        seconds = time.monotonic() - began
        for number in range(trials):
            command = run_once(nursery, folder, arguments, f"out-{number}")
            wait(command, chance.uniform(0, seconds))
            interrupt(command, chance.choice(SIGNALS), name, counts)
            counts.failures += [f"{name}: it left {path.name}" for path in half_written(folder, f"out-{number}")]
        was_whole = is_whole(folder / f"out-{trials - 1}")
        again = run_once(nursery, folder, arguments, f"out-{trials - 1}")
        code = again.wait(600)
        may_refuse = command.code == 0 or was_whole or "--resume" in again.said  # a run has begun there
        if code != 0 and not may_refuse:
            counts.failures.append(f"{name} after an interruption: exit code {again.code}: {again.last_line}")
        for path in [*folder.glob("out-*"), *folder.glob("whole*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return counts


def prepare(nursery: Nursery, folder: Path) -> None:
    """Write the texts, a run and an exported model that the commands are given."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(20_000)]
    (folder / "prose.txt").write_text("\n\n".join(" ".join(chance.choices(words, k=100)) for _ in range(4000)))
    (folder / "letters.txt").write_text("".join(chance.choices("ACGT", k=2_000_000)))
    (folder / "lines.txt").write_text("".join(f"line {number} of all.\n" for number in range(8000)))
    assert nursery.run(train_command(folder / "lines.txt", folder / "run", **MODEL), folder).code == 0
    assert nursery.run(["export", "run", "--to", "hf", "--out", "model"], folder).code == 0


def run_once(nursery: Nursery, folder: Path, arguments: str, out: str) -> Command:
    return nursery.start(arguments.replace("{out}", out).split(), folder)


def wait(command: Command, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and command.is_running():
        time.sleep(0.005)


def interrupt(command: Command, signum: signal.Signals, name: str, counts: Interruptions) -> None:
    """Send the signal to the command and note how it ends."""
    children = descendants(command.pid)
    began = time.monotonic()
    command.send(signum)
    try:
        code = command.wait(60)
    except TimeoutError:
        counts.failures.append(f"{signum.name} in {name}: it ran on for a minute")
        return
    seconds = time.monotonic() - began
    counts.trials += 1
    if code == 0:
        counts.finished += 1
    elif code not in (128 + signum, -signum):
        counts.failures.append(f"{signum.name} in {name}: exit code {code}: {command.last_line}")
    if "Traceback" in command.said:
        counts.failures.append(f"{signum.name} in {name}: a traceback: {command.last_line}")
    if seconds > counts.longest_seconds:
        counts.longest_seconds, counts.longest = seconds, name
    end = time.monotonic() + 5
    while (left := [child for child in children if is_alive(child)]) and time.monotonic() < end:
        time.sleep(0.05)
    counts.failures += [f"{signum.name} in {name}: process {child} is left" for child in left]


def descendants(pid: int) -> list[int]:
    """The processes that `pid` has started, and theirs."""
    found, new = [], [pid]
    while new:
        parents, new = new, []
        for parent in parents:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{parent}/task").iterdir():
                    new += map(int, (task / "children").read_text().split())
        found += new
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_whole(target: Path) -> bool:
    """Whether a file or a model is there: its command was at its end when the signal came."""
    is_model = (target / "config.json").exists() and (target / "tokenizer.json").exists()
    return is_model or (target.is_file() and os.path.getsize(target) > 0)


def half_written(folder: Path, out: str) -> list[Path]:
    """What an interrupted command left at its target: a file or model directory that is not whole.

    Runs and caches are whole at every moment, in parts; here they only have to be gone on with.
    """
    target = folder / out
    if target.is_dir() and (target / "config.json").exists() and not (target / "tokenizer.json").exists():
        return [target]
    return [target] if target.is_file() and not os.path.getsize(target) else []
