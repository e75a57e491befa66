"""A cache that processes of several pid namespaces share: what a living one writes stays, what a dead one left goes as
soon as that is certain."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gptcli.data.cache import only_writer
from gptcli.storage import TEMPORARY_MARK, clean_temporaries

WRITER = """
import sys
from pathlib import Path
from gptcli.data.cache import only_writer
from gptcli.storage import atomic_directory
entry = Path(sys.argv[1])
with only_writer(entry), atomic_directory(entry) as folder:
    (folder / "part").write_text("written")
    print(flush=True)
    sys.stdin.readline()
"""
CLEANER = """
import sys
from pathlib import Path
from gptcli.data.cache import only_writer
with only_writer(Path(sys.argv[1])):
    pass
"""
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
HOST: list[str] = []


@dataclass
class Leases:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    failures: list[str] = field(default_factory=list)


def can_unshare() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def lease_campaign(folder: Path, trials: int, seed: int = 0) -> Leases:
    """Let a process that writes an entry live or die, here or in a namespace of its own, and others clean meanwhile."""
    counts, chance = Leases(), random.Random(seed)
    places = [HOST, NAMESPACE] if can_unshare() else [HOST]
    for number in range(trials):
        kind = folder / f"tokens-{number}"
        writer_place, cleaner_place = (chance.choice(places) for _ in range(2))
        is_killed = chance.random() < 0.5
        what = f"{'killed' if is_killed else 'living'} in {writer_place[:1]}, cleaned from {cleaner_place[:1]}"
        with writing(writer_place, kind / "entry") as process:
            if is_killed:
                process.send_signal(signal.SIGKILL)
                process.wait()
            command = [*cleaner_place, sys.executable, "-c", CLEANER, str(kind / "other")]
            subprocess.run(command, check=True, capture_output=True)
            clean_temporaries(kind)
            left = [path for path in kind.iterdir() if TEMPORARY_MARK in path.name]
            if not is_killed and len(left) != 1:
                counts.failures.append(f"{what}: what a living process writes was removed")
            if is_killed and left and writer_place is HOST:
                counts.failures.append(f"{what}: {left[0].name} is left")
            if not is_killed:
                process.communicate("\n")
                if process.returncode or (kind / "entry" / "part").read_text() != "written":
                    counts.failures.append(f"{what}: exit {process.returncode}")
        with only_writer(kind / "entry"):  # whoever writes this entry next
            left = [path for path in kind.iterdir() if TEMPORARY_MARK in path.name]
            counts.failures += [f"{what}: {path.name} is left when the entry is written again" for path in left]
        counts.trials += 1
    return counts


@contextlib.contextmanager
def writing(place: list[str], entry: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write an entry, and ends it when it is told to."""
    command = [*place, sys.executable, "-c", WRITER, str(entry)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        try:
            yield process
        finally:
            process.kill()
