"""Starts the ranks of a training on this machine with torch's elastic launcher, and returns their exit code.

The ranks run the same command without the launcher's options; `torchrun -m gptcli train ...` does the same. The
launcher restarts all ranks when one is lost, or when a machine joins or leaves; they then continue from the run's
newest checkpoint.
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
from gptcli.manifest import usable_cores
from gptcli.parallel.world import FAILURE_NAME, LAUNCH_VARIABLE

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""The signals that the launcher passes on to the ranks: torch's own, and the one that clusters send before the end."""


@dataclass(frozen=True)
class Launch:
    """The processes to start on this machine, and the machines that take part."""

    nproc: int
    nnodes: str = "1"
    """The number of machines, or `LEAST:MOST`."""
    rdzv: str | None = None
    """HOST:PORT of the rendezvous, the same on all machines; None for one machine."""
    max_restarts: int = 3

    def options(self) -> list[str]:
        """Return the options of torch.distributed.run.

        Raises:
            UsageError: there are several machines and no rendezvous.
        """
        options = [f"--nproc-per-node={self.nproc}", f"--max-restarts={self.max_restarts}", "--monitor-interval=0.1"]
        if self.rdzv is None:
            if self.nnodes != "1":
                raise UsageError(f"--nnodes {self.nnodes} needs a rendezvous", "add --rdzv HOST:PORT, the same on all")
            return [*options, "--standalone"]
        rendezvous = ["--rdzv-backend=gptcli", f"--rdzv-endpoint={self.rdzv}", f"--rdzv-id=gptcli-{self.rdzv}"]
        return [*options, f"--nnodes={self.nnodes}", *rendezvous]


def launch(settings: Launch, arguments: Sequence[str]) -> int:
    """Run `gptcli ARGUMENTS` in every rank; return the exit code of the first one that failed, 0 if none did.

    The ranks print their errors themselves; the launcher reports only ranks that were killed.

    Raises:
        UsageError: see `Launch.options`, or the machines did not find each other.
        GptcliError: a rank was killed.
    """
    # torch's launcher logs the end of every rank, which the ranks have reported already.
    logging.disable(logging.ERROR)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from gptcli.parallel.rendezvous import register

    register()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // settings.nproc)))
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", SIGNALS)
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        os.environ[LAUNCH_VARIABLE] = folder
        reason = Path(folder) / FAILURE_NAME
        command = [*settings.options(), "-m", "gptcli", *arguments]
        try:
            options = parse_args(command)
            run(options)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                raise GptcliError(
                    f"rank {rank} (process {failure.pid}) was killed by {name}", "the run goes on with --resume"
                ) from error
            return failure.exitcode
        except SignalException as error:
            return 128 + int(error.sigval)
        return int(json.loads(reason.read_text())["code"]) if reason.exists() else 0


def arguments_of_ranks(arguments: Sequence[str], dropped: Sequence[str]) -> list[str]:
    """Return the arguments without the options `dropped` and their values, as `--name value` or `--name=value`."""
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
