"""A disk that is full, or a file that cannot grow: earlier checkpoints stay, nothing half-written is left, and the
message says what is needed and what is free."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Command, Nursery
from faults.victim import INTERVAL, being_saved, make_corpus, newest_good, train_command
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.train.verify_resume import first_difference, last_step

PAGE = 4096


@dataclass
class Disk:
    """Counts of a campaign, and what went wrong in words."""

    failed_writes: int = 0
    full_disks: int = 0
    failures: list[str] = field(default_factory=list)


def disk_campaign(nursery: Nursery, folder: Path, offsets: int, sizes: int, seed: int = 0) -> Disk:
    """Let writes fail at `offsets` places, and train on `sizes` file systems that are too small (0 where not root)."""
    chance, counts = random.Random(seed), Disk()
    corpus = make_corpus(folder)
    whole = folder / "whole"
    assert nursery.run(train_command(corpus, whole), folder).code == 0
    begun = folder / "begun"
    command = nursery.start(train_command(corpus, begun), folder)
    while command.is_running() and last_step(begun) < 2 * INTERVAL:
        time.sleep(0.001)
    command.send(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM, command.said
    largest = max(path.stat().st_size for path in (begun / "checkpoints").rglob("*.safetensors"))
    for number in range(offsets):
        run = folder / f"offset-{number}"
        shutil.copytree(begun, run)
        command = nursery.run(train_command(corpus, run), folder, file_size=chance.randrange(largest))
        counts.failed_writes += 1
        counts.failures += wrong_after(command, run, begun, f"writes fail at {number}")
        counts.failures += wrong_when_resumed(nursery, folder, corpus, run, whole)
    size = sum(PAGE * (1 + path.stat().st_size // PAGE) for path in begun.rglob("*"))
    for _ in range(sizes):
        with small_file_system(folder / "small", size + chance.randrange(3 * largest)) as place:
            run = place / "run"
            shutil.copytree(begun, run)
            command = nursery.run(train_command(corpus, run), folder)
            counts.full_disks += 1
            if command.code != 0:  # it may have been large enough
                counts.failures += wrong_after(command, run, begun, "a full disk")
            roomy = folder / f"roomy-{counts.full_disks}"
            shutil.copytree(run, roomy)
        counts.failures += wrong_when_resumed(nursery, folder, corpus, roomy, whole)
    return counts


def wrong_after(command: Command, run: Path, begun: Path, what: str) -> list[str]:
    """What a training whose saves failed did wrong."""
    wrong = []
    if command.code != 5 or "Traceback" in command.said:
        wrong.append(f"{what}: exit {command.code}, {command.last_line}")
    if "bytes" not in command.last_line or "free" not in command.last_line:
        wrong.append(f"{what}: no needed and free bytes in: {command.last_line}")
    if newest_good(run) < newest_good(begun):
        wrong.append(f"{what}: the checkpoint of step {newest_good(begun)} is not whole any more")
    if being_saved(run):
        wrong.append(f"{what}: {being_saved(run)} is left")
    steps = [line["step"] for line in MetricsLog(run / "metrics.jsonl").read()]
    if steps != list(range(1, len(steps) + 1)):
        wrong.append(f"{what}: the metrics have steps {steps}")
    return wrong


def wrong_when_resumed(nursery: Nursery, folder: Path, corpus: Path, run: Path, whole: Path) -> list[str]:
    """What differs from an unbroken run once there is room again and the training went on."""
    command = nursery.run(train_command(corpus, run), folder)
    difference = first_difference(whole, run) if command.code == 0 else command.last_line
    shutil.rmtree(run)
    return [f"with room again: {difference}"] if difference else []


@contextlib.contextmanager
def small_file_system(place: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)


def can_mount(place: Path) -> bool:
    try:
        with small_file_system(place, 2**20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
