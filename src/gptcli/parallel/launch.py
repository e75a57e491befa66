"""Starts the ranks of a training on this machine, by torch's elastic launcher, and ends as they end.

The ranks run the same command without what is said here; `torchrun -m gptcli train ...` is the same from outside. The
launcher starts all of them anew when one is lost, or when a machine joins or leaves; they then go on from the run's
newest checkpoint. Knows nothing of training.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcli.errors import GptcliError, UsageError
from gptcli.parallel.world import FAILURE_NAME, LAUNCH_VARIABLE

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What the launcher hands on to the ranks: torch's own, and the one with which a cluster foretells the end."""


@dataclass(frozen=True)
class Launch:
    """How many processes to start here, and with which machines they meet."""

    nproc: int
    nnodes: str = "1"
    """Machines, or `LEAST:MOST` of them."""
    rdzv: str | None = None
    """HOST:PORT where the machines meet, the same on all; none: there is one machine."""
    max_restarts: int = 3

    def options(self) -> list[str]:
        """Those of torch.distributed.run.

        Raises:
            UsageError: several machines need a place to meet.
        """
        options = [f"--nproc-per-node={self.nproc}", f"--max-restarts={self.max_restarts}", "--monitor-interval=0.1"]
        if self.rdzv is None:
            if self.nnodes != "1":
                raise UsageError(
                    f"--nnodes {self.nnodes} needs a place to meet", "add --rdzv HOST:PORT, the same on all"
                )
            return [*options, "--standalone"]
        meeting = ["--rdzv-backend=gptcli", f"--rdzv-endpoint={self.rdzv}", f"--rdzv-id=gptcli-{self.rdzv}"]
        return [*options, f"--nnodes={self.nnodes}", *meeting]


def launch(settings: Launch, arguments: Sequence[str]) -> int:
    """Run `gptcli ARGUMENTS` in every rank; returns the exit code of the first one that failed, 0 if none did.

    What went wrong the ranks say themselves; only of those that cannot, as they were killed, the launcher does.

    Raises:
        UsageError: see `Launch.options`, or the machines did not meet.
        GptcliError: a rank was killed.
    """
    # torch's launcher logs every end of a rank in its own words.
    logging.disable(logging.ERROR)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from gptcli.parallel.rendezvous import register

    register()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.nproc)))
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", SIGNALS)
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        os.environ[LAUNCH_VARIABLE] = folder
        word = Path(folder) / FAILURE_NAME
        try:
            run(parse_args([*settings.options(), "-m", "gptcli", *arguments]))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                raise GptcliError(
                    f"rank {rank} (process {failure.pid}) was killed by {name}",
                    "the run goes on with --resume",
                ) from error
            return failure.exitcode
        except SignalException as error:
            return 128 + int(error.sigval)
        return json.loads(word.read_text())["code"] if word.exists() else 0


def arguments_of_ranks(arguments: Sequence[str], dropped: Sequence[str]) -> list[str]:
    """The command's arguments without the options `dropped` and their values, as `--name value` or `--name=value`."""
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument in dropped:
            is_value = True
        elif argument.partition("=")[0] not in dropped:
            kept.append(argument)
    return kept
